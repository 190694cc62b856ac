"""Malformed input of every kind: the error names what, where, what was given and what is allowed."""

import gzip
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest
from pydantic import Field

from helpers.course import separated
from helpers.course.checksums import verify_checksums, write_checksums
from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, read_table, write_jsonl, write_table
from helpers.course.lessons import Lesson, check_parameters, choose_lessons
from helpers.course.pickles import read_pickle
from helpers.course.records import record
from helpers.course.rejects import Rejects
from helpers.course.settings import LessonSettings


class Knobs(LessonSettings):
    model: str = "sample_data/models/none"
    loss_temperature: float = Field(0.1, gt=0, le=5)
    epochs: int = Field(1, ge=1)
    pooling: str = Field("mean", pattern="mean|cls")
    lr: float | None = None


def yaml(text):
    def read(folder: Path):
        (folder / "knobs.yaml").write_text(text, encoding="utf-8")
        Knobs.load(folder / "knobs.yaml")

    return read


def json(text):
    def read(folder: Path):
        (folder / "knobs.json").write_text(text, encoding="utf-8")
        Knobs.load(folder / "knobs.json")

    return read


def table(name, content, **options):
    def read(folder: Path):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        read_table(folder / name, **options)

    return read


def lines(content):
    def read(folder: Path):
        (folder / "rows.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
        read_jsonl(folder / "rows.jsonl")

    return read


def pickled(value):
    def read(folder: Path):
        (folder / "set.pkl").write_bytes(value if isinstance(value, bytes) else pickle.dumps(value))
        read_pickle(folder / "set.pkl")

    return read


class Bomb:
    def __reduce__(self):
        return os.system, ("echo a program ran > bombed.txt",)


def cut_gzip(folder: Path):
    write_jsonl(folder / "rows.jsonl.gz", [{"text": "가" * 500}] * 50)
    whole = (folder / "rows.jsonl.gz").read_bytes()
    (folder / "rows.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    read_jsonl(folder / "rows.jsonl.gz")


def cut_parquet(folder: Path):
    write_table(folder / "rows.parquet", pd.DataFrame({"text": ["가"] * 100}))
    whole = (folder / "rows.parquet").read_bytes()
    (folder / "rows.parquet").write_bytes(whole[:-20])
    read_table(folder / "rows.parquet")


def parquet(*columns, names=("text",)):
    def read(folder: Path):
        arrow_parquet.write_table(pa.table(list(columns), names=list(names)), folder / "rows.parquet")
        read_table(folder / "rows.parquet")

    return read


def weights(change):
    def check(folder: Path):
        (folder / "model.safetensors").write_bytes(b"weights" * 100)
        write_checksums(folder)
        change(folder)
        verify_checksums(folder)

    return check


def pointer(folder: Path):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 700\n"
    (folder / "model.safetensors").write_text(text)


def parameter(**given):
    def check(folder: Path):
        check_parameters(Lesson(lesson_file(folder)), given)

    return check


def lesson_file(folder: Path) -> Path:
    import nbformat

    source = 'profile = "cpu"\nloss_temperature = None\nlr = None'
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), folder / "02_simcse_lora.ipynb")
    return folder / "02_simcse_lora.ipynb"


