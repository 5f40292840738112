"""What a misspelt name may have meant. Pure; bounded, since names come from clients too."""

from __future__ import annotations

from collections.abc import Iterable

from config.wording import quoted

_MAX_LENGTH = 200
_NEAR_MISS_LENGTH = 4


def distance(left: str, right: str) -> int:
    """Edits between two names: insert, delete, replace, swap of neighbours (Damerau-Levenshtein)."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def near_names(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """Up to `n` candidates that `name` may have meant, the nearest first; case counts for nothing."""
    if not name or len(name) > _MAX_LENGTH:
        return []
    folded = name.casefold()
    # One edit in three letters: between shorter names any would do.
    allowed = len(name) // 3
    scored = [
        (score, candidate)
        for candidate in dict.fromkeys(candidates)
        if candidate != name
        and abs(len(candidate) - len(name)) <= allowed
        and (score := distance(folded, candidate.casefold())) <= allowed
    ]
    return [candidate for _, candidate in sorted(scored)[:n]]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` most likely meant, or None when nothing is near."""
    found = near_names(name, candidates, 1)
    return found[0] if found else None


def is_near_miss(name: str, routes: Iterable[str]) -> bool:
    """Is `name` a slip for one of `routes`: another case, or one edit between names of 4 or more?"""
    return any(_is_slip(name, route) for route in routes)


def _is_slip(name: str, route: str) -> bool:
    if name == route or abs(len(name) - len(route)) > 1:
        return False
    if name.casefold() == route.casefold():
        return True
    return min(len(name), len(route)) >= _NEAR_MISS_LENGTH and distance(name, route) == 1


def hint(name: str, candidates: Iterable[str]) -> str:
    """`, did you mean 'X'?`, or nothing: the tail of a message about an unknown name."""
    found = nearest(name, candidates)
    return f", did you mean {quoted(found)}?" if found else ""
