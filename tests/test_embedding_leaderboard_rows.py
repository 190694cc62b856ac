"""Leaderboard rows: saved, replaced, read strictly; the published table; MTEB agrees with our metrics."""

import json
import math
from dataclasses import replace

import pytest

from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY
from helpers.data.pairs import Pairs
from helpers.data.retrieval import Document, RetrievalSet
from helpers.embedding.retrieval_metrics import metrics_by_query, ranked
from helpers.embedding.scoring.leaderboard_rows import (
    QueryResult,
    Row,
    measured_row,
    query_results,
    read_query_results,
    read_rows,
    save_row,
)

PUBLISHED = REPOSITORY / "sample_data/published/koe5.jsonl"
MEANS = {  # the column of averages of the published table, in percent
    "BGE-m3": (70.25, 64.92, 66.35, 46.91),
    "mGTE": (62.44, 57.37, 61.75, 43.74),
    "mE5-large": (69.61, 64.35, 66.61, 46.61),
    "kf-deberta": (53.6, 49.12, 54.23, 37.84),
    "KoE5": (72.76, 67.43, 67.94, 47.83),
}
DATA = RetrievalSet(
    {"d1": Document("도서관", "여는 시간은 아홉 시다"), "d2": Document("", "버스는 십 분마다 온다")},
    {"q1": "도서관 언제 열어?", "q2": "버스 배차 간격"},
    {"q1": {"d1": 1}, "q2": {"d2": 1}},
)


def test_rows_come_back_and_replace_themselves(tmp_path):
    row = measured_row("작은 모델", "hansol", {"ndcg@10": 0.5}, split="test", seed=13, settings={"max_length": 64})
    assert row.hardware and row.date and "T" in row.date
    run = {"q1": {"d1": 0.9, "d2": 0.1}, "q2": {"d1": 0.8, "d2": 0.2}}
    each = metrics_by_query(run, DATA.qrels)
    documents = {key: document.full() for key, document in DATA.corpus.items()}
    found = query_results(
        each, {query: ranked(scores) for query, scores in run.items()}, DATA.qrels, DATA.queries, documents
    )
    save_row(tmp_path, row, found)
    save_row(tmp_path, measured_row("작은 모델", "hansol", {"ndcg@10": 0.4}, split="test", seed=14))
    save_row(
        tmp_path,
        measured_row("작은 모델", "hansol", {"ndcg@10": 0.6}, split="test", seed=13, settings={"max_length": 64}),
        found,
    )
    rows = read_rows(tmp_path / "rows.jsonl")
    assert sorted(each.metrics["ndcg@10"] for each in rows) == [
        0.4,
        0.6,
    ]  # the same model, data, settings and seed: once
    [first, second] = read_query_results(tmp_path, row)
    assert first.found[0] == "도서관 여는 시간은 아홉 시다" and first.metrics["ndcg@1"] == 1
    assert second.relevant == ["버스는 십 분마다 온다"] and second.metrics["ndcg@1"] == 0
    assert read_query_results(tmp_path, measured_row("ohne", "hansol", {"ndcg@10": 0.1})) == []


def test_the_published_table_is_whole_and_marked():
    rows = read_rows(PUBLISHED)
    assert len(rows) == 15 and {row.kind for row in rows} == {"published"} and all(row.source for row in rows)
    for model, means in MEANS.items():
        own = [row for row in rows if row.model == model]
        assert len(own) == 3
        for metric, mean in zip(("ndcg@1", "f1@1", "ndcg@3", "f1@3"), means, strict=True):
            assert sum(row.metrics[metric] for row in own) / 3 * 100 == pytest.approx(mean, abs=0.0051)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "guessed"}, "measured or published"),
        ({"kind": "published"}, "source"),
        ({"metrics": {}}, "at least one"),
        ({"metrics": {"ndcg@10": 75.68}}, "share of 1"),
        ({"metrics": {"ndcg@10": 10**400}}, "share of 1"),
        ({"metrics": {"ndcg@10": "0.5"}}, "finite number"),
        ({"model": ""}, "names a model"),
        ({"colour": "red"}, "colour"),
        ({"metrics": [0.5]}, "metrics must be an object"),
        ({"settings": None}, "settings must be an object"),
        ({"model": 5}, "model must be text"),
        ({"queries": "20"}, "queries must be a whole number"),
    ],
)
def test_bad_rows_are_named(tmp_path, changes, said):
    good = {"model": "m", "dataset": "d", "kind": "measured", "metrics": {"ndcg@10": 0.5}}
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(good | changes)}\n", encoding="utf-8")
    with pytest.raises(InputError, match=said) as error:
        read_rows(path)
    assert error.value.place == "line 2"


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"model": "m"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="lacks a key"):
        read_rows(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="metric"):
        save_row(tmp_path, Row("m", "d", "measured", {"ndcg@10": float("nan")}))


