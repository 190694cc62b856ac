"""Retrieval metrics and fusion: by arithmetic, against ranx and against pytrec_eval."""

import math
import random

import numpy as np
import pytest

from helpers.course.errors import InputError
from helpers.embedding.retrieval_metrics import metrics_by_query, ranked, retrieval_metrics
from helpers.embedding.scoring.fusion import reciprocal_rank_fusion, score_fusion
from helpers.embedding.scoring.runs import bm25_run, vector_run


def drawn(seed, queries=40, documents=60, depth=25, ties=False):
    """A run and graded judgements; query ids in an order that is not the sorted one."""
    draw = random.Random(seed)
    names = [f"d{number}" for number in range(documents)]
    ids = [f"q{number}" for number in range(queries)]
    draw.shuffle(ids)
    score = (lambda: float(draw.randrange(4))) if ties else draw.random
    run = {query: {name: score() for name in draw.sample(names, depth)} for query in ids}
    qrels = {
        query: {name: draw.choice([0, 1, 1, 2, 3]) for name in draw.sample(names, 6)} | {draw.choice(names): 1}
        for query in sorted(ids)
    }
    return run, qrels


@pytest.fixture
def ranx(monkeypatch):
    """Ranx as plain Python: compiled it gives the same numbers, after two minutes of compiling on first use."""
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    import ranx

    return ranx


def test_by_arithmetic():
    qrels = {"q": {"a": 1, "b": 1, "z": 0}}
    each = metrics_by_query({"q": {"z": 3.0, "a": 2.0, "c": 1.0}}, qrels, ks=(1, 3))["q"]
    assert each["ndcg@1"] == each["f1@1"] == each["mrr@1"] == each["recall@1"] == 0
    assert each["ndcg@3"] == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)), abs=1e-12)
    assert each["mrr@3"] == 0.5 and each["recall@3"] == 0.5
    assert each["f1@3"] == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2), abs=1e-12)


def test_a_grade_below_zero_is_no_hit_and_takes_nothing_away():
    each = metrics_by_query({"q": {"b": 2.0, "a": 1.0}}, {"q": {"a": 1, "b": -1}}, ks=(3,))["q"]
    assert each == pytest.approx({"ndcg@3": 1 / math.log2(3), "f1@3": 0.5, "mrr@3": 0.5, "recall@3": 1.0})


def test_a_query_without_answers_counts_as_zero():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}}
    assert retrieval_metrics({"q1": {"a": 1.0}}, qrels)["ndcg@10"] == 0.5


def test_equal_to_ranx(ranx):
    names = [f"{metric}@{k}" for metric in ("ndcg", "f1", "mrr", "recall") for k in (1, 3, 10)]
    run, qrels = drawn(1)
    theirs = ranx.Run(run)
    means = ranx.evaluate(ranx.Qrels(qrels), theirs, names)
    ours, each = retrieval_metrics(run, qrels), metrics_by_query(run, qrels)
    for name in names:
        assert ours[name] == pytest.approx(means[name], abs=1e-9)
        for query in qrels:  # by id: ranx keeps its queries sorted
            assert each[query][name] == pytest.approx(theirs.scores[name][query], abs=1e-9)
    worse = {query: {name: -score for name, score in found.items()} for query, found in run.items()}
    assert abs(retrieval_metrics(worse, qrels)["ndcg@10"] - means["ndcg@10"]) > 1e-3  # the comparison can fail


def test_ties_and_missing_queries_are_scored_as_trec_eval_does():
    import pytrec_eval

    run, qrels = drawn(2, ties=True)
    missing = [*qrels][::5]
    run = {query: found for query, found in run.items() if query not in missing}
    for query in [*run][::4]:
        run[query] = dict([*run[query].items()][:5])  # fewer than 10 were found
    judge = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.1,3,10", "recall.1,3,10", "P.1,3,10", "recip_rank"})
    theirs, ours = judge.evaluate(run), metrics_by_query(run, qrels)
    assert all(value == 0 for query in missing for value in ours[query].values())  # trec_eval's -c
    for query in run:
        for k in (1, 3, 10):
            precision, recall = theirs[query][f"P_{k}"], theirs[query][f"recall_{k}"]
            first = theirs[query]["recip_rank"]  # of the whole ranking
            expected = {
                f"ndcg@{k}": theirs[query][f"ndcg_cut_{k}"],
                f"f1@{k}": 2 * precision * recall / (precision + recall) if precision else 0,
                f"mrr@{k}": first if first > 1 / (k + 0.5) else 0,
                f"recall@{k}": recall,
            }
            assert {name: ours[query][name] for name in expected} == pytest.approx(expected, abs=1e-9)
    mean = sum(each["ndcg_cut_10"] for each in theirs.values()) / len(qrels)
    assert retrieval_metrics(run, qrels)["ndcg@10"] == pytest.approx(mean, abs=1e-9)
    assert ranked({"a": 1.0, "c": 1.0, "b": 2.0}) == ["b", "c", "a"]
    assert ranked({"a": 1.0, "c": 1.0, "b": 2.0}, 2) == ["b", "c"]


def test_fusion_is_ranx_and_arithmetic(ranx):
    first, second = drawn(3)[0], drawn(4)[0]
    second = {query: second[query] for query in first}
    theirs = ranx.fuse([ranx.Run(first), ranx.Run(second)], method="rrf").to_dict()
    ours = reciprocal_rank_fusion([first, second])
    for query, scores in ours.items():
        assert scores == pytest.approx(dict(theirs[query]), abs=1e-12)
    small = reciprocal_rank_fusion([{"q": {"a": 9.0, "b": 8.0}}, {"q": {"b": 0.1}}], k=60)
    assert small == {"q": {"a": 1 / 61, "b": 1 / 62 + 1 / 61}}
    assert reciprocal_rank_fusion([{"q": {"a": 9.0, "b": 8.0}}], k=0) == {"q": {"a": 1.0, "b": 0.5}}


