"""Chunks fit their budget; no text stands twice in a batch."""

import time
from itertools import pairwise, product

import pytest
import torch

from helpers.course.errors import InputError
from helpers.embedding.batching import DistinctBatches, padding_share, plan_chunks

LENGTHS = [5, 30, 7, 7, 1, 12, 30, 2, 9]


def test_chunks_hold_every_text_once_within_the_budget():
    chunks = plan_chunks(LENGTHS, 32)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(len(LENGTHS)))
    assert all(len(chunk) * max(LENGTHS[i] for i in chunk) <= 32 for chunk in chunks)
    assert len(chunks) < len(LENGTHS)
    unsorted = [[i, i + 1] for i in range(0, 8, 2)] + [[8]]
    assert padding_share(LENGTHS, chunks) < padding_share(LENGTHS, unsorted) / 2


def test_the_cheapest_cuts_cost_least_of_all():
    def cost(chunks):
        return sum(len(chunk) * max(LENGTHS[i] for i in chunk) + 4 for chunk in chunks)

    order = [i for chunk in plan_chunks(LENGTHS, 32) for i in chunk]
    found = []
    for places in product([False, True], repeat=len(order) - 1):  # every way to cut them
        cuts = [0, *(i + 1 for i, cut in enumerate(places) if cut), len(order)]
        chunks = [order[a:b] for a, b in pairwise(cuts)]
        if all(len(chunk) * LENGTHS[chunk[0]] <= 32 for chunk in chunks):
            found.append(cost(chunks))
    given = plan_chunks(LENGTHS, 32, chunk_cost=4)
    assert cost(given) == min(found) < cost(plan_chunks(LENGTHS, 32)) and [i for chunk in given for i in chunk] == order
    assert plan_chunks([], 32, 4) == [] and len(plan_chunks([3] * 20, 32, 4)) == 2
    assert len(plan_chunks(LENGTHS, 99, 10**6)) == len(plan_chunks(LENGTHS, 99)) == 2


def test_a_budget_smaller_than_the_longest_text_is_refused():
    with pytest.raises(InputError, match=r"(?s)30 tokens, token_budget 29.*chunk_tokens"):
        plan_chunks(LENGTHS, 29)


def rows():
    return [(f"q{i // 2}", f"d{i % 37}") for i in range(90)]  # each query twice, documents up to three times


def test_no_key_twice_in_a_batch_and_every_row_at_most_once():
    batches = DistinctBatches(rows(), 16, seed=3)
    drawn = batches.draw(0)
    for batch in drawn:
        keys = [key for row in batch for key in rows()[row]]
        assert len(batch) == 16 and len(keys) == len(set(keys))
    everything = [row for batch in drawn for row in batch] + batches.left_over
    assert sorted(everything) == list(range(90))
    plain = [list(range(i, i + 16)) for i in range(0, 80, 16)]  # the check above can fail
    assert any(len({rows()[row][0] for row in batch}) < 16 for batch in plain)


def test_epochs_differ_and_repeat():
    batches = DistinctBatches(rows(), 16, seed=3)
    first, second = list(batches), list(batches)
    assert first != second
    batches.set_epoch(0)
    assert list(batches) == first and len(batches) == len(second)


def test_rows_of_a_group_stand_together():
    keys, groups = [(f"q{i}", f"d{i}") for i in range(90)], [i % 3 for i in range(90)]

    def neighbours(**how):
        batches = DistinctBatches(keys, 20, seed=3, **how)
        drawn = batches.draw(0)
        assert sorted([row for batch in drawn for row in batch] + batches.left_over) == list(range(90))
        return sum(groups[a] == groups[b] for batch in drawn for a, b in pairwise(batch))

    apart, together = neighbours(), neighbours(groups=groups, group_size=5)
    assert apart < 40 and together >= 4 * 16  # 4 batches of 4 runs of 5: four neighbours in each run
    batches = DistinctBatches(keys, 20, seed=3, groups=groups, group_size=5)
    for batch in batches.draw(0):
        runs = [{groups[row] for row in batch[i : i + 5]} for i in range(0, 20, 5)]
        assert all(len(run) == 1 for run in runs) and len(set.union(*runs)) > 1  # runs of five, of several groups
    assert batches.draw(0) == batches.draw(0) != batches.draw(1)


def test_the_texts_of_a_group_are_still_kept_apart():
    batches = DistinctBatches(rows(), 16, seed=3, groups=[i // 30 for i in range(90)], group_size=8)
    for batch in batches.draw(0):
        keys = [key for row in batch for key in rows()[row]]
        assert len(keys) == len(set(keys))


def test_a_group_for_every_row():
    with pytest.raises(InputError, match="90 and 2"):
        DistinctBatches(rows(), 16, groups=["a", "b"])


@pytest.mark.parametrize(("size", "told"), [(1, "at least two rows"), (91, "fewer rows"), (46, "no batch")])
def test_batch_sizes_that_cannot_be(size, told):
    with pytest.raises(InputError, match=told):
        DistinctBatches(rows(), size)


def drawn_slowly(batches, epoch):
    """The draw as it was first written: quadratic, and easy to follow."""
    waiting = batches._order(torch.Generator().manual_seed(batches.seed * 100_003 + epoch))
    drawn = []
    while len(waiting) >= batches.batch_size:
        batch, seen, later = [], set(), []
        for row in waiting:
            if len(batch) < batches.batch_size and seen.isdisjoint(batches._keys[row]):
                batch.append(row)
                seen.update(batches._keys[row])
            else:
                later.append(row)
        waiting = later
        if len(batch) < batches.batch_size:
            waiting += batch
            break
        drawn.append(batch)
    return drawn, sorted(waiting)


@pytest.mark.parametrize("size", [2, 7, 16, 30])
@pytest.mark.parametrize("groups", [None, [i // 30 for i in range(90)]])
def test_the_quick_draw_is_the_slow_one(size, groups):
    batches = DistinctBatches(rows(), size, seed=5, groups=groups, group_size=4)
    for epoch in range(3):
        assert (batches.draw(epoch), batches.left_over) == drawn_slowly(batches, epoch)


def test_many_rows_are_drawn_once_an_epoch_and_quickly():
    start = time.perf_counter()
    batches = DistinctBatches([(f"q{i}", f"d{i}") for i in range(200_000)], 64)
    assert time.perf_counter() - start < 3  # the slow draw takes twice that and more
    first = batches.draw(0)
    assert len(batches) == len(first) and batches.draw(0) is first and next(iter(batches)) is first[0]
