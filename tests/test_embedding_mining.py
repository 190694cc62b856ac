"""Mining: exact top-k, never a positive, every guard does what it says."""

from inspect import signature

import numpy as np
import pytest
import torch

from helpers.course.errors import InputError
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.encoder import Encoder
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.mining import mine, mine_rows, nearest


def unit(rows, width=16, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


QUERIES, DOCUMENTS = unit(20), unit(300, seed=1)
BEST = np.argsort(-(QUERIES @ DOCUMENTS.T), axis=1)


@pytest.mark.parametrize("search", ["faiss", "matmul"])
def test_nearest_is_the_sorted_product(search, monkeypatch):
    monkeypatch.setattr("helpers.embedding.mining.ROWS_AT_ONCE", 7)
    monkeypatch.setattr("helpers.embedding.mining.COLUMNS_AT_ONCE", 90)
    scores, places = nearest(QUERIES, DOCUMENTS, 12, search)
    np.testing.assert_array_equal(places, BEST[:, :12])
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ DOCUMENTS.T, places, 1), atol=1e-6)


@pytest.mark.parametrize("search", ["faiss", "matmul"])
def test_fewer_documents_than_asked_for_are_all_found(search):
    scores, places = nearest(QUERIES, DOCUMENTS[:5], 9, search)
    assert scores.shape == (20, 5) and sorted(places[0].tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("search", ["faiss", "matmul"])
def test_nothing_is_nearest_where_there_is_nothing(search):
    for queries, documents, shape in ((20, 0, (20, 0)), (0, 300, (0, 9)), (0, 0, (0, 0))):
        scores, places = nearest(QUERIES[:queries], DOCUMENTS[:documents], 9, search)
        assert scores.shape == places.shape == shape
        assert (scores.dtype, places.dtype) == (np.float32, np.int64)


def test_a_known_positive_is_never_mined_and_ranks_count_without_it():
    positives = [[row[0], row[2]] for row in BEST]
    for search in ("faiss", "matmul"):
        found = mine(QUERIES, DOCUMENTS, positives, per_query=3, margin=9.0, search=search)
        assert found.documents == [[row[1], row[3], row[4]] for row in BEST]
    skipped = mine(QUERIES, DOCUMENTS, positives, per_query=3, margin=9.0, skip=2)
    assert skipped.documents == [[row[4], row[5], row[6]] for row in BEST]


def test_margin_and_absolute_limits_and_the_share_of_likely_false_negatives():
    positives = [[row[5]] for row in BEST]  # five documents score higher: too good to be believed
    found = mine(QUERIES, DOCUMENTS, positives, per_query=2, top=10, margin=1.0)
    assert found.documents == [[row[6], row[7]] for row in BEST] and found.likely_false_share == 0.5
    tighter = mine(QUERIES, DOCUMENTS, positives, per_query=2, top=10, margin=0.8)
    scores = QUERIES @ DOCUMENTS.T
    for number, chosen in enumerate(tighter.documents):
        assert all(scores[number, each] <= 0.8 * scores[number, BEST[number, 5]] for each in chosen)
    assert tighter.likely_false_share > 0.5 and tighter.short > 0
    low = mine(QUERIES, DOCUMENTS, positives, per_query=2, top=10, margin=1.0, highest=0.5)
    assert all(scores[number, each] <= 0.5 for number, chosen in enumerate(low.documents) for each in chosen)
    assert mine(QUERIES, DOCUMENTS, positives, top=10, margin=1.0, lowest=0.999).short == 20


def test_the_margin_is_measured_from_the_worst_positive_also_below_zero():
    scores = QUERIES @ DOCUMENTS.T
    two = mine(QUERIES, DOCUMENTS, [[row[2], row[5]] for row in BEST], per_query=2, top=10, margin=1.0)
    assert two.documents == [[row[6], row[7]] for row in BEST]
    below = mine(QUERIES, DOCUMENTS, [[row[-30]] for row in BEST], per_query=40, top=300, margin=0.9)
    for number, chosen in enumerate(below.documents):
        positive = scores[number, BEST[number, -30]]
        assert positive < 0 < len(chosen) and all(scores[number, each] <= 1.1 * positive + 1e-6 for each in chosen)


def test_the_window_counts_no_positive_and_the_share_nothing_outside_it():
    found = mine(QUERIES, DOCUMENTS, [[row[0], row[2]] for row in BEST], per_query=3, top=3, margin=9.0)
    assert found.documents == [[row[1], row[3], row[4]] for row in BEST]
    positives = [[row[5]] for row in BEST]
    assert mine(QUERIES, DOCUMENTS, positives, skip=2, top=10, margin=1.0).likely_false_share == 3 / 8


def test_bad_input_is_named():
    broken = DOCUMENTS.copy()
    broken[7, 0] = np.nan
    positives = [[0]] * 20
    with pytest.raises(InputError, match="document 7"):
        mine(QUERIES, broken, positives)
    with pytest.raises(InputError, match="query 3"):
        mine(QUERIES, DOCUMENTS, [[0]] * 3 + [[]] + [[0]] * 16)
    with pytest.raises(InputError, match="20 and 19"):
        mine(QUERIES, DOCUMENTS, positives[:19])
    with pytest.raises(InputError, match="no query"):
        mine(QUERIES[:0], DOCUMENTS, [])
    for outside in (len(DOCUMENTS), -1):
        with pytest.raises(InputError, match=rf"(?s)query 2.*given: +{outside}\n.*0 to {len(DOCUMENTS) - 1}"):
            mine(QUERIES, DOCUMENTS, [[0], [0], [3, outside], *[[0]] * 17])
    with pytest.raises(InputError, match="window"):
        mine(QUERIES, DOCUMENTS, positives, skip=5, top=5)
    with pytest.raises(InputError, match="window"):
        mine(QUERIES, DOCUMENTS, positives, skip=-1)
    width = QUERIES.shape[1]
    for search in ("faiss", "matmul"):
        with pytest.raises(InputError, match=rf"(?s)different width.*{width} and {width - 1}"):
            mine(QUERIES, DOCUMENTS[:, 1:], positives, search=search)


def test_limits_that_leave_nothing_and_unknown_searches_are_refused():
    positives = [[0]] * 20
    with pytest.raises(InputError, match=r"(?s)limits.*lowest 0.5, highest 0.5"):
        mine(QUERIES, DOCUMENTS, positives, lowest=0.5, highest=0.5)
    with pytest.raises(InputError, match=r"(?s)no such search.*fais\n.*faiss or matmul"):
        mine(QUERIES, DOCUMENTS, positives, search="fais")


def test_the_settings_hold_every_knob_of_mine():
    knobs = signature(mine).parameters.keys() - {"queries", "documents", "positives", "per_query"}
    given = InfoNCESettings.load(
        mine_lowest=0.1, mine_highest=0.4, mine_search="matmul", mine_top=20, mine_skip=2
    ).mining()
    assert given.keys() == knobs and given["top"] == 20 and given["skip"] == 2 and given["search"] == "matmul"
    found = mine(QUERIES, DOCUMENTS, [[row[0]] for row in BEST], **given | {"margin": 9.0}).documents
    scores = [QUERIES[number] @ DOCUMENTS[place] for number, chosen in enumerate(found) for place in chosen]
    assert len(scores) > 5 and 0.1 <= min(scores) <= max(scores) <= 0.4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mine_lowest": -1.5}, r"parameter mine_lowest(.|\n)*at least -1"),
        ({"mine_highest": 2}, r"parameter mine_highest(.|\n)*at most 1"),
        ({"mine_search": "bm25"}, r"parameter mine_search(.|\n)*faiss or matmul"),
        ({"mine_lowest": 0.6, "mine_highest": 0.5}, "mine_lowest must be less than mine_highest, 0.5; it is 0.6"),
        ({"mine_skip": 30}, "mine_skip must be less than mine_top, 30; it is 30"),
    ],
)
def test_a_wrong_knob_is_named_with_what_it_may_be(wrong, told):
    with pytest.raises(InputError, match=told):
        InfoNCESettings.load(**wrong)


