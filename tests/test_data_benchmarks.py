"""Readers of the four public sets: their quirks, their labels, and rows that cannot be used."""

import datasets
import pandas as pd
import pytest

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, sample_data
from helpers.course.rejects import Rejects
from helpers.data.benchmark_hub import read_hub
from helpers.data.benchmarks import BENCHMARKS, find_file, read_benchmark, stratified_sample

SAMPLES = {"kornli": (96, 3), "question_pair": (84, 2), "hate_speech": (84, 2), "nsmc": (124, 2)}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_sample_files_are_balanced_and_read_whole(name):
    table = read_benchmark(name, sample_data("zero_shot"))
    rows, classes = SAMPLES[name]
    assert len(table) == rows and table["label"].value_counts().to_dict() == {
        label: rows // classes for label in BENCHMARKS[name].classes
    }
    assert list(table["line"]) == list(range(2, rows + 2))
    assert not table[list(BENCHMARKS[name].text_columns)].eq("").any(axis=None)


def test_a_quotation_mark_in_nsmc_is_a_plain_character(tmp_path):
    lines = ["id\tdocument\tlabel", '1\t"끝까지 웃었다\t1', "2\t그냥 그랬다\t0", '3\t그 "명작"이라는 말\t1']
    (tmp_path / "ratings_test.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    believed = pd.read_csv(tmp_path / "ratings_test.txt", sep="\t", on_bad_lines="skip", engine="python")
    assert len(believed) < 3  # a reader that believes in the mark swallows rows: the test can fail
    table = read_benchmark("nsmc", tmp_path)
    assert list(table["document"]) == ['"끝까지 웃었다', "그냥 그랬다", '그 "명작"이라는 말']
    assert list(table["label"]) == ["positive", "negative", "positive"]


def test_a_quotation_mark_in_kornli_and_hate_speech_is_a_plain_character(tmp_path):
    (tmp_path / "xnli.test.ko.tsv").write_text(
        'sentence1\tsentence2\tgold_label\n"가\t나"\tneutral\n', encoding="utf-8"
    )
    assert read_benchmark("kornli", tmp_path)[["sentence1", "sentence2"]].to_numpy().tolist() == [['"가', '나"']]
    (tmp_path / "dev.tsv").write_text('comments\tbias\n"가\tnone\n나"\tgender\n', encoding="utf-8")
    assert read_benchmark("hate_speech", tmp_path / "dev.tsv")["comments"].tolist() == ['"가', '나"']


def test_question_pair_has_a_mark_in_front_a_nameless_column_behind_and_0_for_the_same(tmp_path):
    assert sample_data("zero_shot", "question_pair", "kor_pair_test.csv").read_bytes()[:3] == b"\xef\xbb\xbf"
    lines = ["test_id,question1,question2,is_duplicate,", '0,"비, 와?",비 내려?,0,', "1,밥 먹자,잠 자자,1,"]
    (tmp_path / "kor_pair_test.csv").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    table = read_benchmark("question_pair", tmp_path)
    assert table.to_dict("list") == {
        "question1": ["비, 와?", "밥 먹자"],
        "question2": ["비 내려?", "잠 자자"],
        "label": ["same", "different"],
        "line": [2, 3],
    }


def test_both_kinds_of_bias_are_bias(tmp_path):
    rows = ["가\tFalse\tnone\toffensive", "나\tTrue\tgender\tnone", "다\tFalse\tothers\thate"]
    text = "\n".join(["comments\tcontain_gender_bias\tbias\thate", *rows])
    (tmp_path / "dev.tsv").write_text(text, encoding="utf-8")
    assert list(read_benchmark("hate_speech", tmp_path / "dev.tsv")["label"]) == ["no bias", "bias", "bias"]


def test_rows_that_cannot_be_used_are_named_or_kept(tmp_path):
    path = tmp_path / "ratings_test.txt"
    path.write_text("id\tdocument\tlabel\n1\t좋다\t1\n2\t \t0\n3\t나쁘다\t2\n4\t반쪽\n5\t별로\t0\n", encoding="utf-8")
    with pytest.raises(InputError, match="the text in document is empty") as caught:
        read_benchmark("nsmc", path)
    assert caught.value.place == "line 3"
    rejects = Rejects(tmp_path / "rows.jsonl")
    table = read_benchmark("nsmc", path, rejects)
    assert list(table["line"]) == [2, 6]
    assert [(row["line"], row["reason"]) for row in rejects.rows] == [
        (3, "the text in document is empty"),
        (4, "this label does not exist"),
        (5, "this row has another number of fields than the header"),
    ]


def test_a_folder_prefers_test_over_dev_and_says_what_it_lacks(tmp_path):
    header = "sentence1\tsentence2\tgold_label\n가\t나\tneutral\n"
    for name in ("xnli.dev.ko.tsv", "deep/xnli.test.ko.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(header, encoding="utf-8")
    assert find_file(BENCHMARKS["kornli"], tmp_path).name == "xnli.test.ko.tsv"
    with pytest.raises(InputError, match="no file of NSMC lies here"):
        read_benchmark("nsmc", tmp_path)
    with pytest.raises(InputError, match="lacks the column document"):
        read_benchmark("nsmc", tmp_path / "xnli.dev.ko.tsv")
    with pytest.raises(InputError, match="there is no such set"):
        read_benchmark("klue", tmp_path)


def test_a_sample_keeps_the_shares_of_the_classes_and_the_order_of_the_file():
    labels = ["no bias"] * 75 + ["bias"] * 25
    table = pd.DataFrame({"comments": [str(n) for n in range(100)], "label": labels, "line": range(2, 102)})
    drawn = stratified_sample(table, 20, 13)
    assert drawn["label"].value_counts().to_dict() == {"no bias": 15, "bias": 5}
    assert list(drawn["line"]) == sorted(drawn["line"])
    assert drawn.equals(stratified_sample(table, 20, 13)) and not drawn.equals(stratified_sample(table, 20, 14))
    assert len(stratified_sample(table, None, 13)) == len(stratified_sample(table, 100, 13)) == 100


@pytest.mark.parametrize("rows", [2, 94, 95])
def test_a_size_that_cannot_be_drawn_is_refused(rows):
    table = read_benchmark("kornli", sample_data("zero_shot"))
    with pytest.raises(InputError, match="in their shares") as told:
        stratified_sample(table, rows, 13)
    assert told.value.allowed.startswith("3 to 93 ")
    assert len(stratified_sample(table, 3, 13)) == 3 and len(stratified_sample(table, 93, 13)) == 93
    others = table[table["label"] != table["label"][0]]
    alone = pd.concat([others, table.head(1)], ignore_index=True)
    with pytest.raises(InputError, match="in their shares"):
        stratified_sample(alone, 10, 13)


def test_a_file_without_rows_or_in_another_encoding_is_refused(tmp_path):
    path, header = tmp_path / "ratings_test.txt", "id\tdocument\tlabel\n"
    path.write_text(header, encoding="utf-8")
    with pytest.raises(InputError, match="holds no row"):
        read_benchmark("nsmc", path)
    path.write_text(f"{header}1\t\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match="1 x the text in document is empty"):
        read_benchmark("nsmc", path, Rejects(tmp_path / "rows.jsonl"))
    path.write_bytes(f"{header}1\t좋다\t1\n".encode("cp949"))
    with pytest.raises(InputError, match="save it again as UTF-8") as told:  # this reader takes no encoding
        read_benchmark("nsmc", path)
    assert told.value.allowed == ["utf-8"]


@pytest.mark.parametrize("names", [["0", "1"], ["negative", "positive"]])
def test_a_set_of_the_hub_becomes_the_same_table(tmp_path, names):
    features = datasets.Features({"document": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {"document": ["좋다", "나쁘다"], "label": [1, 0]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "test.parquet")
    told = dict(path="parquet", data_files={"test": str(tmp_path / "test.parquet")}, cache_dir=str(tmp_path / "cache"))
    table = read_hub("nsmc", revision=None, **told)
    assert table.to_dict("list") == {"document": ["좋다", "나쁘다"], "label": ["positive", "negative"], "line": [1, 2]}
    with pytest.raises(InputError, match=r"(?s)lacks the column premise.*where: +parquet"):
        read_hub("kornli", name=None, revision=None, **told)


def test_a_row_of_the_hub_without_text_and_a_hub_that_is_not_there_are_told(tmp_path, monkeypatch):
    rows = {"document": ["좋다", None, " "], "label": ["1", "0", "0"]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "test.parquet")
    told = dict(path="parquet", data_files={"test": str(tmp_path / "test.parquet")}, cache_dir=str(tmp_path / "cache"))
    rejects = Rejects(tmp_path / "rows.jsonl")
    assert read_hub("nsmc", rejects, revision=None, **told)["document"].tolist() == ["좋다"]
    assert [(row["line"], row["reason"]) for row in rejects.rows] == [(2, "a text is empty"), (3, "a text is empty")]
    with pytest.raises(InputError, match="row 2"):
        read_hub("nsmc", revision=None, **told)

    def unreachable(**_):
        raise ConnectionError("no way")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match=r"(?s)gives no NSMC.*data_dir.*no way"):
        read_hub("nsmc")


def hub_set(tmp_path, documents, labels, names=("negative", "positive")):
    features = {"document": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))}
    rows = datasets.Dataset.from_dict({"document": documents, "label": labels}, datasets.Features(features))
    rows.to_parquet(tmp_path / "test.parquet")
    files = {"test": str(tmp_path / "test.parquet")}
    return {"path": "parquet", "data_files": files, "cache_dir": str(tmp_path / "cache"), "revision": None}


def test_a_missing_text_of_the_hub_can_be_saved_among_the_rejects(tmp_path):
    rejects = Rejects(tmp_path / "rows.jsonl")
    assert len(read_hub("nsmc", rejects, **hub_set(tmp_path, ["좋다", None], [1, 0]))) == 1
    assert read_jsonl(rejects.save())[0]["row"]["document"] == ""


@pytest.mark.parametrize(
    ("documents", "labels", "words"),
    [
        (["좋다", "나쁘다"], [1, -1], r"label does not exist.*where: +parquet.*given: +-1"),
        ([None, " "], [1, 0], r"no row to ask about.*where: +parquet.*2 x a text is empty"),
    ],
)
def test_a_set_of_the_hub_without_labels_or_texts_is_refused(tmp_path, documents, labels, words):
    with pytest.raises(InputError, match=f"(?s){words}"):
        read_hub("nsmc", Rejects(tmp_path / "rows.jsonl"), **hub_set(tmp_path, documents, labels))


def test_a_wanted_column_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "ratings_test.txt"
    path.write_text("id\tdocument\tlabel\tlabel\n1\t좋다\t1\t0\n", encoding="utf-8")
    with pytest.raises(InputError, match="column label stands here more than once"):
        read_benchmark("nsmc", path)
    path.write_text("id\tid\tdocument\tlabel\n1\t1\t좋다\t1\n", encoding="utf-8")
    assert read_benchmark("nsmc", path)["label"].tolist() == ["positive"]
