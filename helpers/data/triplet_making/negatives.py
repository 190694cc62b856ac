"""Negatives drawn for millions of anchors at once: uniform, seeded, never a positive of the anchor by value.

Texts are compared by a 64-bit hash. Equal texts have equal hashes, so no equal text ever slips through; two different
texts with one hash only make each other ineligible (among the five columns of a million rows, five million texts, there
are any such two with a chance of 1 in 1.5 million).
"""

from dataclasses import dataclass

import numpy as np

ROUNDS = 32
"""Vectorised redraws before the few anchors that are left get an exact draw each."""
NONE, UNWANTED = -1, -2
"""A slot that is still to be filled, and one that is to stay empty."""
MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Values:
    """The texts of N rows as numbers: C columns of positives, then the column of anchors.

    ids      (N, C + 1) uint64, the hash of each text
    present  (N, C + 1) bool, False where the cell is empty
    """

    ids: np.ndarray
    present: np.ndarray

    @property
    def anchors(self) -> np.ndarray:
        """(N,) uint64, the hash of each row's anchor."""
        return self.ids[:, -1]

    @property
    def positives(self) -> range:
        """The numbers of the columns that hold positives."""
        return range(self.ids.shape[1] - 1)


class Forbidden:
    """Which texts may not be a negative of which anchor: the anchor itself, every positive of a row that has it."""

    def __init__(self, values: Values) -> None:
        self._values = values
        _, first, counts = np.unique(values.anchors, return_index=True, return_counts=True)
        self._repeated = np.ones(len(values.anchors), dtype=bool)
        self._repeated[first[counts == 1]] = False
        rows = np.flatnonzero(self._repeated)
        pairs = [
            _pair(values.anchors[rows], values.ids[rows, column])[values.present[rows, column]]
            for column in values.positives
        ]
        self._pairs = np.unique(np.concatenate([*pairs, np.empty(0, dtype=np.uint64)]))

    def __call__(self, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(n,) row numbers, (n,) hashes of texts -> (n,) bool, True where the text is forbidden to the row's anchor."""
        values = self._values
        bad = candidates == values.anchors[rows]
        for column in values.positives:
            bad |= (values.ids[rows, column] == candidates) & values.present[rows, column]
        if len(self._pairs):
            again = np.flatnonzero(self._repeated[rows] & ~bad)
            wanted = _pair(values.anchors[rows[again]], candidates[again])
            places = np.minimum(np.searchsorted(self._pairs, wanted), len(self._pairs) - 1)
            bad[again] = self._pairs[places] == wanted
        return bad


class Pools:
    """The texts of one column by group: each distinct text once, in the order of the file."""

    def __init__(self, values: Values, column: int, groups: np.ndarray, order: np.ndarray) -> None:
        keys = _pair(groups.astype(np.uint64), values.ids[:, column])
        rows = order[(values.present[:, column] & (groups >= 0))[order]]
        _, first = np.unique(keys[rows], return_index=True)
        first.sort()
        self.rows = rows[first]
        self.sizes = np.bincount(groups[self.rows], minlength=int(groups.max(initial=0)) + 1)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def of(self, group: int) -> np.ndarray:
        """The row numbers that supply the texts of one group."""
        return self.rows[self.starts[group] : self.starts[group] + self.sizes[group]]


def draw_negatives(
    values: Values, slots: list[int], groups: np.ndarray, rng: np.random.Generator, chosen: np.ndarray | None = None
) -> np.ndarray:
    """For each row and slot a row that supplies a negative: (N, len(slots)) int64, -1 where the group has none left.

    ``slots`` names the column of each slot (the last one: anchors); ``groups`` (N,) int64 says from where a row may
    draw (-1: from nowhere). Every draw is uniform over the group's distinct texts of that column, less those forbidden
    to the anchor and those drawn for the row before. Where a slot then has none left, slots of its row exchange theirs
    until as many are filled as can be. What ``chosen`` has filled stays filled, what it marks ``UNWANTED`` stays empty.
    """
    chosen = np.full((len(groups), len(slots)), NONE, dtype=np.int64) if chosen is None else chosen.copy()
    forbidden = Forbidden(values)
    order = np.argsort(groups, kind="stable")
    pools = {column: Pools(values, column, groups, order) for column in set(slots)}
    blocked = []
    for slot, column in enumerate(slots):
        pool = pools[column]
        sizes = np.where(groups >= 0, pool.sizes[groups], 0)
        waiting = np.flatnonzero((chosen[:, slot] == NONE) & (sizes > 0))
        for _ in range(ROUNDS):
            if len(waiting) == 0:
                break
            places = (rng.random(len(waiting)) * sizes[waiting]).astype(np.int64)
            rows = pool.rows[pool.starts[groups[waiting]] + places]
            ids = values.ids[rows, column]
            good = ~(forbidden(waiting, ids) | _drawn_before(values, slots, chosen, waiting, slot, ids))
            chosen[waiting[good], slot] = rows[good]
            waiting = waiting[~good]
        blocked += _finish(values, slots, chosen, waiting, slot, pool, groups, forbidden, rng)
    for row in dict.fromkeys(blocked if len(pools) > 1 else ()):  # within one column there is nothing to exchange
        options = {column: _allowed(values, row, column, pools[column].of(groups[row]), forbidden) for column in pools}
        _exchange(values, slots, chosen[row], options, rng)
    return chosen


def _drawn_before(
    values: Values, slots: list[int], chosen: np.ndarray, rows: np.ndarray, slot: int, ids: np.ndarray
) -> np.ndarray:
    """(n,) bool: the text with this hash already is a negative of the row, in another slot."""
    same = np.zeros(len(rows), dtype=bool)
    for other, column in enumerate(slots):
        if other != slot:
            source = chosen[rows, other]
            filled = source >= 0
            same[filled] |= values.ids[source[filled], column] == ids[filled]
    return same


def _finish(
    values: Values,
    slots: list[int],
    chosen: np.ndarray,
    waiting: np.ndarray,
    slot: int,
    pool: Pools,
    groups: np.ndarray,
    forbidden: Forbidden,
    rng: np.random.Generator,
) -> list[int]:
    """Exact draws, row by row, for what the rounds left over; what is allowed is listed once per (group, anchor).

    Returns the rows whose other slots hold all that is allowed here.
    """
    blocked = []
    allowed: dict[tuple[int, int], np.ndarray] = {}
    for row in waiting.tolist():
        key = (int(groups[row]), int(values.anchors[row]))
        if key not in allowed:
            allowed[key] = _allowed(values, row, slots[slot], pool.of(key[0]), forbidden)
        left = allowed[key]
        for other, column in enumerate(slots):
            if other != slot and chosen[row, other] >= 0:
                drawn = values.ids[chosen[row, other], column]
                left = left[values.ids[left, slots[slot]] != drawn]
        if len(left):
            chosen[row, slot] = left[rng.integers(len(left))]
        elif len(allowed[key]):
            blocked.append(row)
    return blocked


def _allowed(values: Values, row: int, column: int, members: np.ndarray, forbidden: Forbidden) -> np.ndarray:
    """Those of ``members`` (row numbers) that supply a text of the column which the row's anchor may have."""
    return members[~forbidden(np.full(len(members), row), values.ids[members, column])]


def _exchange(
    values: Values, slots: list[int], chosen: np.ndarray, options: dict[int, np.ndarray], rng: np.random.Generator
) -> None:
    """Fill as many empty slots of one row as can be (augmenting paths, Kuhn 1955), in place.

    A slot with nothing left takes the text of another one that can do with a different text, and so on.
    ``chosen`` (S,); ``options``: for each column the rows that supply its texts.
    """
    holder = {
        values.ids[source, column]: slot
        for slot, (source, column) in enumerate(zip(chosen, slots, strict=True))
        if source >= 0
    }

    def fill(slot: int, tried: set[int]) -> bool:
        for source in rng.permutation(options[slots[slot]]):
            text = values.ids[source, slots[slot]]
            if text in tried:
                continue
            tried.add(text)
            if text not in holder or fill(holder[text], tried):
                holder[text], chosen[slot] = slot, source
                return True
        return False

    for slot in np.flatnonzero(chosen == NONE):
        fill(int(slot), set())


def _pair(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One number for two, (n,) uint64 each: equal pairs give equal numbers."""
    with np.errstate(over="ignore"):
        mixed = (first ^ (first >> np.uint64(29))) * MIX
        return (mixed ^ (mixed >> np.uint64(32))) + second * np.uint64(0xBF58476D1CE4E5B9)