def test_what_was_asked_of_another_number_of_queries_is_another_row(tmp_path):
    facts = dict(split="test", seed=13, documents=358)
    for queries, path in ((131, "a/model"), (20, "a/model"), (131, "b/model")):
        save_row(tmp_path, measured_row("m", "d", {"ndcg@10": 0.5}, queries=queries, settings={"path": path}, **facts))
    assert len(read_rows(tmp_path / "rows.jsonl")) == 3


def test_a_row_that_is_refused_costs_no_earlier_one_its_queries(tmp_path):
    row = measured_row("m", "set", {"ndcg@1": 1.0}, queries=1)
    results = [QueryResult("q1", "물음", {"ndcg@1": 1.0}, ["답"], ["답"])]
    save_row(tmp_path, row, results)
    with pytest.raises(InputError, match="no finite number"):
        save_row(tmp_path, replace(row, metrics={"ndcg@1": math.nan}))
    assert read_query_results(tmp_path, row) == results and read_rows(tmp_path / "rows.jsonl") == [row]


def test_queries_of_an_earlier_measurement_go_with_it(tmp_path):
    row = Row("m", "d", "measured", {"ndcg@10": 0.5})
    save_row(tmp_path, row, [QueryResult("q1", "질문", {"ndcg@10": 0.5}, ["글"], ["글"])])
    assert len(read_query_results(tmp_path, row)) == 1
    save_row(tmp_path, row)
    assert read_query_results(tmp_path, row) == [] and not list((tmp_path / "queries").iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"found": None}, r"found must be a list"),
        ({"relevant": ["글", 5]}, r"relevant must be a list of texts"),
        ({"metrics": [1]}, r"metrics must be an object"),
        ({"metrics": {"ndcg@10": "0.5"}}, r"no finite number"),
        ({"colour": "red"}, r"unknown key"),
    ],
)
def test_bad_results_of_queries_are_named(tmp_path, changes, said):
    row, good = Row("m", "d", "measured", {"ndcg@10": 0.5}), QueryResult("q1", "질문", {}, ["글"], ["글"])
    save_row(tmp_path, row, [good])
    [path] = (tmp_path / "queries").iterdir()
    for values in (vars(good) | changes, {"query": "q1"}):
        path.write_text(json.dumps(vars(good)) + "\n" + json.dumps(values), encoding="utf-8")
        with pytest.raises(InputError, match=rf"(?s)({said}|lacks a key).*{path.name}, line 2"):
            read_query_results(tmp_path, row)


def test_mteb_gives_the_same_figures(tmp_path):
    from helpers.data.pairs import read_sts
    from helpers.data.retrieval import read_beir, write_beir
    from helpers.embedding.encoder import Encoder
    from helpers.embedding.evaluation import sts_spearman
    from helpers.embedding.retrieval_metrics import retrieval_metrics
    from helpers.embedding.scoring.mteb_tasks import find_tasks, mteb_scores, retrieval_task, sts_task
    from helpers.embedding.sentence_recipe import open_sentence_model, sentence_run

    whole = read_beir(REPOSITORY / "sample_data/retrieval/hansol", "test")
    corpus = dict(list(whole.corpus.items())[:40])
    qrels = {query: grades for query, grades in whole.qrels.items() if set(grades) <= set(corpus)}
    data = RetrievalSet(corpus, {query: whole.queries[query] for query in qrels}, qrels)
    model = open_sentence_model("sample_data/models/ko-mini-encoder", 64)
    pairs = read_sts(REPOSITORY / "sample_data/sts/sts.tsv", "test")
    scores = mteb_scores(model, [retrieval_task("HansolLocal", data), sts_task("StsLocal", pairs)])
    ours = retrieval_metrics(sentence_run(model, data, prompts=True), qrels)
    for k in (1, 3, 10):
        assert scores["HansolLocal"][f"ndcg_at_{k}"] == pytest.approx(
            ours[f"ndcg@{k}"], abs=1e-4
        )  # MTEB rounds to 5 places
        assert scores["HansolLocal"][f"recall_at_{k}"] == pytest.approx(ours[f"recall@{k}"], abs=1e-4)
    worse = retrieval_metrics({query: {"d1": 1.0} for query in qrels}, qrels)
    assert abs(worse["ndcg@10"] - ours["ndcg@10"]) > 0.01  # the comparison can fail
    encoder = Encoder.load("sample_data/models/ko-mini-encoder", pooling="mean", max_length=64)
    spearman = sts_spearman(encoder, pairs.first, pairs.second, pairs.scores)
    assert scores["StsLocal"]["cosine_spearman"] == pytest.approx(spearman, abs=1e-3)

    write_beir(tmp_path / "AutoRAGRetrieval", data)
    found, missing = find_tasks(["AutoRAGRetrieval", "KorSTS"], tmp_path)
    assert [task.metadata.name for task in found] == ["AutoRAGRetrieval"] and missing == ["KorSTS"]


def test_unscored_pairs_are_no_sts_task():
    from helpers.embedding.scoring.mteb_tasks import sts_task

    with pytest.raises(InputError, match="scores"):
        sts_task("Broken", Pairs(["a"], ["b"]))
