"""Normal, strong and STS sets in every format, with what is wrong named or kept."""

import gzip
import json
import pickle
import unicodedata

import pandas as pd
import pytest

from helpers.course.errors import InputError
from helpers.course.files import sample_data
from helpers.course.pickles import write_pickle
from helpers.course.rejects import Rejects
from helpers.data.pairs import Pairs, read_pairs, read_sts, without
from helpers.data.sentences import read_sentences

SENTENCES = ["오늘 날씨 어때?", "지금 몇 시야?", "근처 카페 추천해 줘."]
FIRST, SECOND = ["영화 추천해 줘.", "영어를 잘하는 법은?"], ["타이타닉이 좋을 것 같아요.", "단어부터 외우세요."]


def write(path, text, encoding="utf-8"):
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.csv", "a.jsonl", "a.jsonl.gz", "a.pkl", "옛.txt"])
def test_a_normal_set_reads_the_same_from_every_format(tmp_path, name):
    path = tmp_path / name
    rough = [unicodedata.normalize("NFD", SENTENCES[0]), f"  {SENTENCES[1]} ", SENTENCES[2], SENTENCES[2]]
    if name.endswith(".pkl"):
        write_pickle(path, rough)
    elif ".jsonl" in name:
        write(path, "\n".join(json.dumps({"text": text}) for text in rough))
    elif name == "a.csv":
        pd.DataFrame({"id": range(4), "sentence": rough}).to_csv(path, index=False)
    else:
        write(path, "\n\n".join(rough if name[0] == "a" else SENTENCES), "utf-8" if name[0] == "a" else "cp949")
    assert read_sentences(path) == SENTENCES
    if name[0] == "a":
        assert len(read_sentences(path, distinct=False)) == 4


def test_a_draw_of_sentences_keeps_the_order_of_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "\n".join(f"문장 {n}" for n in range(50)))
    everything, drawn = read_sentences(path), read_sentences(path, 20, seed=1)
    assert len(drawn) == 20 and drawn == [text for text in everything if text in drawn]
    assert drawn == read_sentences(path, 20, seed=1) != read_sentences(path, 20, seed=2)
    for most in (0, -1):
        with pytest.raises(InputError, match=r"(?s)too few sentences.*most"):
            read_sentences(path, most)


def test_an_empty_sentence_is_named_or_kept(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\n"첫\n문장"\n" "\n둘째\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"the text is empty\n.*a.csv, line 4"):
        read_sentences(path)
    rejects = Rejects(tmp_path / "out.txt")
    assert read_sentences(path, rejects=rejects) == ["첫 문장", "둘째"]
    assert [(row["line"], row["reason"]) for row in rejects.rows] == [(4, "the text is empty")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([("가", "나")], "no normal set"),
        ("한 문장", "no normal set"),
        ([], "no sentence"),
        (["가", " "], "text is empty"),
    ],
)
def test_a_pickle_that_is_no_normal_set(tmp_path, content, words):
    write_pickle(tmp_path / "a.pkl", content)
    with pytest.raises(InputError, match=words):
        read_sentences(tmp_path / "a.pkl")


def test_a_pickle_that_would_run_a_program_is_refused(tmp_path):
    class Harmless:
        def __reduce__(self):
            return print, ("a program ran",)

    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(["가", Harmless()]))
    for read in (read_sentences, read_pairs):
        with pytest.raises(InputError, match=r"builtins\.print"):
            read(tmp_path / "bad.pkl")


def test_which_column_is_asked_where_it_is_not_clear(tmp_path):
    path = write(tmp_path / "a.csv", "질문,답\n가,나\n")
    with pytest.raises(InputError, match=r"(?s)which column.*질문, 답"):
        read_sentences(path)
    assert read_sentences(path, column="답") == ["나"]
    with pytest.raises(InputError, match=r"(?s)which column.*본문"):
        read_sentences(path, column="본문")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tuples.pkl", list(zip(FIRST, SECOND, strict=True))),
        ("lists.pkl", (FIRST, SECOND)),
        ("A.PKL", (FIRST, SECOND)),
        ("A.CSV", "sentence_a,sentence_b\n" + "\n".join(map(",".join, zip(FIRST, SECOND, strict=True)))),
        ("A.JSONL", "\n".join(json.dumps({"sentences": pair}) for pair in zip(FIRST, SECOND, strict=True))),
        ("a.csv", "sentence_a,sentence_b\n" + "\n".join(map(",".join, zip(FIRST, SECOND, strict=True)))),
        ("b.tsv", "id\tanchor\tpositive\n" + "\n".join(map("1\t{}\t{}".format, FIRST, SECOND))),
        ("c.jsonl", "\n".join(json.dumps({"query": a, "document": b}) for a, b in zip(FIRST, SECOND, strict=True))),
        ("d.jsonl.gz", "\n".join(json.dumps({"sentences": pair}) for pair in zip(FIRST, SECOND, strict=True))),
    ],
)
def test_a_strong_set_reads_the_same_from_every_format(tmp_path, name, content):
    path = tmp_path / name
    write_pickle(path, content) if path.suffix.lower() == ".pkl" else write(path, content)
    assert read_pairs(path) == Pairs(FIRST, SECOND)


