"""The figures as a picture: SVG, written here, since a few lines and bars need no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from xml.sax.saxutils import escape

from tests.bench.figures import Figure, Findings, shown

_WIDTH, _HEIGHT = 500, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 108, 34, 30
_COLUMNS = 2
_THICKEST = 22
_LINE = 13
_COLOURS = ("#1668a8", "#c4532b", "#3c8d40", "#7a4ea3", "#8a7420")
_TEXT = 'font-family="sans-serif" font-size="11"'


def drawn(findings: Findings) -> str:
    """A series as lines, several subjects as bars; what stands alone has nothing to be compared with."""
    panels = [_panel(figures) for _, figures in _grouped(findings) if len(figures) > 1]
    rows = math.ceil(len(panels) / _COLUMNS)
    width, height = _COLUMNS * _WIDTH, rows * _HEIGHT
    body = "\n".join(
        f'<g transform="translate({number % _COLUMNS * _WIDTH},{number // _COLUMNS * _HEIGHT})">{panel}</g>'
        for number, panel in enumerate(panels)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}">\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _grouped(findings: Findings) -> list[tuple[tuple[str, str], list[Figure]]]:
    measured = [figure for figure in findings.figures if figure.unit]
    ordered = sorted(measured, key=lambda one: (one.section, one.what))
    return [(key, list(group)) for key, group in groupby(ordered, key=lambda one: (one.section, one.what))]


def _panel(figures: Sequence[Figure]) -> str:
    series: dict[str, list[Figure]] = {}
    for figure in figures:
        series.setdefault(figure.subject, []).append(figure)
    title = f"{figures[0].section}: {figures[0].what} ({figures[0].unit})"
    heading = f'<text x="8" y="18" {_TEXT} font-weight="bold">{escape(title)}</text>'
    return heading + (_lines(series) if any(len(one) > 1 for one in series.values()) else _bars(figures))


def _bars(figures: Sequence[Figure]) -> str:
    most = max(figure.median for figure in figures) or 1.0
    step = min(_THICKEST, (_HEIGHT - _TOP - _BOTTOM) / len(figures))
    label, room = 110, _WIDTH - 110 - 80
    parts = []
    for number, figure in enumerate(figures):
        y, length = _TOP + number * step, max(1.0, figure.median / most * room)
        colour = _COLOURS[number % len(_COLOURS)]
        middle = y + step / 2 + 4
        parts.append(
            f'<text x="{label - 6}" y="{middle:.1f}" {_TEXT} text-anchor="end">'
            f"{escape(figure.subject)}</text>"
            f'<rect x="{label}" y="{y + 2:.1f}" width="{length:.1f}" height="{max(2, step - 6):.1f}" '
            f'fill="{colour}"/>'
            f'<text x="{label + length + 5:.1f}" y="{middle:.1f}" {_TEXT}>{shown(figure.median)} '
            f"±{figure.spread:.0%}</text>"
        )
    return "".join(parts)


def _lines(series: dict[str, list[Figure]]) -> str:
    """Both axes are logarithmic."""
    every = [figure for line in series.values() for figure in line]
    across = _Axis([figure.at or 1.0 for figure in every], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([figure.median for figure in every], _HEIGHT - _BOTTOM, _TOP)
    width, height = _WIDTH - _RIGHT - _LEFT, _HEIGHT - _TOP - _BOTTOM
    frame = f'<rect x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}" fill="none" stroke="#999"/>'
    parts, named = [frame], list[float]()
    for at in sorted({figure.at or 1.0 for figure in every}):
        parts.append(
            f'<text x="{across(at):.1f}" y="{_HEIGHT - 12}" {_TEXT} text-anchor="middle">{_short(at)}</text>'
        )
    for value in (up.low, up.high):
        parts.append(
            f'<text x="{_LEFT - 5}" y="{up(value) + 4:.1f}" {_TEXT} text-anchor="end">{shown(value)}</text>'
        )
    for number, (subject, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [(across(figure.at or 1.0), up(figure.median)) for figure in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        while any(abs(y - other) < _LINE for other in named):
            y += _LINE
        named.append(y)
        parts.append(
            f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" {_TEXT} fill="{colour}">{escape(subject)}</text>'
        )
    return "".join(parts)


class _Axis:
    """Where a value stands between two places."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self.low, self.high = min(positive), max(positive)
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        if self.low == self.high:
            return (self._begin + self._end) / 2
        part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return self._begin + part * (self._end - self._begin)


def _short(value: float) -> str:
    """1k for 1024, and 4k for 4000, too."""
    for size, name in ((1024**2, "M"), (1000, "k")):
        if value >= size:
            return f"{round(value / (size if name == 'M' else 1024 if value % 1024 == 0 else 1000))}{name}"
    return f"{value:g}"
