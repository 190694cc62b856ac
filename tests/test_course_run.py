"""The runner on a small course of its own: progress, resuming, failures, the report, stored outputs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.course.errors import InputError
from helpers.course.execution import Outcome, finished_outcome
from helpers.course.lessons import Lesson, check_parameters, choose_lessons, find_lessons, fingerprint, parse_value
from helpers.course.paths import REPOSITORY
from helpers.course.records import read_records
from helpers.course.refresh import measured_table, store_outputs
from helpers.course.run import main

HEAD = """# {} 한글 제목

<!-- measured -->
| profile | download | minutes | peak memory |
|---|---|---|---|
| cpu | none | ? | ? |
| t4 | 1 GB | not measured yet | not measured yet |
"""
PARAMETERS = 'profile = "cpu"\nconfig = None\nsmoke = False\noutput_dir = None\nloss_temperature: float = 0.1'
RECORD = (
    "from helpers.course.records import record\n"
    "from pathlib import Path\n"
    "record(temperature=loss_temperature, smoke=smoke, output_dir=str(output_dir), folder=Path.cwd().name)"
)
FIGURE = (
    "from helpers.course.plots import line_figure, use_course_style\nuse_course_style()\n"
    "line_figure({'손실': ([1, 2], [2, 1])}, '손실', '단계', '손실')"
)
PROGRESS = "for i in range(3):\n    print(f'{i}/3', end='\\r')\nprint('done')"


def write_lesson(root: Path, name: str, *cells: str) -> Path:
    (root / "notebooks").mkdir(exist_ok=True)
    parameters = new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[new_markdown_cell(HEAD.format(name)), parameters, *map(new_code_cell, cells)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    return root / "notebooks" / f"{name}.ipynb"


@pytest.fixture
def results():
    def read(root: Path, folder: str = "outputs") -> dict:
        return json.loads((root / folder / "results.json").read_text(encoding="utf-8"))

    return read


def test_a_course_with_a_failing_lesson_and_its_second_run(tmp_path, capfd, results):
    write_lesson(tmp_path, "00_good", RECORD, FIGURE)
    bad = write_lesson(tmp_path, "01_bad", "x = 1", "def f():\n    raise ValueError('나쁜 값')\nf()")
    write_lesson(tmp_path, "A1_dies", "import os\nos._exit(3)")
    (tmp_path / "notebooks" / "02_broken.ipynb").write_text("{")

    assert main(["course"], tmp_path) == 1
    out, err = capfd.readouterr()
    assert re.search(r"\[ 1/4\] 00_good +ok +\d+\.\d s +\d+ MB\n\[ 2/4\] 01_bad +failed", out)
    assert "1 of 4 lessons ran" in out
    assert (
        "01_bad failed in cell 4:\n    def f():\n        raise ValueError('나쁜 값')\n    f()\n  ValueError: 나쁜 값"
        in err
    )
    assert "02_broken failed:\n  this file is no notebook" in err
    assert "A1_dies failed in cell 3:\n    import os\n    os._exit(3)\n  Kernel died" in err
    lessons = results(tmp_path)["lessons"]
    assert list(lessons) == ["00_good", "01_bad", "02_broken", "A1_dies"]
    good = lessons["00_good"]
    assert good["status"] == "ok"
    assert good["metrics"] == {"temperature": 0.1, "smoke": False, "output_dir": "None", "folder": "notebooks"}
    assert 0 < good["seconds"] < 120
    assert 30 < good["peak_mb"] < 3000
    assert lessons["01_bad"]["error"]["cell"] == 4
    assert results(tmp_path)["machine"]["cores"] >= 1
    page = (tmp_path / "outputs" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert "failed, cell 4" in page and "00_good 한글 제목" in page and "Course Korean" in page
    assert "http" not in page.replace("https://", "http://").split("<body>")[0]  # it needs no other file

    bad_source = bad.read_text(encoding="utf-8")
    bad.write_text(bad_source.replace("raise ValueError('나쁜 값')", "return 1"), encoding="utf-8")
    (tmp_path / "notebooks" / "02_broken.ipynb").unlink()
    (tmp_path / "notebooks" / "A1_dies.ipynb").unlink()
    assert main(["course"], tmp_path) == 0
    out, _ = capfd.readouterr()
    assert re.search(r"00_good .*\(done before\)\n\[ 2/2\] 01_bad +ok +\d+\.\d s +\d+ MB\n", out)
    assert results(tmp_path)["lessons"]["00_good"] == good


def test_one_lesson_with_parameters_by_the_runner_and_by_plain_papermill(tmp_path, capfd, results):
    path = write_lesson(tmp_path, "02_lesson", RECORD)
    assert main(["lesson", "2", "-p", "temperature", "0.05", "--smoke"], tmp_path) == 0
    out, _ = capfd.readouterr()
    assert "temperature is short for loss_temperature" in out
    assert "  temperature: 0.05\n" in out
    metrics = read_records(tmp_path / "outputs" / "lessons" / "02_lesson.ipynb")
    assert metrics["temperature"] == 0.05 and metrics["smoke"] is True

    command = [sys.executable, "-m", "papermill", str(path), "out.ipynb", "-p", "loss_temperature", "0.2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, env=None)
    assert read_records(tmp_path / "out.ipynb")["temperature"] == 0.2

    assert main(["smoke", "02"], tmp_path) == 0
    metrics = results(tmp_path, "outputs/smoke")["lessons"]["02_lesson"]["metrics"]
    assert (metrics["smoke"], metrics["output_dir"]) == (True, "outputs/smoke/02_lesson")
    assert metrics["folder"] == tmp_path.name  # the root, where papermill is started; else it is `notebooks`


def test_wrong_arguments_are_refused_before_anything_runs(tmp_path, capfd):
    write_lesson(tmp_path, "02_lesson", RECORD)
    assert main(["lesson", "02", "-p", "temprature", "1"], tmp_path) == 2
    assert "did you mean temperature or loss_temperature?" in capfd.readouterr().err
    assert main(["lesson", "03"], tmp_path) == 2
    assert "allowed: 02" in capfd.readouterr().err
    assert main(["lesson", "02", "-p", "config", "a", "-p", "config", "b"], tmp_path) == 2
    assert "given twice" in capfd.readouterr().err
    assert main(["course"], tmp_path / "notebooks") == 2
    assert "there is no lesson here" in capfd.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_smoke_run_is_never_taken_for_a_real_one(tmp_path, monkeypatch, capfd, results):
    path = write_lesson(tmp_path, "00_good", RECORD)
    before = path.read_bytes()
    monkeypatch.setenv("COURSE_SMOKE", "1")
    assert main(["course"], tmp_path) == 0
    assert results(tmp_path, "outputs/smoke")["lessons"]["00_good"]["metrics"]["smoke"] is True
    assert main(["refresh"], tmp_path) == 2 and path.read_bytes() == before
    assert "unset COURSE_SMOKE" in capfd.readouterr().err
    monkeypatch.delenv("COURSE_SMOKE")
    assert main(["course"], tmp_path) == 0
    assert "(done before)" not in capfd.readouterr().out
    assert results(tmp_path)["lessons"]["00_good"]["metrics"]["smoke"] is False


def test_refresh_stores_clean_outputs_and_measured_figures(tmp_path, capfd):
    path = write_lesson(tmp_path, "00_good", RECORD, PROGRESS)
    leak = write_lesson(tmp_path, "01_leak", "from helpers.course.files import REPOSITORY\nREPOSITORY / 'outputs'")
    before = leak.read_bytes()
    assert main(["refresh"], tmp_path) == 1
    error = capfd.readouterr().err
    assert "01_leak failed:\n  an output shows a path of this machine" in error and "cell 3" in error
    assert leak.read_bytes() == before

    notebook = nbformat.read(path, as_version=4)
    assert re.search(r"\| cpu \| none \| \d+\.\d \| \d+\.\d GB \|\n\| t4 \| 1 GB \| not", notebook.cells[0].source)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert notebook.cells[3].outputs[0].text == "done\n"
    assert read_records(path)["temperature"] == 0.1
    text = path.read_text(encoding="utf-8")
    assert "papermill" not in text and str(REPOSITORY) not in text and "iopub" not in text
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}


# --- the parts


def test_lessons_stand_in_their_order_and_are_called_by_number(tmp_path):
    for name in ("A1_last", "11_eleven", "02_two", "notes", "2_two"):
        write_lesson(tmp_path, name)
    lessons = find_lessons(tmp_path)
    assert [lesson.number for lesson in lessons] == ["02", "11", "A1"]
    assert lessons[0].title == "02_two 한글 제목"
    assert [lesson.name for lesson in choose_lessons(lessons, ["A1", "2"])] == ["02_two", "A1_last"]
    assert choose_lessons(lessons, []) == lessons


def test_fingerprint_changes_with_all_that_a_result_rests_on(tmp_path):
    path = write_lesson(tmp_path, "00_a", "1")
    for name in ("helpers/a.py", "config/a.yaml", "sample_data/a.csv"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("a")

    def mark(**parameters):
        return fingerprint(Lesson(path), parameters, tmp_path)

    seen = [mark()]
    assert mark() == seen[0]
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="x")]
    nbformat.write(notebook, path)
    assert mark() == seen[0], "stored outputs do not count"
    (tmp_path / "sample_data" / "__pycache__").mkdir()
    (tmp_path / "sample_data" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
    assert mark() == seen[0], "what Python compiled does not count"
    seen.append(mark(profile="t4"))
    for name, text in (("helpers/a.py", "b"), ("config/a.yaml", "b"), ("sample_data/a.csv", "ab")):
        (tmp_path / name).write_text(text)
        seen.append(mark())
    (tmp_path / "sample_data" / "b.csv").write_text("")
    seen.append(mark())
    write_lesson(tmp_path, "00_a", "2")
    seen.append(mark())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "content", [None, "", "{}", '{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}']
)
def test_an_unfinished_copy_is_not_taken_for_a_done_lesson(tmp_path, content):
    if content is not None:
        (tmp_path / "a.ipynb").write_text(content)
    assert finished_outcome(tmp_path / "a.ipynb", "mark") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.05", 0.05),
        ("1e-6", 1e-6),
        ("3", 3),
        ("True", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ("NaN", "NaN"),
        ("intfloat/multilingual-e5-large", "intfloat/multilingual-e5-large"),
        ("02", "02"),
        ("", ""),
    ],
)
def test_values_of_the_command_line(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_a_parameter_of_the_lessons_own_is_never_taken_for_a_short_form(tmp_path):
    path = write_lesson(tmp_path, "00_a")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "temperature = 0.7\nloss_temperature = 0.1"
    nbformat.write(notebook, path)
    assert check_parameters(Lesson(path), {"temperature": 1}) == {"temperature": 1}


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ("no table", "needs the columns"),
        ("| profile | minutes |\n|---|---|\n| cpu | 1 |", "needs the columns"),
        ("| profile | minutes | peak memory |\n|---|---|---|\n| t4 | 1 | 2 |", "no row `cpu`"),
    ],
)
def test_a_measured_table_that_cannot_be_filled_is_said(table, wrong):
    with pytest.raises(ValueError, match=wrong):
        measured_table(f"# Title\n<!-- measured -->\n{table}", 1, 1)


def test_a_lesson_without_the_marker_is_left_as_it_was(tmp_path):
    path = write_lesson(tmp_path, "00_a")
    path.write_text(path.read_text(encoding="utf-8").replace("<!-- measured -->", ""), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(InputError, match="one cell with the marker"):
        store_outputs(Lesson(path), path, Outcome("ok", 60.0, 2048))
    assert path.read_bytes() == before
