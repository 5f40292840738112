"""What was measured, with its spread; the table for a person, and the file for a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median, quantiles
from typing import Any

_WIDTH = 100


@dataclass(frozen=True)
class Figure:
    """`samples` of one thing, in `unit`. `at` is its place in a series: how many streams, how many bytes.

    A ratio's samples are each of two measurements that were taken one after the other.
    """

    section: str
    what: str
    subject: str
    unit: str
    samples: tuple[float, ...]
    at: float | None = None

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance of the quartiles, as a part of the median."""
        if len(self.samples) < 2 or self.median == 0:
            return 0.0
        low, _, high = quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / 2 / abs(self.median)


@dataclass(frozen=True)
class Aim:
    """What a figure is to be: at most `limit`, or at least, in the figure's unit."""

    text: str
    figure: Figure
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        value = self.figure.median
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass
class Findings:
    """All of one run."""

    figures: list[Figure] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        section: str,
        what: str,
        subject: str,
        unit: str,
        samples: Iterable[float],
        at: float | None = None,
    ) -> Figure:
        figure = Figure(section, what, subject, unit, tuple(samples), at)
        self.figures.append(figure)
        return figure

    def ratio(self, of: Figure, to: Figure) -> Figure:
        """How much of `to` it is, sample by sample: what both have of a busy machine cancels out."""
        samples = tuple(one / other for one, other in zip(of.samples, to.samples, strict=True))
        figure = Figure(of.section, of.what, f"{of.subject} / {to.subject}", "", samples, of.at)
        self.figures.append(figure)
        return figure

    def aim(self, text: str, figure: Figure, limit: float, *, at_least: bool = False) -> None:
        self.aims.append(Aim(text, figure, limit, at_least))

    def find(self, section: str, what: str, subject: str) -> list[Figure]:
        """In the order in which they were measured."""
        wanted = (section, what, subject)
        return [one for one in self.figures if (one.section, one.what, one.subject) == wanted]

    def as_data(self, about: dict[str, Any]) -> dict[str, Any]:
        return {
            "about": about,
            "aims": [
                {
                    "text": aim.text,
                    "value": aim.figure.median,
                    "limit": aim.limit,
                    "at_least": aim.at_least,
                    "met": aim.met,
                }
                for aim in self.aims
            ],
            "figures": [{**asdict(one), "median": one.median, "spread": one.spread} for one in self.figures],
            "notes": self.notes,
        }


def shown(value: float) -> str:
    """Three digits that count."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(findings: Findings) -> str:
    """At most 100 columns."""
    lines: list[str] = []
    sections: dict[str, dict[str, list[Figure]]] = {}
    for figure in findings.figures:
        sections.setdefault(figure.section, {}).setdefault(figure.what, []).append(figure)
    for section, groups in sections.items():
        lines += ["", section.upper()]
        for what, figures in groups.items():
            lines += [f"  {what}", *(_row(figure) for figure in figures)]
    if findings.aims:
        lines += ["", "AIMS"]
        lines += [_judged(aim) for aim in findings.aims]
    lines += ["", *findings.notes] if findings.notes else []
    return "\n".join(line[:_WIDTH] for line in lines)


def _row(figure: Figure) -> str:
    at = "" if figure.at is None else f"{figure.at:,.0f}"
    samples = f"n={len(figure.samples)}"
    digits = 0 if figure.spread >= 1 else 1
    spread = f"±{figure.spread:.{digits}%}" if len(figure.samples) > 1 else ""
    return (
        f"    {figure.subject:<34}{at:>12}{shown(figure.median):>12} {figure.unit:<10}{spread:>8}  {samples}"
    )


def _judged(aim: Aim) -> str:
    bound = "at least" if aim.at_least else "at most"
    verdict = "met" if aim.met else "MISSED"
    return f"  {verdict:<8}{aim.text:<58}{shown(aim.figure.median):>9}  {bound} {shown(aim.limit)}"


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of `values` that `part` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
