"""Middlewares that others have made: found by `package.module:Name`, or by the name they registered.

One is a class, made once for each place in a table, with its options and `Deps`; calling it is an
exchange's way through it. Its options are the msgspec struct `Options` in it. Importing runs its
code, when a table that names it is loaded and not before.
"""

from __future__ import annotations

import importlib
import inspect
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from msgspec import Struct

from config.catalog import Unusable, foreign
from config.wording import listed, quoted

GROUP = "tidegate.middlewares"
"""The entry-point group in which a distribution registers its middlewares."""

_NAME = re.compile(r"[\w.]+:\w+")


class NoOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Of a middleware that has none."""


def registered_names() -> tuple[str, ...]:
    """The names that installed distributions have registered."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def find(name: str) -> Any:
    """The class. Raises Unusable."""
    with foreign(name):
        made = _imported(name) if ":" in name else _registered(name)
    if not inspect.isclass(made) or not inspect.iscoroutinefunction(getattr(made, "__call__", None)):  # noqa: B004
        raise Unusable(
            f"middleware {quoted(name)} is no class with async def __call__(self, exchange, call_next)"
        )
    return made


def options_of(name: str) -> type[Struct]:
    """What its options are read as. Raises Unusable."""
    options = getattr(find(name), "Options", NoOptions)
    if not inspect.isclass(options) or not issubclass(options, Struct):
        raise Unusable(f"middleware {quoted(name)}: its Options are no msgspec.Struct")
    return options


def _imported(name: str) -> Any:
    if _NAME.fullmatch(name) is None:
        raise Unusable(f"middleware {quoted(name)} is not package.module:Name")
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise Unusable(
            f"middleware {quoted(name)}: there is no module {quoted(error.name)} here: install it into "
            "tidegate's environment"
        ) from None
    if not hasattr(found, attribute):
        raise Unusable(f"middleware {quoted(name)}: the module {quoted(module)} has no {quoted(attribute)}")
    return getattr(found, attribute)


def _registered(name: str) -> Any:
    points: set[EntryPoint] = set(entry_points(group=GROUP, name=name))
    values = sorted({point.value for point in points})
    if len(values) > 1:
        raise Unusable(
            f"middleware {quoted(name)} is registered more than once: write one of {listed(values)}"
        )
    return points.pop().load()
