"""Local copies of MTEB's tasks: the split that the task scores, nothing of another, and queries that cannot be scored."""

import pytest

from helpers.course.errors import InputError
from helpers.data.retrieval import Document, RetrievalSet, write_beir
from helpers.embedding.scoring.mteb_tasks import find_tasks

CORPUS = {
    f"d{number}": Document("", text) for number, text in enumerate(["여권은 구청에서 만든다", "막차는 열두 시다"])
}
QUERIES = {"q1": "여권 만들기", "q2": "막차 시간", "q3": "여권 사진"}
QRELS = {"q1": {"d0": 1}, "q2": {"d1": 1}, "q3": {"d0": 1}}
PAIRS = [
    "score\tsentence1\tsentence2",
    "4.5\t비가 온다\t비가 내린다",
    "0.5\t비가 온다\t밥을 먹는다",
    "3\t문을 연다\t문이 열린다",
]


def asked(folder, name):
    [task], missing = find_tasks([name], folder)
    task.load_data()
    assert not missing
    return set(task.dataset["default"]["test"]["queries"]["id"])


def pairs(folder, name):
    [task], _ = find_tasks([name], folder)
    task.load_data()
    return len(task.dataset["test"])


@pytest.mark.parametrize(
    ("name", "expected"), [("Ko-StrategyQA", {"q2"}), ("AutoRAGRetrieval", {"q3"}), ("Own", {"q3"})]
)
def test_a_folder_gives_the_split_that_the_task_scores(tmp_path, name, expected):
    splits = {"q1": "train", "q2": "dev", "q3": "test"}
    write_beir(tmp_path / name, RetrievalSet(CORPUS, QUERIES, QRELS, splits))
    assert asked(tmp_path, name) == expected


def test_a_folder_without_that_split_is_refused(tmp_path):
    splits = {"q1": "train", "q2": "dev", "q3": "dev"}
    write_beir(tmp_path / "AutoRAGRetrieval", RetrievalSet(CORPUS, QUERIES, QRELS, splits))
    with pytest.raises(InputError, match=r"(?s)AutoRAGRetrieval.*dev, train.*test"):
        find_tasks(["AutoRAGRetrieval"], tmp_path)


def test_a_folder_without_splits_is_used_whole_and_lost_queries_are_named(tmp_path, capsys):
    write_beir(tmp_path / "Own", RetrievalSet(CORPUS, QUERIES | {"q4": "도서관"}, QRELS))
    folder = tmp_path / "Own"
    (folder / "qrels" / "test.tsv").rename(folder / "qrels.tsv")
    assert asked(tmp_path, "Own") == set(QUERIES)
    assert "Own: 1 of 4 queries have no relevant document and are left out: q4" in capsys.readouterr().out
    write_beir(
        tmp_path / "Other", RetrievalSet(CORPUS, QUERIES | {"q4": "도서관"}, QRELS)
    )  # a split by its file's name
    assert asked(tmp_path, "Other") == set(QUERIES)
    assert "Other: 1 of 4" in capsys.readouterr().out


def test_scored_pairs_without_splits_are_used_whole(tmp_path):
    (tmp_path / "KorSTS.tsv").write_text("\n".join(PAIRS) + "\n", encoding="utf-8")
    assert pairs(tmp_path, "KorSTS") == 3


def test_scored_pairs_give_the_split_that_the_task_scores(tmp_path):
    rows = [f"{row}\t{split}" for row, split in zip(PAIRS, ("split", "train", "dev", "dev"), strict=True)]
    for name in ("KLUE-STS", "KorSTS"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    assert pairs(tmp_path, "KLUE-STS") == 2  # MTEB calls it validation
    with pytest.raises(InputError, match=r"(?s)KorSTS\.tsv.*dev, train.*test"):
        find_tasks(["KorSTS"], tmp_path)


def test_a_name_of_no_task_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match=r"(?s)mteb_tasks.*Ko-StrategyQa.*did you mean Ko-StrategyQA\?"):
        find_tasks(["Ko-StrategyQa"], tmp_path, hub=False)
    with pytest.raises(InputError, match="no Korean retrieval or STS task"):
        find_tasks(["KLUE-TC"], tmp_path, hub=False)  # a classification: the leaderboard has no metric for it
    assert find_tasks(["KorSTS"], tmp_path, hub=False) == ([], ["KorSTS"])


def test_a_task_of_the_hub_is_one_split_and_korean_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.embedding.scoring.mteb_tasks.hub_reachable", lambda: True)
    found, _ = find_tasks(["MultiLongDocRetrieval", "BelebeleRetrieval", "KLUE-STS"], tmp_path)
    assert [task.eval_splits for task in found] == [["dev"], ["test"], ["validation"]]
    assert [task.hf_subsets for task in found] == [["ko"], ["kor_Hang-kor_Hang"], ["default"]]
