"""e5 rows and BEIR folders: read strictly, written so that they read the same."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, read_table, sample_data, write_jsonl
from helpers.course.rejects import Rejects
from helpers.data.e5_rows import e5_from_beir, e5_from_table
from helpers.data.retrieval import Document, RetrievalSet, read_beir, read_e5, write_beir, write_e5

CORPUS = [
    {"_id": "d1", "title": "전입신고", "text": "이사한 날부터 14일 안에 합니다."},
    {"_id": "d2", "title": "", "text": "확정일자는 600원입니다."},
    {"_id": "d3", "text": "이사 짐은 미리 쌉니다."},
]
QUERIES = [{"_id": "q1", "text": "이사하면 뭘 신고하죠"}, {"_id": "q2", "text": "확정일자 얼마"}]
QRELS = ["q1\td1\t1", "q2\td2\t2", "q2\td3\t0"]


def folder(tmp_path, corpus=CORPUS, queries=QUERIES, qrels=QRELS):
    def lines(rows):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    (tmp_path / "corpus.jsonl").write_text(lines(corpus), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text(lines(queries), encoding="utf-8")
    (tmp_path / "qrels").mkdir(exist_ok=True)
    text = "query-id\tcorpus-id\tscore\n" + "".join(f"{row}\n" for row in qrels)
    (tmp_path / "qrels/test.tsv").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_beir_folder_is_read_whole(tmp_path):
    data = read_beir(folder(tmp_path))
    assert data.corpus["d1"] == Document("전입신고", "이사한 날부터 14일 안에 합니다.")
    assert data.corpus["d3"].full() == "이사 짐은 미리 쌉니다."
    assert data.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}}, "a grade of 0 says: irrelevant"
    assert data.splits == {"q1": "test", "q2": "test"}


@pytest.mark.parametrize(
    ("changes", "words", "line"),
    [
        ({"qrels": [*QRELS, "q9\td1\t1"]}, "no query with this id", 5),
        ({"qrels": [*QRELS, "q1\td9\t1"]}, "no document with this id", 5),
        ({"qrels": [*QRELS, "q1\td1\t1"]}, "judged before", 5),
        ({"qrels": [*QRELS, "q1\td2\tsehr"]}, "whole number from 0 up", 5),
        ({"qrels": [*QRELS, "q1\td2\t-1"]}, "whole number from 0 up", 5),
        ({"qrels": [*QRELS, "q1\td2\t²"]}, "whole number from 0 up", 5),
        ({"corpus": [*CORPUS, {"_id": "d4", "title": 4, "text": "글"}]}, "must hold text", 4),
        ({"qrels": [*QRELS, "q1\td2"]}, "2 fields", 5),
        ({"corpus": [*CORPUS, {"_id": "d1", "text": "또"}]}, "id stands twice", 4),
        ({"corpus": [*CORPUS, {"_id": "d4", "title": "", "text": " "}]}, "text is empty", 4),
        ({"corpus": [*CORPUS, {"_id": 4, "text": "글"}]}, "row without an id", 4),
        ({"corpus": [*CORPUS, {"_id": "d4", "text": None}]}, "must hold text", 4),
        ({"queries": [*QUERIES, {"_id": "q1", "text": "또"}]}, "id stands twice", 3),
        ({"queries": [*QUERIES, {"_id": "q3", "text": ""}]}, "text is empty", 3),
        ({"queries": [*QUERIES, {"_id": "q3", "title": "제목", "text": ""}]}, "text is empty", 3),
    ],
)
def test_every_fault_is_named_or_kept(tmp_path, changes, words, line):
    path = folder(tmp_path, **changes)
    with pytest.raises(InputError, match=words) as error:
        read_beir(path)
    assert f"line {line}" in str(error.value)
    rejects = Rejects(tmp_path / "out")
    data = read_beir(path, rejects=rejects)
    assert [row["line"] for row in rejects.rows] == [line] and words in rejects.rows[0]["reason"]
    assert data.qrels == {"q1": {"d1": 1}, "q2": {"d2": 2}}
    assert read_beir(path, rejects=rejects) == data, "a second read that shares the rejects"
    assert [row["line"] for row in rejects.rows] == [line, line]


def test_a_title_is_text_enough_for_a_document(tmp_path):
    path = folder(tmp_path, corpus=[*CORPUS, {"_id": "d4", "title": "제목", "text": ""}])
    assert read_beir(path).corpus["d4"].full() == "제목"


def test_a_query_in_two_splits_is_refused(tmp_path):
    path = folder(tmp_path)
    (path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td3\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match="trained and tested"):
        read_beir(path)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(tmp_path, name):
    path = folder(tmp_path)
    (path / name).unlink()
    with pytest.raises(InputError, match=r"no BEIR folder.*(missing|judgements)"):
        read_beir(path)


def test_one_qrels_file_with_splits_among_the_queries(tmp_path):
    path = folder(tmp_path, queries=[QUERIES[0] | {"split": "train"}, QUERIES[1] | {"split": "test"}])
    (path / "qrels/test.tsv").rename(path / "qrels.tsv")
    assert list(read_beir(path, "train").queries) == ["q1"]
    assert read_beir(path, "test").qrels == {"q2": {"d2": 2}}
    with pytest.raises(InputError, match=r"(?s)no such split.*test, train"):
        read_beir(path, "dev")


def test_a_table_that_is_no_judgements_is_refused(tmp_path):
    path = folder(tmp_path)
    (path / "qrels/test.tsv").write_text("corpus-id\tquery-id\tscore\nd1\tq1\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)these are no judgements.*query-id, corpus-id, score"):
        read_beir(path)
    (path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t0\n", encoding="utf-8")
    with pytest.raises(InputError, match="no query has a relevant document"):
        read_beir(path)


def test_packed_files_are_read_and_a_set_without_splits_is_written_as_test(tmp_path):
    (tmp_path / "a").mkdir()
    path = folder(tmp_path / "a")
    for name in ("corpus.jsonl", "queries.jsonl"):
        write_jsonl(path / f"{name}.gz", read_jsonl(path / name))
        (path / name).unlink()
    data = read_beir(path)
    assert list(data.corpus) == ["d1", "d2", "d3"]
    plain = RetrievalSet(data.corpus, data.queries, data.qrels)
    assert [file.name for file in (write_beir(tmp_path / "b", plain) / "qrels").iterdir()] == ["test.tsv"]
    assert read_beir(tmp_path / "b").qrels == data.qrels


IDS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5, unique=True)


@settings(max_examples=40, deadline=None)
@given(IDS, IDS, st.data())
def test_what_is_written_reads_the_same(tmp_path_factory, documents, queries, data):
    corpus = {key: Document(data.draw(st.sampled_from(["", "제목"])), f"글 {key}") for key in documents}
    some = st.dictionaries(st.sampled_from(documents), st.integers(1, 3), min_size=1)
    split = st.sampled_from(["train", "dev", "test"])
    first = RetrievalSet(
        corpus,
        {key: f"질문 {key}" for key in queries},
        {key: data.draw(some) for key in queries},
        {key: data.draw(split) for key in queries},
    )
    path = write_beir(tmp_path_factory.mktemp("beir"), first)
    assert read_beir(path) == first


def test_judgements_of_an_older_set_do_not_stay(tmp_path):
    first = RetrievalSet({"d1": Document("", "글")}, {"q1": "질문"}, {"q1": {"d1": 1}}, {"q1": "train"})
    second = RetrievalSet(first.corpus, {"q2": "물음"}, {"q2": {"d1": 1}}, {"q2": "dev"})
    write_beir(tmp_path, first)
    assert read_beir(write_beir(tmp_path, second)) == second


@pytest.mark.parametrize("key", ["d\t1", "d\n1", "d\r1", ""])
def test_an_id_that_could_not_be_read_back_is_refused_before_anything_is_written(tmp_path, key):
    for corpus, queries in (({key: Document("", "글")}, {"q": "질문"}), ({"d": Document("", "글")}, {key: "질문"})):
        with pytest.raises(InputError, match="this id cannot be written"):
            write_beir(tmp_path / "set", RetrievalSet(corpus, queries, {}))
    assert not (tmp_path / "set").exists()


def test_e5_rows_are_read_checked_and_written(tmp_path):
    rows = [
        {"query": "질문", "document": "글", "hard_negative": "딴 글"},
        {"query": "글!", "document": "글", "hard_negative": "또"},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)two texts of this row are the same.*line 2"):
        read_e5(path)
    rejects = Rejects(tmp_path / "out")
    pairs = read_e5(path, rejects=rejects)
    assert pairs.texts() == [("질문", "글", "딴 글")] and rejects.rows[0]["row"]["query"] == "글!"
    assert rejects.rows[0]["line"] == 2
    assert read_e5(write_e5(tmp_path / "b.jsonl", pairs)) == pairs
    (tmp_path / "c.jsonl").write_text('{"query": "질문", "document": "글"}\n', encoding="utf-8")
    with pytest.raises(InputError, match="three texts"):
        read_e5(tmp_path / "c.jsonl")


@pytest.mark.parametrize("kind", [str, Path])
def test_refused_rows_keep_file_and_line_wherever_python_was_started(tmp_path, monkeypatch, kind):
    """A lesson runs in notebooks/, where a path that is short already would be shortened to another one."""
    monkeypatch.setattr("helpers.course.paths.REPOSITORY", tmp_path)
    for folder in ("data", "notebooks"):
        (tmp_path / folder).mkdir()
    texts = [("질문", "글", "딴 글"), ("", "글", "딴 글"), ("또!", "글", "또")]
    rows = [dict(zip(("query", "document", "hard_negative"), row, strict=True)) for row in texts]
    path = kind(write_jsonl(tmp_path / "data/a.jsonl", [rows[0], {"query": "질문"}, *rows[1:]]))
    monkeypatch.chdir(tmp_path / "notebooks")
    rejects = Rejects(tmp_path / "out")
    assert read_e5(path, rejects=rejects).first == ["질문"]
    assert [(row["file"], row["line"]) for row in rejects.rows] == [("data/a.jsonl", line) for line in (2, 3, 4)]


def test_refused_e5_rows_keep_their_lines_behind_others_and_a_file_of_them_alone_is_refused(tmp_path):
    texts = [("", "글", "딴 글"), ("글!", "글", "또"), ("질문", "글", "딴 글"), ("또!", "글", "또")]
    rows = [dict(zip(("query", "document", "hard_negative"), row, strict=True)) for row in texts]
    rejects = Rejects(tmp_path / "out")
    for _ in range(2):
        assert read_e5(write_jsonl(tmp_path / "a.jsonl", rows), rejects=rejects).first == ["질문"]
    assert [row["line"] for row in rejects.rows] == [1, 2, 4] * 2
    with pytest.raises(InputError, match=r"(?s)no e5 row.*2 x two texts of this row are the same"):
        read_e5(write_jsonl(tmp_path / "b.jsonl", [rows[1], rows[3]]), rejects=Rejects(tmp_path / "out"))


def test_e5_rows_of_products_take_documents_of_the_same_category():
    table = read_table(sample_data("products", "products.csv"))
    pairs, rejected = e5_from_table(table, query="question", document="description", category="category")
    category = dict(zip(table["description"], table["category"], strict=True))
    assert len(pairs) + rejected.height == len(table)
    assert all(category[a] == category[b] and a != b for a, b in zip(pairs.second, pairs.negatives, strict=True))


@pytest.mark.parametrize("hard", ["similar", "random"])
def test_e5_rows_of_a_beir_folder_never_take_a_relevant_document(hard):
    data = read_beir(sample_data("retrieval", "hansol"), "train")
    pairs = e5_from_beir(data, hard=hard)
    assert len(pairs) == sum(len(grades) for grades in data.qrels.values())
    asked = {text: key for key, text in data.queries.items()}
    for query, _, negative in pairs.texts():
        assert negative not in {data.corpus[document].full() for document in data.qrels[asked[query]]}
    assert pairs == e5_from_beir(data, hard=hard)


def test_similar_negatives_share_words_with_the_query():
    corpus = {
        "d1": Document("", "전입신고는 14일"),
        "d2": Document("", "전입신고 서류"),
        "d3": Document("", "날씨가 맑다"),
    }
    data = RetrievalSet(corpus, {"q": "전입신고 기한"}, {"q": {"d1": 1}})
    assert e5_from_beir(data).negatives == ["전입신고 서류"]


def test_a_copy_of_the_relevant_document_is_no_negative():
    corpus = {"d1": Document("", "답입니다."), "d2": Document("", "답 입니다")}
    assert len(e5_from_beir(RetrievalSet(corpus, {"q": "물음"}, {"q": {"d1": 1}}))) == 0


def test_the_sample_e5_rows_are_sound():
    assert len(read_e5(sample_data("e5", "train.jsonl"))) >= 600


def test_e5_rows_whose_texts_hold_no_letter_are_told_apart(tmp_path):
    row = {"query": "지구는 둥글다 (○/×)", "document": "○", "hard_negative": "×"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert read_e5(tmp_path / "a.jsonl").texts() == [tuple(row.values())]