CASES = {
    # settings
    "an unknown key": (
        yaml("epochs: 2\nlos_temperature: 0.05\n"),
        [
            "no such setting in Knobs",
            "knobs.yaml, key los_temperature",
            "given:   0.05",
            "did you mean loss_temperature?",
        ],
    ),
    "an unknown key in a section that is not in use": (
        yaml("profiles:\n  a100:\n    epoch: 3\n"),
        ["no such setting", "key profiles.a100.epoch", "given:   3", "did you mean epochs?"],
    ),
    "a number out of its range": (
        yaml("loss_temperature: -1\n"),
        ["does not fit", "knobs.yaml, key loss_temperature", "given:   -1", "a number, greater than 0 and at most 5"],
    ),
    "a word where a number belongs": (
        yaml("epochs: many\n"),
        ["does not fit", "key epochs", "given:   many", "allowed: a whole number, at least 1"],
    ),
    "a word that is not on offer": (
        yaml("pooling: max\n"),
        ["does not fit", "key pooling", "given:   max", "allowed: text, matching mean|cls"],
    ),
    "yes where a number belongs": (yaml("epochs: yes\n"), ["a number is needed here", "key epochs", "given:   True"]),
    "a profile that does not exist": (
        yaml("profiles:\n  gpu:\n    epochs: 3\n"),
        ["no such profile", "key profiles.gpu", "given:   gpu", "allowed: cpu, t4, a100"],
    ),
    "a section that is no section": (
        yaml("smoke: true\n"),
        ["a section of keys is needed", "key smoke", "given:   True", "`key: value`"],
    ),
    "YAML that is broken": (
        yaml("epochs: 2\nlr: [1e-4\npooling: mean\n"),
        ["no valid YAML", "knobs.yaml, line 3", "given:   pooling: mean"],
    ),
    "a key twice": (yaml("epochs: 2\nepochs: 3\n"), ["no valid YAML", "'epochs' stands twice", "line 2, column 1"]),
    "JSON with a comma too many": (
        json('{"epochs": 2,}'),
        ["no valid JSON", "knobs.json, line 1, column 1", "no comma after the last value"],
    ),
    "a list instead of keys": (yaml("- epochs\n- lr\n"), ["keys and values, this one holds a list", "`key: value`"]),
    "a settings file that does not exist": (
        lambda folder: (yaml("epochs: 2")(folder), Knobs.load(folder / "knob.yaml")),
        ["does not exist", "knob.yaml", "allowed: knobs.yaml", "did you mean knobs.yaml?"],
    ),
    "a settings file of another kind": (
        lambda folder: Knobs.load(folder / "knobs.toml"),
        ["no settings file", "knobs.toml", "given:   .toml", ".yaml, .yml, .json"],
    ),
    "a wrong parameter value": (
        lambda folder: Knobs.load(epochs=0),
        ["does not fit", "where:   parameter epochs", "given:   0", "at least 1"],
    ),
    # tables
    "a row with a field too many": (
        table("rows.csv", "name,text\n적금,좋다\n예금,참, 좋다\n"),
        ["has 3 fields, the first line names 2 columns", "rows.csv, line 3", "given:   예금,참, 좋다", "double quotes"],
    ),
    "a quotation mark never closed": (
        table("rows.csv", 'name,text\n적금,"좋다\n예금,참 좋다\n'),
        ["never closed", "rows.csv, line 2", "written twice"],
    ),
    "two quotation marks never closed": (
        table("rows.csv", 'name,text\n적금,"좋다\n예금,"참 좋다\n'),
        ["never closed, or closed before its field ends", "rows.csv, line 2"],
    ),
    "text after a closing quotation mark": (
        table("rows.csv", 'name,text\n적금,"좋다" 정말\n'),
        ["closed before its field ends", "rows.csv, line 2", 'given:   적금,"좋다" 정말'],
    ),
    "a quotation mark out of place after a lone carriage return": (
        table("rows.csv", 'name,text\r적금,좋다\r예금,"참"좋다\r'),
        ["closed before its field ends", "rows.csv, line 3", 'given:   예금,"참"좋다'],
    ),
    "an empty table": (table("rows.csv", ""), ["this table is empty", "rows.csv", "names of the columns"]),
    "two columns of one name": (
        table("rows.csv", "text,text\n가,나\n"),
        ["two columns have the same name", "line 1", "given:   text"],
    ),
    "a column without a name": (table("rows.csv", "text,\n가,나\n"), ["a column has no name", "line 1, column 2"]),
    "a broken byte in UTF-8": (
        table("rows.csv", "text\n오늘은 날씨가 맑다\n".encode() + b"\xea\xb0\n" + "내일도 맑겠다\n".encode()),
        ["not in utf-8", "line 3, byte 1", "given:   byte 0xEA", "cp949", "save it again as UTF-8"],
    ),
    "another encoding than was named": (
        table("rows.csv", "text\n오늘은 날씨가 맑다\n".encode("cp949"), encoding="utf-8"),
        [
            "not in utf-8",
            "rows.csv, line 2, byte 1",
            "byte 0xBF",
            "allowed: utf-8, utf-8-sig, cp949, euc-kr",
            "it reads well as",
        ],
    ),
    "an encoding that is not known": (
        table("rows.csv", "text\n가\n", encoding="utf-99"),
        ["encoding is not known", "given:   utf-99", "allowed: utf-8, utf-8-sig, cp949, euc-kr"],
    ),
    "UTF-16 from a spreadsheet": (
        table("rows.csv", "text\n가\n".encode("utf-16")),
        ["this text is in UTF-16", "rows.csv", "CSV UTF-8"],
    ),
    "a binary file": (table("rows.csv", b"text\nabc\0def\n"), ["no text file: it holds zero bytes", "line 2"]),
    "a table in a format not known": (
        table("rows.xlsx", b"PK"),
        ["no table that can be read", "rows.xlsx", "given:   .xlsx", ".parquet"],
    ),
    "a file that does not exist": (
        lambda folder: (table("rows.csv", "text\n가\n")(folder), read_table(folder / "row.csv")),
        ["does not exist", "row.csv", "this folder holds rows.csv"],
    ),
    "a parquet file cut short": (cut_parquet, ["no readable parquet file", "rows.parquet", "cut short"]),
    "lists in a parquet column": (
        parquet([["가", "나"]], names=["positives"]),
        ["this column holds list", "rows.parquet, column positives", "text or numbers"],
    ),
    **{
        f"bytes in a parquet column of {kind}": (
            parquet(pa.array([b"four"], kind)),
            [f"this column holds {kind}", "rows.parquet, column text", "text or numbers"],
        )
        for kind in (pa.binary(), pa.large_binary(), pa.binary(4), pa.binary_view())
    },
    "two parquet columns of one name": (
        parquet(["가"], ["나"], names=["text", "text"]),
        ["two columns have the same name", "rows.parquet", "given:   text"],
    ),
    "a jsonl table whose keys change": (
        table("rows.jsonl", '{"query": "가", "document": "나"}\n{"query": "가", "documnet": "나"}\n'),
        ["keys of this object differ", "documnet", "line 2", "allowed: query, document"],
    ),
    "a list in a jsonl table": (
        table("rows.jsonl", '{"query": "가", "document": ["나"]}\n'),
        ["'document' is a list", "line 1", "given:   ['나']"],
    ),
    "a jsonl table with an object that holds nothing": (
        table("rows.jsonl", '{}\n{"query": "가"}\n'),
        ["this object has no key", "rows.jsonl, line 1"],
    ),
    # JSON lines
    "a line that is no JSON": (
        lines('{"text": "가"}\n\n{text: "나"}\n'),
        ["no valid JSON", "rows.jsonl, line 3, column 2", 'given:   {text: "나"}', "one JSON object a line"],
    ),
    "a line that is no object": (lines('["가", "나"]\n'), ["JSON, but a list", "line 1", "one JSON object a line"]),
    "a JSON key twice": (lines('{"text": "가", "text": "나"}\n'), ["'text' stands twice", "line 1"]),
    "NaN in JSON": (lines('{"score": NaN}\n'), ["NaN is no JSON number", "line 1", 'given:   {"score": NaN}']),
    "a number beyond all bounds": (
        lines('{"score": -1e999}\n'),
        ["the number -1e999 is too large", "line 1", 'given:   {"score": -1e999}'],
    ),
    "half a character": (lines('{"text": "\\ud83d"}\n'), ["half a character", "rows.jsonl, line 1"]),
    "JSON lines in cp949": (
        lines('{"text": "오늘"}\n'.encode("cp949")),
        ["not in utf-8", "line 1, byte 11", "allowed: utf-8\n", "reads well as cp949: save it again as UTF-8"],
    ),
    "a packed file cut short": (cut_gzip, [".gz file is damaged or cut short", "rows.jsonl.gz", "download it again"]),
    # pickles
    "a pickle that runs a program": (
        pickled([Bomb()]),
        ["asks for posix.system", "could run a program", "set.pkl", "lists, tuples and strings only"],
    ),
    "a pickle of another type": (
        pickled(["가", ("나", {"score": 1})]),
        ["type dict is not admitted", "set.pkl, item 1 > item 1", "given:   {'score': 1}", "tuples and strings only"],
    ),
    "a pickle of a class": (pickled(OrderedDict(a="가")), ["asks for collections.OrderedDict", "set.pkl"]),
    "a number in a pickle": (pickled(["가", 3]), ["type int is not admitted", "item 1", "given:   3"]),
    "a pickle cut short": (pickled(pickle.dumps(["가", "나"])[:-4]), ["no readable pickle", "set.pkl", "cut short"]),
    "an empty pickle": (pickled(b""), ["this pickle is empty (0 bytes)", "set.pkl"]),
    "a pickle that asks for all memory": (
        pickled(b"\x80\x04]r\xff\xff\xff\xff."),
        ["would take up all memory", "set.pkl"],
    ),
    # checksums
    "weights cut short": (
        weights(lambda folder: (folder / "model.safetensors").write_bytes(b"weights" * 99)),
        ["its checksum does not match", "model.safetensors", "693 bytes", "clone the repository again"],
    ),
    "weights that are missing": (
        weights(lambda folder: (folder / "model.safetensors").unlink()),
        ["a file of this model is missing", "model.safetensors", "clone the repository again"],
    ),
    "a Git LFS pointer instead of weights": (weights(pointer), ["model.safetensors", "git lfs pull"]),
    "no checksums": (
        weights(lambda folder: (folder / "SHA256SUMS").unlink()),
        ["there is no SHA256SUMS", "write_checksums(folder)"],
    ),
    "a checksum line that is none": (
        weights(lambda folder: (folder / "SHA256SUMS").write_text("abc  model.safetensors\n")),
        ["no checksum line", "SHA256SUMS, line 1", "given:   abc  model.safetensors", "64 hexadecimal digits"],
    ),
    "a list of checksums that is empty": (
        weights(lambda folder: (folder / "SHA256SUMS").write_text("\n")),
        ["the list of checksums is empty", "SHA256SUMS", "clone the repository again"],
    ),
    # lessons and parameters
    "a parameter that the lesson does not have": (
        parameter(lerning_rate=1),
        ["no such parameter", "02_simcse_lora.ipynb, parameter lerning_rate", "allowed: profile, loss_temperature, lr"],
    ),
    "a parameter and its short form": (
        parameter(temperature=1, loss_temperature=2),
        ["given twice", "parameter loss_temperature", "given:   2"],
    ),
    "a lesson that does not exist": (
        lambda folder: choose_lessons([Lesson(lesson_file(folder))], ["17"]),
        ["no such lesson", "given:   17", "allowed: 02"],
    ),
    "a metric that is no number": (
        lambda folder: record(losses=[1, 2]),
        ["cannot be recorded", "metric losses", "given:   [1, 2]", "a number or a string"],
    ),
    "a metric that is not finite": (lambda folder: record(loss=float("nan")), ["not a finite number", "metric loss"]),
}


