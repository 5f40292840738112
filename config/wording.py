"""How names and values of a table stand in a message: never a secret, never raw, never long.

Redaction comes first: what `repr` escapes or what is cut off is no longer recognised as a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from config.secrets import REDACTED, redact

_SHOWN = 80
_LISTED = 10
# The user and the password of a URL; greedy, since a password may hold an @ or a slash.
_USER = re.compile(r"(?<=//).*@", re.DOTALL)


def short(text: str) -> str:
    """`text` without secrets, cut to about 80 characters."""
    clean = redact(_USER.sub(f"{REDACTED}@", text))
    return clean if len(clean) <= _SHOWN else clean[:_SHOWN] + "…"


def quoted(text: str) -> str:
    """As `short`, in quotes, with control characters escaped."""
    return repr(short(text))


def visible(text: str) -> str:
    """`text` in one line, with what a terminal would act on escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def listed(names: Iterable[str]) -> str:
    """`'a', 'b', 'c'`: the first ten names, and how many there are besides."""
    every = list(names)
    shown = ", ".join(map(quoted, every[:_LISTED]))
    return shown if len(every) <= _LISTED else f"{shown} and {len(every) - _LISTED} more"
