"""Paths, atomic writes, encodings, JSON lines and tables: what is written comes back, whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as arrow_parquet
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.course.atomic import replaced_folder
from helpers.course.encodings import decode_text
from helpers.course.errors import InputError
from helpers.course.files import (
    REPOSITORY,
    atomic_write,
    course_data_dir,
    read_bytes,
    read_jsonl,
    read_table,
    repository_path,
    row_lines,
    sample_data,
    short_path,
    write_jsonl,
    write_table,
)
from helpers.course.rejects import Rejects

SHARED_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KOREAN = [chr(code) for code in range(0xAC00, 0xD7A4)]
COMMON = [letter for letter in KOREAN if len(letter.encode("euc-kr", errors="replace")) == 2]
MARKS = list(" \",\t\n\r;|'.·…~%\\abcZ019")
SENTENCE = "오늘은 날씨가 맑아서 한강까지 걸었습니다."


def texts(letters):
    return st.lists(st.text(st.sampled_from(letters), max_size=12), min_size=1, max_size=6)


# --- paths and atomic writes


def test_relative_paths_start_at_the_root_wherever_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert repository_path("config") == REPOSITORY / "config"
    assert repository_path(tmp_path) == tmp_path
    assert (REPOSITORY / "pyproject.toml").is_file()


def test_short_path_shows_no_machine():
    assert short_path(REPOSITORY / "outputs" / "a.csv") == "outputs/a.csv"
    assert short_path(os.path.expanduser("~/models/x")) == "~/models/x"


def test_a_home_that_is_the_root_shortens_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert short_path("/data/a.csv") == "/data/a.csv"


def test_sample_data_and_course_data_say_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="sample_data/none"):
        sample_data("none")
    monkeypatch.setenv("KO_DATA_DIR", str(tmp_path))
    (tmp_path / "sts").mkdir()
    assert course_data_dir("sts") == tmp_path / "sts"
    with pytest.raises(InputError, match="KO_DATA_DIR"):
        course_data_dir("nli")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as file:
        file.write("old\n")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_bytes() == b"old\n"
    assert [left.name for left in path.parent.iterdir()] == ["a.txt"]


def test_a_killed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"text": "old"}])
    program = (
        "import os, sys\nfrom helpers.course.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n    file.write('half'); file.flush(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=REPOSITORY)
    assert done.returncode == 9
    assert read_jsonl(path) == [{"text": "old"}]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode
    (tmp_path / "a.txt").chmod(0o600)
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("y")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o600  # what was kept from others stays so


def test_a_file_takes_its_name_only_when_the_disk_has_it_whole(tmp_path, monkeypatch):
    on_disk = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: on_disk.append((os.fstat(handle).st_size, list(tmp_path.glob("a.txt"))))
    )
    with atomic_write(tmp_path / "a.txt") as file:
        file.write("whole")
    assert on_disk == [(5, [])]


def test_a_file_is_written_through_a_link(tmp_path):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "large_disk" / "a.txt")
    for text in ("first", "second"):  # the file is made, then replaced
        with atomic_write(tmp_path / "link.txt") as file:
            file.write(text)
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "large_disk" / "a.txt").read_text() == text
    assert [path.name for path in (tmp_path / "large_disk").iterdir()] == ["a.txt"]


def test_a_read_only_file_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != path)  # root may write all that it likes
    with pytest.raises(InputError, match=r"(?s)could not be written.*a\.txt.*read-only"), atomic_write(path) as file:
        file.write("new")
    assert path.read_text() == "old" and [left.name for left in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("name", "why"), [("folder", "a folder has this name"), ("file/a.txt", "is a file"), ("x" * 300, "too long")]
)
def test_a_file_that_cannot_be_written_is_named(tmp_path, name, why):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=rf"(?s)could not be written.*{name}.*{why}"):
        write_jsonl(tmp_path / name, [{"text": "a"}])
    assert Rejects(tmp_path / name).save() is None  # there is none to remove
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_leaves_the_old_file_and_says_which_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=r"(?s)a\.txt.*No space left"), atomic_write(path) as file:
        file.write("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and [left.name for left in tmp_path.iterdir()] == ["a.txt"]


def test_what_goes_wrong_with_another_file_meanwhile_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="source"), atomic_write(tmp_path / "a.txt") as file:
        file.write((tmp_path / "source.txt").read_text())
    assert not list(tmp_path.iterdir())


def test_a_replaced_folder_is_followed_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replaced_folder(tmp_path / "link") as new:
        (new / "a.txt").write_text("new")
        assert new.stat().st_mode & 0o777 == 0o755  # a model is not its maker's alone, as a temporary folder is
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_replaced_costs_neither_the_old_nor_the_new(tmp_path, monkeypatch, failing):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.txt").write_text("old")
    replace, calls = os.replace, []

    def once(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError(16, "busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(InputError, match="could not be replaced") as told, replaced_folder(tmp_path / "model") as new:
        (new / "a.txt").write_text("new")
    assert (tmp_path / "model" / "a.txt").read_text() == "old"
    assert (new / "a.txt").read_text() == "new" and new.name in str(told.value)


def test_a_failed_block_leaves_the_old_folder_and_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ZeroDivisionError), replaced_folder(tmp_path / "model"):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="this is a file"), replaced_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_a_file_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"is a file, not a folder\n.*a\.txt/b\.txt"):
        read_bytes(tmp_path / "a.txt" / "b.txt")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the tests may run as root, who may read all
    with pytest.raises(InputError, match=r"may not be read\n.*a\.txt"):
        read_bytes(tmp_path / "a.txt")


# --- encodings


@pytest.mark.parametrize(
    ("text", "encoding", "found"),
    [
        (SENTENCE, "utf-8", "utf-8"),
        (SENTENCE, "utf-8-sig", "utf-8-sig"),
        (SENTENCE, "euc-kr", "euc-kr"),
        (SENTENCE + " 똠방각하", "cp949", "cp949"),
        ("plain words", "cp949", "utf-8"),
    ],
)
def test_the_encoding_is_found_and_said(tmp_path, text, encoding, found):
    (tmp_path / "a.csv").write_bytes(f"text\n{text}\n".encode(encoding))
    frame = read_table(tmp_path / "a.csv")
    assert frame.attrs["encoding"] == found
    assert frame["text"].tolist() == [text]
    assert read_table(tmp_path / "a.csv", encoding=encoding)["text"].tolist() == [text]


@pytest.mark.parametrize("name", ["CP949", "ms949", "uhc", "EUC_KR", "UTF8"])
def test_other_names_of_an_encoding_are_known(name):
    assert decode_text(SENTENCE.encode(name), "a.csv", name)[0] == SENTENCE


def test_a_byte_order_mark_never_reaches_the_first_column(tmp_path):
    (tmp_path / "a.csv").write_bytes("text\n가\n".encode("utf-8-sig"))
    assert read_table(tmp_path / "a.csv", encoding="utf-8").columns.tolist() == ["text"]


@given(st.text(st.sampled_from(COMMON), min_size=1))
def test_broken_utf8_is_never_taken_for_cp949(text):
    data = (SENTENCE + text).encode() + b"\xea" + f"\n{SENTENCE}".encode()
    with pytest.raises(InputError, match="not in utf-8"):
        decode_text(data, "a.csv")


@given(st.binary())
def test_any_bytes_are_decoded_exactly_or_refused(data):
    try:
        text, encoding = decode_text(data, "a.csv")
    except InputError:
        return
    assert encoding == "euc-kr" or text.encode(encoding) == data  # euc-kr has two spellings of some syllables


# --- JSON lines

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@SHARED_FOLDER
@given(rows=st.lists(st.dictionaries(st.text(), PLAIN, max_size=4), max_size=5), packed=st.booleans())
def test_json_lines_come_back(tmp_path, rows, packed):
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    write_jsonl(path, rows)
    assert read_jsonl(path) == rows


def test_packed_json_lines_are_the_same_bytes_each_time(tmp_path):
    first = write_jsonl(tmp_path / "a.jsonl.gz", [{"text": SENTENCE}]).read_bytes()
    assert write_jsonl(tmp_path / "b.jsonl.gz", [{"text": SENTENCE}]).read_bytes() == first


@pytest.mark.parametrize("row", [{"score": float("nan")}, {"text": "\ud800"}, {"text": {1, 2}}])
def test_what_json_cannot_hold_is_named_and_nothing_written(tmp_path, row):
    with pytest.raises(InputError, match="row 2"):
        write_jsonl(tmp_path / "a.jsonl", [{"text": "가"}, row])
    assert not (tmp_path / "a.jsonl").exists()


def test_bad_lines_are_kept_as_rejects(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nnot json\n[1]\n{"a": 2}\n')
    rejects = Rejects(tmp_path / "out.jsonl")
    assert read_jsonl(tmp_path / "a.jsonl", rejects=rejects) == [{"a": 1}, {"a": 2}]
    assert [(row["line"], row["row"]) for row in rejects.rows] == [(2, "not json"), (3, "[1]")]


# --- tables


@SHARED_FOLDER
@given(cells=texts(COMMON + MARKS), encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp949", "euc-kr"]), data=st.data())
def test_csv_and_tsv_come_back_in_every_encoding(tmp_path, cells, encoding, data):
    ending = data.draw(st.sampled_from([".csv", ".tsv"]))
    frame = pd.DataFrame({"id": [f"r{n}" for n in range(len(cells))], "text": cells}, dtype="str")
    path = write_table(tmp_path / f"a{ending}", frame, encoding)
    back = read_table(path, encoding)
    assert back.to_dict("list") == frame.to_dict("list")
    assert back.index.tolist() == list(range(len(cells)))
    assert len(row_lines(path, encoding)) == len(cells)


@SHARED_FOLDER
@given(cells=texts(KOREAN))
def test_cp949_is_found_without_being_named(tmp_path, cells):
    frame = pd.DataFrame({"text": [SENTENCE, *(cell for cell in cells if cell)]}, dtype="str")
    path = write_table(tmp_path / "a.csv", frame, "cp949")
    back = read_table(path)
    assume(back.attrs["encoding"] != "utf-8")
    assert back["text"].tolist() == frame["text"].tolist()


@SHARED_FOLDER
@given(cells=texts(KOREAN + MARKS))
def test_parquet_and_jsonl_come_back(tmp_path, cells):
    frame = pd.DataFrame({"text": cells, "empty": [""] * len(cells)}, dtype="str")
    for ending in (".parquet", ".jsonl"):
        assert read_table(write_table(tmp_path / f"a{ending}", frame)).to_dict("list") == frame.to_dict("list")


def test_every_cell_is_text(tmp_path):
    frame = pd.DataFrame({"n": [1, 2], "x": [0.5, None], "b": [True, False]})
    frame.to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("n,x\n007,NA\n,nan\n")
    assert read_table(tmp_path / "a.parquet").to_dict("list") == {
        "n": ["1", "2"], "x": ["0.5", ""], "b": ["true", "false"]
    }  # fmt: skip
    assert read_table(tmp_path / "a.csv").to_dict("list") == {"n": ["007", ""], "x": ["NA", "nan"]}


def test_a_number_that_is_none_is_an_empty_cell(tmp_path):
    arrow_parquet.write_table(pa.table({"x": pa.array([0.5, float("nan"), None])}), tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["x"].tolist() == ["0.5", "", ""]


def test_quotation_marks_can_be_taken_as_they_are(tmp_path):
    (tmp_path / "a.tsv").write_text('score\ttext\n3\t"그래\n4\t"네" 하고 답했다\n')
    frame = read_table(tmp_path / "a.tsv", quoted=False)
    assert frame["text"].tolist() == ['"그래', '"네" 하고 답했다']
    with pytest.raises(InputError, match="never closed"):
        read_table(tmp_path / "a.tsv")


def test_a_quotation_mark_amid_an_unquoted_text_stays(tmp_path):
    (tmp_path / "a.csv").write_text('text,n\n화면은 27" 크기,1\n')
    assert read_table(tmp_path / "a.csv")["text"].tolist() == ['화면은 27" 크기']


def test_text_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("첫 줄\r\n\r\n둘째 줄\n".encode("cp949"))
    frame = read_table(tmp_path / "a.txt")
    assert frame["text"].tolist() == ["첫 줄", "둘째 줄"]
    assert row_lines(tmp_path / "a.txt") == [1, 3]


def test_row_lines_know_rows_that_span_lines(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,"x\ny"\n\n2,z\n')
    assert read_table(tmp_path / "a.csv")["b"].tolist() == ["x\ny", "z"]
    assert row_lines(tmp_path / "a.csv") == [2, 5]


def test_no_row_is_lost_when_some_are_rejected(tmp_path):
    (tmp_path / "a.csv").write_text('a,b\n1,2\n3\n4,"x\ny"\n5,6,7\n8,9\n')
    rejects = Rejects(tmp_path / "out.csv")
    frame = read_table(tmp_path / "a.csv", rejects=rejects)
    assert frame["a"].tolist() == ["1", "4", "8"]
    assert [(row["line"], row["row"]) for row in rejects.rows] == [(3, ["3"]), (6, ["5", "6", "7"])]
    assert len(frame) + len(rejects) == 5


def test_rejects_are_written_counted_and_do_not_outlive_their_run(tmp_path):
    rejects = Rejects(tmp_path / "out.jsonl")
    rejects.add({"name": "적금"}, "products.csv", 3, "the description is empty")
    rejects.add(("a", "b"), "products.csv", 9, "too few fields")
    rejects.add(("c", "d"), "products.csv", 10, "too few fields")
    path = rejects.save()
    assert path == tmp_path / "out.jsonl.rejected.jsonl"
    assert read_jsonl(path)[0] == {
        "reason": "the description is empty", "file": "products.csv", "line": 3, "row": {"name": "적금"}
    }  # fmt: skip
    assert rejects.counts == {"too few fields": 2, "the description is empty": 1}
    assert rejects.summary().startswith("3 rows rejected (2 x too few fields; 1 x the description is empty)")
    assert Rejects(tmp_path / "out.jsonl").save() is None
    assert not path.exists()


def test_a_character_that_an_encoding_lacks_is_named(tmp_path):
    with pytest.raises(InputError, match=r"does not exist in cp949\n.*line 3\n.*given:   ☕"):
        write_table(tmp_path / "a.csv", pd.DataFrame({"text": ["가", "커피 ☕"]}), "cp949")
    assert not (tmp_path / "a.csv").exists()


def test_a_broken_byte_is_counted_with_the_mark_and_utf_16_is_called_that():
    with pytest.raises(InputError, match=r"line 2, byte 4\n.*0xFF"):
        decode_text(b"\xef\xbb\xbf" + "가\n나".encode() + b"\xff", "a.csv")
    for name in ("utf-16-le", "utf-16-be"):
        with pytest.raises(InputError, match="this text is in UTF-16"):
            decode_text(f"\ufeff{SENTENCE}".encode(name), "a.csv")


def test_an_object_ends_at_its_line_break_alone_and_may_not_be_nested_too_deeply(tmp_path):
    rows = [{"text": "가\u2028나\x85다"}]
    assert read_jsonl(write_jsonl(tmp_path / "a.jsonl", rows)) == rows
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ' + "[" * 100_000)
    with pytest.raises(InputError, match=r"this line cannot be used.*\n.*line 2"):
        read_jsonl(tmp_path / "a.jsonl")
