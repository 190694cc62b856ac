"""BM25: the formula by hand, and what it is for."""

import math
import unicodedata

import numpy as np
import pytest

from helpers.data.bm25 import BM25, word_bigrams


def test_bigrams_stay_inside_words():
    assert word_bigrams("서울에서 눈 OK!") == ["서울", "울에", "에서", "눈", "ok"]


def test_scores_are_the_formula():
    documents = ["서울 서울 날씨", "부산 날씨", "눈"]
    k1, b, mean = 1.2, 0.75, (3 + 2 + 1) / 3

    def part(count, length, holders):
        rarity = math.log(1 + (3 - holders + 0.5) / (holders + 0.5))
        return rarity * count * (k1 + 1) / (count + k1 * (1 - b + b * length / mean))

    expected = [part(2, 3, 1) + part(1, 3, 2), part(1, 2, 2), 0.0]
    assert BM25(documents).scores("서울 날씨").tolist() == pytest.approx(expected)


def test_particles_do_not_hide_a_word_and_order_is_stable():
    index = BM25(["점심을 먹었다", "서울은 흐리다", "서울은 흐리다"])
    assert index.ranked("서울에서").tolist() == [1, 2, 0]


def test_equals_keep_their_order_among_many():
    index = BM25(["서울은 흐리다", "부산은 맑다"] * 50)
    assert index.ranked("부산").tolist() == [*range(1, 100, 2), *range(0, 100, 2)]


def test_a_query_counts_a_word_as_often_as_it_says_it():
    index = BM25(["서울 날씨", "부산 날씨"])
    assert index.scores("서울 서울").tolist() == pytest.approx((2 * index.scores("서울")).tolist())


def test_decomposed_letters_are_the_same_letters():
    index, decomposed = BM25(["서울 날씨"]), BM25([unicodedata.normalize("NFD", "서울 날씨")])
    for query in ("서울", unicodedata.normalize("NFD", "서울")):
        assert index.scores(query) == decomposed.scores(query) > 0


@pytest.mark.filterwarnings("error")
def test_a_query_that_shares_nothing_scores_nothing():
    assert not BM25(["가나", ""]).scores("다라").any()
    assert BM25([]).scores("다라").shape == (0,)
    assert np.array_equal(BM25(["!"]).ranked("?"), [0])