def test_lists_in_a_list_are_sides_unless_they_could_be_pairs(tmp_path):
    path = write_pickle(tmp_path / "a.pkl", [list("가나다라"), list("마바사아")])
    assert read_pairs(path) == Pairs(list("가나다라"), list("마바사아"))
    assert read_pairs(write_pickle(path, [["가", "나"]] * 4)) == Pairs(["가"] * 4, ["나"] * 4)
    for content in ([["가", "나"], ["다", "라"]], [["가", "나"]] * 3, [["가", "나", "다"]] * 2):
        with pytest.raises(InputError, match=r"(?s)could be the sides.*as tuples"):
            read_pairs(write_pickle(path, content))


def test_hard_negatives_and_scores_come_along(tmp_path):
    write_pickle(tmp_path / "a.pkl", [("가", "나", "다"), ("라", "마", "바")])
    assert read_pairs(tmp_path / "a.pkl").negatives == ["다", "바"]
    path = write(tmp_path / "b.csv", "sentence_a,sentence_b,hard_negative,score\n가,나,다,4.5\n")
    assert read_pairs(path) == Pairs(["가"], ["나"], ["다"], [4.5])
    group = write(tmp_path / "c.jsonl", '{"sentences": ["가", "나", "다"]}\n')
    assert read_pairs(group) == Pairs(["가", "나"], ["나", "다"])


