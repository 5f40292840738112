"""How long a provider asks to be left alone.

Sources: RFC 9110, section 10.2.3 (`Retry-After`: seconds or a date); OpenAI's SDKs for `retry-after-ms`.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from multidict import CIMultiDict

RETRY_AFTER_MAX_S = 60.0
"""How long is worth waiting for, where a route does not say: beyond it, a limit is no burst."""


def asked_to_wait(headers: CIMultiDict[str]) -> float | None:
    """Seconds, None when nothing is asked or what is asked cannot be read."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    asked = headers.get("Retry-After")
    if asked is None:
        return None
    if (seconds := _number(asked)) is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
