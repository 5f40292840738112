"""Globs of model names: `*` stands for anything, slashes too, and `?` for one character.

Matching one name is for every request, and never slow. Whether others leave anything to a glob is for
`check`: a search through what all of them could have read so far, which a budget bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

LONGEST = 512
"""Characters of the longest name that globs are tried on."""

# What a state of the search is: for each glob, the places in it that the name so far may have led to.
_Places = tuple[frozenset[int], ...]


class Budget:
    """Steps that searches may take together, about a million a second; past them no answer is worth it."""

    def __init__(self, steps: int = 500_000) -> None:
        self.left = steps

    @property
    def is_spent(self) -> bool:
        """Whether there is no use in asking any more."""
        return self.left <= 0

    def spend(self, steps: int) -> None:
        """Raises TimeoutError when there are not so many left."""
        self.left -= steps
        if self.left < 0:
            raise TimeoutError


def is_glob(claim: str) -> bool:
    """Whether it is more than one name."""
    return any(sign in claim for sign in "*?")


def matches(glob: str, name: str) -> bool:
    """Whether `glob` is `name`.

    Goes back to the last star only, which is enough, so that no name can make it slow.
    """
    g = n = 0
    star, resume = -1, 0
    while n < len(name):
        if g < len(glob) and glob[g] == "*":
            star, resume = g, n
            g += 1
        elif g < len(glob) and glob[g] in ("?", name[n]):
            g += 1
            n += 1
        elif star >= 0:
            resume += 1
            g, n = star + 1, resume
        else:
            return False
    return not glob[g:].strip("*")


def name_left(glob: str, others: Iterable[str], budget: Budget) -> str | None:
    """The shortest name that `glob` is and none of `others` is; None if there is none.

    Only names that globs are tried on count. Of all characters that stand in no glob one is enough.
    Raises TimeoutError when the budget is spent before that is known.
    """
    globs = [glob, *others]
    letters = sorted({letter for each in globs for letter in each} - {"*", "?"})
    letters.append(_another(letters))
    budget.spend(len(letters) + len(globs))
    begin = tuple(_with_stars(each, {0}) for each in globs)
    seen = {begin}
    waiting = deque([(begin, "")])
    while waiting:
        places, name = waiting.popleft()
        mine, *theirs = (len(each) in at for each, at in zip(globs, places, strict=True))
        if mine and not any(theirs):
            return name
        if len(name) == LONGEST:
            return None
        for letter in letters:
            budget.spend(sum(map(len, places)))
            after = tuple(_step(each, at, letter) for each, at in zip(globs, places, strict=True))
            if after not in seen and after[0] and not _all_taken(globs, after):
                seen.add(after)
                waiting.append((after, name + letter))
    return None


def _another(letters: Sequence[str]) -> str:
    return next(chr(code) for code in range(ord("a"), 0x110000) if chr(code) not in letters)


def _with_stars(glob: str, places: set[int]) -> frozenset[int]:
    """A star may stand for nothing: where one begins, what follows it does as well."""
    waiting, reached = list(places), set(places)
    while waiting:
        place = waiting.pop()
        if glob[place : place + 1] == "*" and place + 1 not in reached:
            reached.add(place + 1)
            waiting.append(place + 1)
    return frozenset(reached)


def _step(glob: str, places: frozenset[int], letter: str) -> frozenset[int]:
    after: set[int] = set()
    for place in places:
        if place < len(glob) and glob[place] == "*":
            after.add(place)
        elif place < len(glob) and glob[place] in ("?", letter):
            after.add(place + 1)
    return _with_stars(glob, after)


def _all_taken(globs: Sequence[str], places: _Places) -> bool:
    """Has another come to a star at its end, and so takes whatever else may follow?"""
    return any(
        len(other) in at and other[-1:] == "*" and len(other) - 1 in at
        for other, at in zip(globs[1:], places[1:], strict=True)
    )