@pytest.mark.parametrize("case", CASES)
def test_message_names_what_where_and_what_is_allowed(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act, parts = CASES[case]
    with pytest.raises(InputError) as caught:
        act(tmp_path)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    assert not (tmp_path / "bombed.txt").exists()
    assert max(map(len, message.split("\n"))) < 400


def test_gzip_that_is_none(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_text("{}")
    with pytest.raises(InputError, match="damaged or cut short"):
        read_jsonl(tmp_path / "rows.jsonl.gz")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "가"}\n')
    assert read_jsonl(tmp_path / "rows.jsonl.gz") == [{"text": "가"}]


def test_a_field_that_is_too_long_is_called_that(tmp_path, monkeypatch):
    monkeypatch.setattr(separated, "LONGEST_FIELD", 20)
    (tmp_path / "rows.csv").write_text("name,text\n" + "가" * 30 + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)a field has more than 20 characters.*rows.csv, line 2"):
        read_table(tmp_path / "rows.csv")


def test_a_byte_order_mark_written_twice_is_no_part_of_a_name(tmp_path):
    (tmp_path / "rows.csv").write_text("\ufeff\ufeffid,text\n007,a\n", encoding="utf-8")
    table = read_table(tmp_path / "rows.csv")
    assert table.to_dict("records") == [{"id": "007", "text": "a"}] and table.attrs["encoding"] == "utf-8-sig"


def test_an_object_that_holds_nothing_is_kept_apart_from_the_rows(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{}\n{"query": "가"}\n{}\n', encoding="utf-8")
    rejects = Rejects(tmp_path / "out")
    assert read_table(tmp_path / "rows.jsonl", rejects=rejects).to_dict("records") == [{"query": "가"}]
    assert [row["line"] for row in rejects.rows] == [1, 3]


def test_an_error_survives_being_sent_between_processes():
    error = InputError("wrong", file="a.csv", place="line 2", given=3, allowed=["1", "2"], hint="look")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "wrong\n  where:   a.csv, line 2\n  given:   3\n  allowed: 1, 2\n  hint:    look"
    assert again.allowed == ["1", "2"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [("", "nothing to see"), ("가\n나", r"가\n나"), ("x" * 500, "(500 characters)"), (0, "given:   0")],
)
def test_a_given_value_stays_on_one_line(value, shown):
    message = str(InputError("wrong", given=value))
    assert shown in message
    assert message.count("\n") == 1
