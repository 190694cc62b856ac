"""How rows become batches and texts become chunks: no text twice in a batch, no padding that can be helped."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch

from helpers.course.errors import InputError


def plan_chunks(lengths: Sequence[int], token_budget: int, chunk_cost: int | None = None) -> list[list[int]]:
    """Indices of texts, longest first, in chunks whose padded size (texts x longest of the chunk) fits `token_budget`.

    Texts of all sides go in together (queries, documents, negatives): sorted by length they need hardly any padding.

    chunk_cost  what one more chunk costs beside its positions, in positions: the cheapest cuts are then found, which
                leave chunks half full where that saves padding. None: every chunk is filled

    Raises InputError when one text alone is longer than the budget.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])  # stable: equal lengths keep their order
    if order and lengths[order[0]] > token_budget:
        raise InputError(
            "the token budget of a chunk is smaller than the longest text",
            place=f"text {order[0]}",
            given=f"{lengths[order[0]]} tokens, token_budget {token_budget}",
            allowed=f"token_budget of at least {lengths[order[0]]}",
            hint="raise it (the lessons' setting is chunk_tokens), or cut texts with a smaller max_length",
        )
    if chunk_cost is not None:
        cuts = _cheapest_cuts([lengths[i] for i in order], token_budget, chunk_cost)
        return [order[first:last] for first, last in pairwise(cuts)]
    chunks: list[list[int]] = []
    for i in order:
        if not chunks or (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] > token_budget:
            chunks.append([])
        chunks[-1].append(i)
    return chunks


def _cheapest_cuts(lengths: Sequence[int], token_budget: int, chunk_cost: int) -> list[int]:
    """Where to cut lengths in falling order, 0 and their number included, so that positions and chunks cost least."""
    cheapest = np.zeros(len(lengths) + 1)  # of all texts from number i on
    following = np.zeros(len(lengths) + 1, dtype=int)
    for i in range(len(lengths) - 1, -1, -1):
        most = min(len(lengths) - i, token_budget // max(1, lengths[i]))
        costs = cheapest[i + 1 : i + most + 1] + lengths[i] * np.arange(1, most + 1)
        following[i] = i + 1 + costs.argmin()
        cheapest[i] = costs.min() + chunk_cost
    cuts = [0]
    while cuts[-1] < len(lengths):
        cuts.append(int(following[cuts[-1]]))
    return cuts


def padding_share(lengths: Sequence[int], chunks: Sequence[Sequence[int]]) -> float:
    """Share of the positions in these chunks that hold padding, 0 to 1."""
    padded = sum(len(chunk) * max(lengths[i] for i in chunk) for chunk in chunks)
    return 1 - sum(lengths) / padded if padded else 0.0


class DistinctBatches:
    """Batches of row numbers in which no key occurs twice; iterating draws the next epoch.

    keys        for each row the texts (or ids) that make it clash with another row, such as its query and its document
    batch_size  rows a batch, at least 2: with one row alone there is nothing to tell it from
    groups      for each row what it is about (a statute, a category, a cluster); None: nothing is known
    group_size  rows of one group that stand together: their documents are hard negatives of each other's queries

    Rows (or runs of `group_size` rows of a group) are shuffled by `seed` and the epoch's number, then laid out greedily: a
    row that clashes with the open batch waits for the next one. Every batch is full; the rows that are left at the end
    (`left_over`) sit out this epoch.
    """

    def __init__(
        self,
        keys: Sequence[Sequence[Hashable]],
        batch_size: int,
        seed: int = 13,
        *,
        groups: Sequence[Hashable] | None = None,
        group_size: int = 1,
    ) -> None:
        if batch_size < 2:
            raise InputError(
                "a batch needs at least two rows: the others are a row's negatives",
                place="batch_size",
                given=batch_size,
                allowed="2 or more",
            )
        if len(keys) < batch_size:
            raise InputError(
                "there are fewer rows than one batch holds",
                place="batch_size",
                given=f"{batch_size}, with {len(keys)} rows",
                allowed=f"at most {len(keys)}",
            )
        if groups is not None and len(groups) != len(keys):
            raise InputError("rows and groups differ in number", given=f"{len(keys)} and {len(groups)}")
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self._groups, self._group_size = groups, group_size
        self.drop_last = True  # what accelerate asks of a batch sampler when it deals batches out to processes
        self.left_over: list[int] = []
        self._drawn: tuple[int, list[list[int]]] | None = None
        self._keys = [tuple(dict.fromkeys(row)) for row in keys]
        if not self.draw(0):
            raise InputError(
                "no batch of rows that share no text can be made",
                place="batch_size",
                given=batch_size,
                hint=f"there are {len(keys):,} rows, and rows with the same query or document stay apart: use a smaller batch",
            )

    def draw(self, epoch: int) -> list[list[int]]:
        """The batches of one epoch; the same epoch gives the same batches. The epoch drawn last is remembered."""
        if self._drawn is None or self._drawn[0] != epoch:
            waiting = deque(self._order(torch.Generator().manual_seed(self.seed * 100_003 + epoch)))
            batches = []
            while batch := self._next(waiting):
                batches.append(batch)
            self._drawn, self.left_over = (epoch, batches), sorted(waiting)
        return self._drawn[1]

    def _next(self, waiting: deque[int]) -> list[int]:
        """Take the next batch out of the rows that wait; empty, and no row taken, where no full one can be made."""
        batch, seen, clashing = [], set(), []
        while waiting and len(batch) < self.batch_size:
            row = waiting.popleft()
            if seen.isdisjoint(self._keys[row]):
                batch.append(row)
                seen.update(self._keys[row])
            else:
                clashing.append(row)
        waiting.extendleft(reversed(clashing))  # the next batch begins with them
        if len(batch) < self.batch_size:
            waiting.extend(batch)
            return []
        return batch

    def _order(self, generator: torch.Generator) -> list[int]:
        """All rows in random order; with groups, runs of one group's rows in random order."""
        order = torch.randperm(len(self._keys), generator=generator).tolist()
        if self._groups is None or self._group_size == 1:
            return order
        members: dict[Hashable, list[int]] = defaultdict(list)
        for row in order:
            members[self._groups[row]].append(row)
        runs = [
            rows[i : i + self._group_size] for rows in members.values() for i in range(0, len(rows), self._group_size)
        ]
        return [row for run in torch.randperm(len(runs), generator=generator).tolist() for row in runs[run]]

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration draws (the Trainer calls this, so that a resumed run sees the same batches)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.draw(self.epoch))

    def __iter__(self) -> Iterator[list[int]]:
        batches = self.draw(self.epoch)
        self.epoch += 1
        return iter(batches)
