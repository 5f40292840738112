"""`${NAME}` and `${NAME:-default}` in a scalar; `$${` is a literal `${`.

An empty variable counts as unset. Messages name variables and never hold a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from config.wording import short

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPENING = re.compile(r"\$?\$\{")


class Interpolated(Struct, frozen=True):
    """`replaced` tells whether a variable or a default went into `text`."""

    text: str
    replaced: bool


def interpolate(text: str, environ: Mapping[str, str]) -> Interpolated:
    """`text` with its variables replaced; raises ValueError for an unset or malformed one."""
    parts: list[str] = []
    replaced = False
    position = 0
    while opening := _OPENING.search(text, position):
        parts.append(text[position : opening.start()])
        if opening[0] == "$${":
            parts.append("${")
            position = opening.end()
            continue
        closing = text.find("}", opening.end())
        if closing < 0:
            raise ValueError("a ${ is not closed: write ${NAME} or ${NAME:-default}, or $${ for a literal ${")
        parts.append(_value(text[opening.end() : closing], environ))
        replaced = True
        position = closing + 1
    parts.append(text[position:])
    return Interpolated("".join(parts), replaced)


def _value(inside: str, environ: Mapping[str, str]) -> str:
    name, has_default, default = inside.partition(":-")
    if _NAME.fullmatch(name) is None:
        raise ValueError("what stands in ${…} is no variable: write ${NAME} or ${NAME:-default}")
    if "${" in default:
        raise ValueError(f"the default of ${{{short(name)}}} holds another ${{: write plain text there")
    value = environ.get(name, "")
    if value:
        return value
    if not has_default:
        shown = short(name)
        raise ValueError(f"{shown} is not set: set it, or give a default: ${{{shown}:-…}}")
    return default