def test_rows_mined_by_the_course_s_encoder(monkeypatch):
    torch.manual_seed(0)
    encoder = Encoder.load(
        "sample_data/models/ko-mini-encoder", max_length=32, prompts={"query": "query: ", "document": "passage: "}
    )
    corpus = [
        "여권은 구청에서 만든다.",
        "여권을 잃으면 신고한다.",
        "버스는 자정까지 다닌다.",
        "도서관은 월요일에 쉰다.",
    ]
    rows = ContrastiveRows.checked(["여권 만들기", "여권 만들기", "막차 시간"], corpus[:3])
    mined, found = mine_rows(encoder, rows, corpus, per_query=1, margin=5.0)
    assert len(found.documents) == 2  # one search for each query
    for number in (0, 1):
        assert mined.negatives[number][0] in corpus[2:]  # both 여권 documents answer this query
    assert mined.negatives[2][0] != corpus[2]
    with pytest.raises(InputError, match=r"(?s)document is empty.*corpus, text 1\n.*1 of 2 texts"):
        mine_rows(encoder, rows, [corpus[3], " "])
    prompts, encode = [], encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts, prompt: prompts.append(prompt) or encode(texts, prompt=prompt))
    others = ["여권 만들기", "막차 시간!", corpus[3]]  # queries too: none is its own negative
    mined, _ = mine_rows(encoder, rows, others, per_query=9, margin=9.0, lowest=-1.0)
    assert prompts == ["query", "document"]
    assert sorted(mined.negatives[0]) == sorted([corpus[2], corpus[3], "막차 시간!"])
    assert sorted(mined.negatives[2]) == sorted([corpus[0], corpus[1], corpus[3], "여권 만들기"])
