"""The n-gram bar: its probabilities sum to one, equal NLTK's, and it learns."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from helpers.course.files import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "sample_data/models"))
from ngram import END, START, KneserNey, bits_per_character

LINES = ["가나다라가나다", "나다라마", "가나마마라", "다라가나다라", "가", "마라마라가나다"]


def next_distribution(model: KneserNey, before: str) -> dict[str, float]:
    """p(next) for every character, UNKNOWN and END."""
    named = {character: 2 ** model.log2_probabilities(before + character)[len(before)] for character in model.ids}
    unknown, end = 2 ** model.log2_probabilities(before + "힣")[len(before)], 2 ** model.log2_probabilities(before)[-1]
    return named | {"unknown": unknown, "end": end}


@pytest.mark.parametrize("before", ["", "가", "가나", "가나다라가", "힣", "마마마마마마"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_probabilities_of_what_may_come_next_sum_to_one(before, n):
    assert sum(next_distribution(KneserNey(LINES, n), before).values()) == pytest.approx(1, abs=1e-12)


def test_bigram_equals_a_count_with_dictionaries():
    """An independent interpolated Kneser-Ney bigram, with dictionaries and loops."""
    model = KneserNey(LINES, 2)
    rows = [["<s>", *line, "</s>"] for line in LINES]
    pairs = [pair for row in rows for pair in pairwise(row)]
    counts = {pair: pairs.count(pair) for pair in pairs}
    lefts = {b: len({x for x, y in counts if y == b}) for _, b in counts}

    def discount(values):
        once, twice = sum(v == 1 for v in values), sum(v == 2 for v in values)
        return once / (once + 2 * twice) if once else 0.5

    d1, d2, size = discount(lefts.values()), discount(counts.values()), len({*"".join(LINES)}) + 2

    def probability(a, b):
        uni = max(lefts.get(b, 0) - d1, 0) / sum(lefts.values()) + d1 * len(lefts) / sum(lefts.values()) / size
        follow = {y: c for (x, y), c in counts.items() if x == a}
        if not follow:
            return uni
        total = sum(follow.values())
        return max(follow.get(b, 0) - d2, 0) / total + d2 * len(follow) / total * uni

    for line in ("가나다", "마가", "힣가", ""):
        row = ["<s>", *line, "</s>"]
        expected = np.log2([probability(a, b) for a, b in pairwise(row)])
        assert model.log2_probabilities(line) == pytest.approx(expected, abs=1e-12)


def test_more_context_costs_fewer_bits_on_text_that_has_some():
    lines = ["오늘은 날씨가 맑고 바람이 분다", "내일은 날씨가 흐리고 비가 온다"] * 20
    bits = [bits_per_character(KneserNey(lines, n), ["오늘은 날씨가 흐리고 비가 온다"]) for n in (1, 2, 5)]
    assert bits[0] > bits[1] > bits[2] > 0


def test_the_end_of_a_line_costs_bits_and_is_no_character():
    model = KneserNey(LINES, 2)
    bits = -sum(model.log2_probabilities(line).sum() for line in LINES)
    assert bits_per_character(model, LINES) == pytest.approx(bits / sum(map(len, LINES)), rel=1e-12)


def test_counts_below_the_highest_order_are_of_neighbours_but_raw_where_a_line_begins():
    model = KneserNey(["가나", "가다", "가라", "나가"], 3)
    first, second = model.ids["가"], model.ids["나"]
    counts = dict(zip(model.orders[1].grams.tolist(), model.orders[1].counts.tolist(), strict=True))
    assert counts[START * model.base + first] == 3  # three lines begin with 가, with one thing before it
    assert counts[first * model.base + END] == 1 and counts[START * model.base + second] == 1


def test_an_alphabet_too_large_for_the_keys_is_refused():
    with pytest.raises(ValueError, match="63 bits"):
        KneserNey(["".join(chr(0xAC00 + i) for i in range(5000))], 6)


def test_start_is_not_predicted():
    model = KneserNey(LINES, 3)
    assert START not in model.ids.values() and END not in model.ids.values()