@pytest.mark.parametrize(
    "columns", ["anchor,positive", "query,document", "sentence1,sentence2", "sentence_a,sentence_b"]
)
def test_a_hard_negative_is_found_under_both_names_and_never_lost(tmp_path, columns):
    for name in ("negative", "hard_negative"):
        assert read_pairs(write(tmp_path / "a.csv", f"{columns},{name}\n가,나,다\n")).negatives == ["다"]
    for names in ("negative_1,negative_2", "hard_negatives", "negative,hard_negative"):
        path = write(tmp_path / "a.csv", f"{columns},{names}\n가,나{',다' * len(names.split(','))}\n")
        with pytest.raises(
            InputError,
            match=rf"(?s)one hard negative.*given:   {', '.join(names.split(','))}\n.*hard_negative or negative",
        ):
            read_pairs(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (["가", "나"], "item 1"),
        ([("가", "나"), ("다",)], "item 2"),
        ([["가", "나"], ["다"]], "differ in length"),
        ([], "no pair"),
        ([("가", "")], "sentence_b is empty"),
        ([("가", "나", "다", "라")], "item 1"),
    ],
)
def test_a_pickle_that_is_no_strong_set(tmp_path, content, words):
    write_pickle(tmp_path / "a.pkl", content)
    with pytest.raises(InputError, match=words):
        read_pairs(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n가,나\n", "no known pair of columns"),
        ("sentence_a,sentence_b\n가,나\n다,\n", r"(?s)sentence_b is empty.*line 3"),
        ("sentence_a,sentence_b,score\n가,나,높음\n", r"(?s)score '높음' is no number.*line 2"),
        ("sentence_a,sentence_b,score\n가,나,5.5\n", "not between 0 and 5"),
        ("sentence_a,sentence_b,score\n가,나,nan\n", "not between 0 and 5"),
        ("sentence_a,sentence_b\n가,나,다\n", r"(?s)3 fields.*line 2"),
        ("query,document,negative\n가,나,다\n가,나,나!\n", r"(?s)negative is the same text as its positive.*line 3"),
    ],
)
def test_a_table_that_is_no_strong_set(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_pairs(write(tmp_path / "a.csv", text))


def test_refused_pairs_are_kept_with_their_lines(tmp_path):
    path = write(tmp_path / "a.csv", "sentence_a,sentence_b\n가,나\n다,라,마\n바,\n사,아\n")
    rejects = Rejects(tmp_path / "out")
    assert read_pairs(path, rejects=rejects) == Pairs(["가", "사"], ["나", "아"])
    assert [row["line"] for row in rejects.rows] == [3, 4]
    groups = write(
        tmp_path / "b.jsonl", '{"sentences": ["가", "나"]}\n{"sentences": "다"}\n{broken\n{"sentences": ["혼자"]}\n'
    )
    rejects = Rejects(tmp_path / "out")
    assert len(read_pairs(groups, rejects=rejects)) == 1
    assert sorted((row["line"], row["reason"][:10]) for row in rejects.rows)[::2] == [
        (2, "a group is"),
        (4, "a group is"),
    ]


def test_two_reads_of_one_file_may_share_their_rejects(tmp_path):
    table = write(tmp_path / "a.csv", "sentence_a,sentence_b\n가,나\n다,\n라,마,바\n사,\n아,자\n")
    groups = write(tmp_path / "b.jsonl", '{"sentences": ["가", "나"]}\n{"sentences": []}\n{broken\n{"sentences": []}\n')
    texts = write(tmp_path / "c.csv", 'text\n가\n" "\n나,다\n" "\n')
    for read, path in ((read_pairs, table), (read_pairs, groups), (read_sentences, texts)):
        rejects = Rejects(tmp_path / "out")
        first = read(path, rejects=rejects)
        lines = [row["line"] for row in rejects.rows]
        assert read(path, rejects=rejects) == first
        assert [row["line"] for row in rejects.rows] == lines * 2 and len(lines) == 3


def test_korsts_quotation_marks_are_characters(tmp_path):
    header = "genre\tfilename\tyear\tid\tscore\tsentence1\tsentence2\n"
    path = write(tmp_path / "sts.tsv", header + 'main\tMSR\t2012\t1\t3.2\t"그는 갔다\t그는 "갔다\n')
    assert read_sts(path) == Pairs(['"그는 갔다'], ['그는 "갔다'], None, [3.2])
    with pytest.raises(InputError, match="no STS file"):
        read_sts(write(tmp_path / "b.tsv", "a\tb\n1\t2\n"))


def test_an_sts_split_is_taken_or_named():
    dev = read_sts(sample_data("sts", "sts.tsv"), "dev")
    whole = read_sts(sample_data("sts", "sts.tsv"))
    assert 0 < len(dev) < len(whole) and min(whole.scores) >= 0 and max(whole.scores) <= 5
    with pytest.raises(InputError, match=r"(?s)no such split.*dev"):
        read_sts(sample_data("sts", "sts.tsv"), "valid")


def test_an_sts_file_without_sides_is_halved_and_that_is_said(tmp_path, capsys):
    rows = "".join(f"{n % 6}\t가 {n}\t나 {n}\n" for n in range(5))
    path = write(tmp_path / "a.tsv", "score\tsentence1\tsentence2\n" + rows)
    assert read_sts(path, "dev").first == ["가 0", "가 2", "가 4"]
    assert capsys.readouterr().out == "a.tsv has no column split: every second of its rows, 3, is dev\n"
    assert read_sts(path, "test").scores == [1.0, 3.0]
    assert len(read_sts(path)) == 5
    with pytest.raises(InputError, match=r"(?s)no such split.*dev, test"):
        read_sts(path, "valid")


def test_scored_pairs_to_train_with_come_from_an_sts_file(tmp_path):
    header = "genre\tscore\tsentence1\tsentence2\n"
    path = write(tmp_path / "train.tsv", header + 'main\t3.2\t"그는 갔다\t그는 "갔다\n')
    assert read_pairs(path) == Pairs(['"그는 갔다'], ['그는 "갔다'], None, [3.2])
    assert read_pairs(write(tmp_path / "TRAIN.TSV", path.read_text(encoding="utf-8"))) == read_pairs(path)
    packed = write(tmp_path / "train.tsv.gz", header + "main\t3.2\t가\t나\n")
    assert read_pairs(packed) == Pairs(["가"], ["나"], None, [3.2])


def test_pairs_with_texts_of_the_test_set_go():
    pairs = Pairs(["가", "나"], ["다", "라"], ["마", "바"])
    assert without(pairs, {"바", "x"}) == pairs.take([0])
    with pytest.raises(InputError, match="differ in length"):
        Pairs(["가"], [])


def test_the_sample_sets_hold_what_their_cards_say():
    folder = sample_data("sentences")
    normal = read_sentences(folder / "normal_sentences.txt")
    assert len(normal) >= 1500 and normal == read_sentences(folder / "normal_sentences.pkl")
    strong = read_pairs(folder / "strong_dataset.csv")
    assert len(strong) >= 600 and strong == read_pairs(folder / "strong_dataset.pkl")
