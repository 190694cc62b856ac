"""Lesson 05's settings: which models are found, which part of a test set is searched."""

import pytest

from helpers.course.errors import InputError
from helpers.data.retrieval import Document, RetrievalSet, write_beir
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.scoring.settings import EvaluationSettings, model_name

CORPUS = {"d1": Document("", "여권은 구청에서 만든다"), "d2": Document("", "버스는 십 분마다 온다")}
QUERIES = {"q1": "여권 만들기", "q2": "버스 간격", "q3": "버스 언제 와"}
QRELS = {"q1": {"d1": 1}, "q2": {"d2": 1}, "q3": {"d2": 1}}


def settings(tmp_path, **changes):
    return EvaluationSettings.load(data_dir=tmp_path, output_dir=tmp_path / "out", **changes)


def test_the_split_where_there_is_one_and_all_where_there_is_none(tmp_path):
    write_beir(tmp_path / "split", RetrievalSet(CORPUS, QUERIES, QRELS, {"q1": "train", "q2": "test", "q3": "test"}))
    write_beir(tmp_path / "whole", RetrievalSet(CORPUS, QUERIES, QRELS))
    (tmp_path / "whole/qrels/test.tsv").rename(tmp_path / "whole/qrels.tsv")
    (tmp_path / "whole/qrels").rmdir()
    sets = settings(tmp_path, test_sets=["split", "whole"]).retrieval_sets()
    assert list(sets["split"].queries) == ["q2", "q3"] and sets["split"].splits == {"q2": "test", "q3": "test"}
    assert len(sets["whole"].queries) == 3 and not sets["whole"].splits
    assert all(len(data.corpus) == 2 for data in sets.values())
    first = settings(tmp_path, test_sets=["split"], max_queries=2).retrieval_sets()["split"]
    assert first.qrels.keys() == first.queries.keys() and len(first.queries) == 2
    with pytest.raises(InputError, match="no such split"):
        settings(tmp_path, test_sets=["split"], split="dev").retrieval_sets()


def test_queries_without_a_relevant_document_are_named_in_tests_and_in_training(tmp_path, capsys):
    write_beir(tmp_path / "set", RetrievalSet(CORPUS, QUERIES, QRELS, dict.fromkeys(QUERIES, "train")))
    (tmp_path / "set/qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\nq3\td2\t0\n")
    told = "set: 1 of 3 queries have no relevant document and are left out: q3\n"
    sets = settings(tmp_path, test_sets=["set"], split="train", max_queries=2).retrieval_sets()
    assert list(sets["set"].queries) == ["q1", "q2"] and told == capsys.readouterr().out
    own = InfoNCESettings.load(data_dir=tmp_path, train_set="set", test_set="set", test_split="train", e5_files=[])
    assert own.training_rows().queries == ["여권 만들기", "버스 간격"] and told == capsys.readouterr().out
    assert list(own.test_data().queries) == ["q1", "q2"] and told == capsys.readouterr().out


def test_models_that_are_there_are_named_by_their_lesson(tmp_path, capsys):
    (tmp_path / "02_lesson/model").mkdir(parents=True)
    (tmp_path / "02_lesson/model/modules.json").write_text("[]", encoding="utf-8")
    (tmp_path / "03_lesson/model").mkdir(parents=True)  # a folder without a model
    paths = [str(tmp_path / name / "model") for name in ("02_lesson", "03_lesson", "04_lesson")]
    assert list(settings(tmp_path, trained=paths).models_found()) == ["02_lesson"]
    told = capsys.readouterr().out
    assert "02_lesson" not in told and "03_lesson/model" in told and "04_lesson/model" in told
    assert settings(tmp_path, trained=paths[1:]).models_found() == {}


def test_e5_reads_its_prefixes_under_the_gpu_profiles(tmp_path):
    for profile in ("t4", "a100"):
        own = settings(tmp_path, profile=profile)
        assert "e5" in own.model and own.base_prompts() == {"query": "query: ", "document": "passage: "}
    assert settings(tmp_path).base_prompts() == {}


def test_sets_that_are_not_there_are_taken_from_the_repository_and_that_is_said(tmp_path, capsys):
    sets = settings(tmp_path, test_sets=["retrieval/hansol"], max_queries=3).retrieval_sets()
    assert len(sets["hansol"].queries) == 3 and "sample_data/retrieval/hansol is taken" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"corpus.jsonl is missing"):
        settings(tmp_path, test_sets=["nowhere"]).retrieval_sets()


def test_two_of_one_name_are_refused_and_a_model_is_named_by_its_run(tmp_path):
    for folder in ("x/run/model", "y/run/model", "z/plain", "base/model"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "modules.json").write_text("[]", encoding="utf-8")
    for trained in (["x/run/model", "y/run/model"], ["base/model"]):
        with pytest.raises(InputError, match=r"(?s)overwrite one another.*trained"):
            settings(tmp_path, trained=[str(tmp_path / path) for path in trained]).models_found()
    with pytest.raises(InputError, match=r"(?s)overwrite one another.*test_sets.*test"):
        settings(tmp_path, test_sets=["a/test", "b/test"]).retrieval_sets()
    one = settings(tmp_path, trained=[str(tmp_path / "x/run/model"), str(tmp_path / "z/plain")])
    assert list(one.models_found()) == ["run", "plain"] and model_name("database_encoder") == "database_encoder"