def test_a_weight_counts_a_run_so_many_times():
    first, second = drawn(3)[0], drawn(4)[0]
    second = {query: second[query] for query in first}
    thrice = reciprocal_rank_fusion([first, first, first, second])
    assert thrice != reciprocal_rank_fusion([first, second])
    weighed = reciprocal_rank_fusion([first, second], weights=[3, 1])
    for query, scores in weighed.items():
        assert scores == pytest.approx(thrice[query], abs=1e-12)
    alone = reciprocal_rank_fusion([first, second], weights=[1, 0])
    assert all(ranked(alone[query], 3) == ranked(run, 3) for query, run in first.items())


def test_scores_are_fused_as_by_ranx_and_by_hand(ranx):
    first, second = drawn(3)[0], drawn(4)[0]
    second = {query: second[query] for query in first}
    runs = [ranx.Run(first), ranx.Run(second)]
    theirs = ranx.fuse(runs, norm="min-max", method="wsum", params={"weights": (0.7, 0.3)}).to_dict()
    for query, scores in score_fusion([first, second], [0.7, 0.3]).items():
        assert scores == pytest.approx(dict(theirs[query]), abs=1e-9)
    words, vectors = {"q": {"a": 30.0, "b": 20.0, "c": 10.0}}, {"q": {"b": 0.9, "d": 0.8}}
    assert score_fusion([words, vectors], [1, 2]) == {"q": {"a": 1.0, "b": 0.5 + 2.0, "c": 0.0, "d": 0.0}}
    assert score_fusion([{"q": {"a": 2.0, "b": 2.0}, "p": {}}]) == {"q": {"a": 1.0, "b": 1.0}, "p": {}}


@pytest.mark.parametrize(("factor", "shift"), [(0.01, 0), (30, -5), (1, 100)])
def test_the_scale_of_a_search_changes_no_fused_score(factor, shift):
    first, second = drawn(3)[0], drawn(4)[0]
    second = {query: second[query] for query in first}
    moved = {query: {key: factor * score + shift for key, score in scores.items()} for query, scores in second.items()}
    for query, scores in score_fusion([first, second]).items():
        assert score_fusion([first, moved])[query] == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize(
    ("run", "qrels", "ks", "said"),
    [
        ({"q": {"a": 1.0}}, {}, (1,), "no judgements"),
        ({"q": {"a": 1.0}}, {"q": {"a": 0}}, (1,), "query q"),
        ({"q": {"a": float("nan")}}, {"q": {"a": 1}}, (1,), "query q, document a"),
        ({"x": {"a": 1.0}}, {"q": {"a": 1}}, (1,), "nobody judged"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1}}, (0,), "whole numbers from 1"),
        ({"q": {"a": 1.0}}, {"q": {"a": 1}}, (), "whole numbers from 1"),
    ],
)
def test_bad_input_is_named(run, qrels, ks, said):
    with pytest.raises(InputError, match=said):
        retrieval_metrics(run, qrels, ks)


def test_fusion_refuses_runs_of_other_queries():
    with pytest.raises(InputError, match="q2"):
        reciprocal_rank_fusion([{"q": {"a": 1.0}}, {"q2": {"a": 1.0}}])
    with pytest.raises(InputError, match="run 3"):
        reciprocal_rank_fusion([{"q": {"a": 1.0}}] * 2 + [{"q2": {"a": 1.0}}])
    with pytest.raises(InputError, match="k from 0 up"):
        reciprocal_rank_fusion([{"q": {"a": 1.0}}], k=-1)
    with pytest.raises(InputError, match="at least one run"):
        reciprocal_rank_fusion([])
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, math.inf]):
        with pytest.raises(InputError, match="weights"):
            reciprocal_rank_fusion([{"q": {"a": 1.0}}, {"q": {"b": 1.0}}], weights=weights)
        with pytest.raises(InputError, match="weights"):
            score_fusion([{"q": {"a": 1.0}}, {"q": {"b": 1.0}}], weights)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_fusion_refuses_a_score_that_is_not_finite(score):
    runs = [{"p": {"a": 1.0}, "q": {"a": 1.0}}, {"p": {"a": 1.0}, "q": {"b": 1.0, "c": score}}]
    for fusion in (reciprocal_rank_fusion, score_fusion):
        with pytest.raises(InputError, match=rf"(?s)not finite.*run 2, query q, document c.*given: +{score}"):
            fusion(runs)


def test_documents_of_one_vector_or_text_are_cut_off_as_they_would_be_ranked():
    """Searches keep the best few: of equal ones those that `ranked` and trec_eval put first, whatever their order."""
    keys = ["d2", "d10", "d1", "가", "d3"]
    bank = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 0]], np.float32)
    texts = dict(
        zip(
            keys,
            ["도서관은 아홉 시에 연다", "도서관은 아홉 시에 연다", "버스", "도서관은 아홉 시에 연다", "눈"],
            strict=True,
        )
    )
    asked = np.array([[1, 0]], np.float32)
    for search, best in (
        (lambda top: vector_run(["q"], keys, asked, bank, top)["q"], ["가", "d3", "d2", "d10"]),
        (lambda top: bm25_run({"q": "도서관 아홉 시"}, texts, top)["q"], ["가", "d2", "d10"]),
    ):
        assert ranked(search(5))[: len(best)] == best
        assert [*search(2)] == ranked(search(2)) == best[:2]
