"""What rows of token ids begin with in common: all of them (the question), or a few (three hypotheses of one premise)."""

from collections.abc import Sequence
from itertools import pairwise

WORTH = 8
"""Tokens. Reading a shorter beginning on its own costs about as much as it saves."""
LIKE = 0.75
"""A row joins a family only if that leaves it this share of its common beginning."""


def shared_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with, leaving each row at least one id of its own."""
    if not rows:
        return 0
    shared = min(map(len, rows)) - 1
    for first, second in pairwise(rows):
        shared = min(shared, _common(first, second))
    return max(shared, 0)


def families(rows: Sequence[Sequence[int]]) -> tuple[list[tuple[list[int], int]], list[int]]:
    """Families of rows that begin alike, each (row numbers, length of the common beginning), and the rows without one.

    Every row is in one family or alone. A common beginning has at least ``WORTH`` ids and leaves each row one of its own.
    """
    order = sorted(range(len(rows)), key=lambda row: rows[row])  # rows that begin alike become neighbours
    found: list[tuple[list[int], int]] = []
    for row in order:
        if found:
            members, length = found[-1]
            common = min(length, _common(rows[members[-1]], rows[row]), len(rows[row]) - 1)
            if common >= max(WORTH, LIKE * length if len(members) > 1 else 0):
                found[-1] = ([*members, row], common)
                continue
        found.append(([row], len(rows[row]) - 1))
    alone = [members[0] for members, _ in found if len(members) == 1]
    return [family for family in found if len(family[0]) > 1], alone


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
