"""The runner on a small course of its own: progress, resuming, failures, the report, stored outputs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import NoSuchKernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.course import launch
from helpers.course.command_line import parse_value
from helpers.course.errors import InputError
from helpers.course.execution import Outcome, finished_outcome, run_lesson
from helpers.course.lessons import (
    READS,
    Lesson,
    check_parameters,
    choose_lessons,
    find_lessons,
    fingerprint,
)
from helpers.course.paths import REPOSITORY
from helpers.course.records import read_records
from helpers.course.refresh import measured_table, store_outputs
from helpers.course.report import read_results, write_results
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


def copy_of_the_course(root: Path) -> Lesson:
    """The real lesson 02 in a small repository: of the data only the scored pairs and a model's small files."""
    for folder in ("config", "helpers", "sample_data/sts"):
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    model = root / "sample_data" / "models" / "ko-mini-encoder"
    model.mkdir(parents=True)
    for name in ("SHA256SUMS", "config.json"):
        shutil.copy(REPOSITORY / "sample_data" / "models" / "ko-mini-encoder" / name, model)
    for name in ("requirements/cpu.lock", "notebooks/02_simcse_lora.ipynb"):
        (root / name).parent.mkdir()
        shutil.copy(REPOSITORY / name, root / name)
    return Lesson(root / "notebooks" / "02_simcse_lora.ipynb")


def change_a_letter(path: Path) -> None:
    """Another content of the same size, at the same time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_fingerprint_sees_one_letter_changed_in_any_file_that_a_result_rests_on(tmp_path):
    lesson = copy_of_the_course(tmp_path)
    seen = {"at first": fingerprint(lesson, {"profile": "cpu"}, tmp_path)}
    files = [
        "helpers/__init__.py", "helpers/embedding/losses.py", "helpers/course/fonts.py", "config/simcse.yaml",
        "config/accelerate/one_machine.yaml", "requirements/cpu.lock", "sample_data/sts/sts.tsv",
        "sample_data/models/ko-mini-encoder/SHA256SUMS", "sample_data/models/ko-mini-encoder/config.json",
    ]  # fmt: skip
    for name in files:
        change_a_letter(tmp_path / name)
        seen[name] = fingerprint(lesson, {"profile": "cpu"}, tmp_path)
    seen["parameter"] = fingerprint(lesson, {"profile": "t4"}, tmp_path)
    (tmp_path / "sample_data" / "weights").write_bytes(bytes(2**20))
    seen["new file"] = fingerprint(lesson, {"profile": "t4"}, tmp_path)
    (tmp_path / "sample_data" / "weights").write_bytes(bytes(2**20 + 1))
    seen["longer file"] = fingerprint(lesson, {"profile": "t4"}, tmp_path)
    notebook = nbformat.read(lesson.path, as_version=4)
    notebook.cells[-1].metadata["tags"] = ["another"]
    nbformat.write(notebook, lesson.path)
    seen["tag"] = fingerprint(Lesson(lesson.path), {"profile": "t4"}, tmp_path)
    notebook.cells[-1].source += " "
    nbformat.write(notebook, lesson.path)
    seen["cell"] = fingerprint(Lesson(lesson.path), {"profile": "t4"}, tmp_path)
    assert len(set(seen.values())) == len(seen), seen

    for cell in notebook.cells:
        cell.outputs = []
    nbformat.write(notebook, lesson.path)
    (tmp_path / "sample_data" / "__pycache__").mkdir()
    (tmp_path / "sample_data" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
    assert fingerprint(Lesson(lesson.path), {"profile": "t4"}, tmp_path) == seen["cell"], "what a run leaves counts"


def test_what_lessons_take_from_one_another_is_declared():
    """Wherever code, settings or a stored output names a path in another lesson's outputs, READS has it."""
    lessons = {lesson.name: lesson for lesson in find_lessons()}
    for lesson in lessons.values():
        code = [cell for cell in lesson.notebook.cells if cell.cell_type == "code"]
        text = json.dumps([[cell.source, cell.outputs] for cell in code])
        named = {name for name in re.findall(r"outputs/((?:\d\d|A\d)_\w+)/", text) if name != lesson.name}
        assert named <= {path.split("/")[1] for path in READS.get(lesson.number, ())}, lesson.name
    files = [*(REPOSITORY / "helpers").rglob("*.py"), *(REPOSITORY / "config").rglob("*.yaml")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.name != "lessons.py")
    named = set(re.findall(r"outputs/(?:\d\d|A\d)_\w+/[\w./]+", text)) - {"outputs/05_embedding_evaluation/leaderboard"}
    assert named == {path for paths in READS.values() for path in paths}  # the leaderboard's page is no lesson
    assert all(path.split("/")[1] in lessons for path in named)


WRITER = """from pathlib import Path
from helpers.course.records import record
place = Path("../outputs/06_instruction_data/train.jsonl")
place.parent.mkdir(parents=True, exist_ok=True)
place.write_text(str(loss_temperature))
record(temperature=loss_temperature)"""
READER = "from pathlib import Path\nPath('../outputs/06_instruction_data/train.jsonl').read_text()"


def test_a_lesson_run_with_other_values_is_run_again_by_the_course_with_its_readers(tmp_path, capfd, results):
    write_lesson(tmp_path, "00_a", "1")
    write_lesson(tmp_path, "06_instruction_data", WRITER)
    write_lesson(tmp_path, "07_b", READER)

    def done():
        assert main(["course"], tmp_path) == 0
        return re.findall(r"(\d\d)_\w+ .*done before", capfd.readouterr().out)

    assert done() == []
    assert done() == ["00", "06", "07"]
    assert main(["lesson", "06", "-p", "temperature", "0.9"], tmp_path) == 0
    assert (tmp_path / "outputs" / "06_instruction_data" / "train.jsonl").read_text() == "0.9"
    assert done() == ["00"]
    assert (tmp_path / "outputs" / "06_instruction_data" / "train.jsonl").read_text() == "0.1"
    assert results(tmp_path)["lessons"]["06_instruction_data"]["metrics"] == {"temperature": 0.1}
    assert done() == ["00", "06", "07"]


@pytest.mark.parametrize("raised", [RuntimeError("Kernel didn't respond in 300 seconds"), NoSuchKernel("python3")])
def test_a_kernel_that_never_answers_fails_its_lesson_alone(tmp_path, monkeypatch, capfd, results, raised):
    write_lesson(tmp_path, "00_a", "1")
    write_lesson(tmp_path, "01_b", "1")

    def start(path, output, **options):
        assert options["start_timeout"] >= 300
        raise raised

    monkeypatch.setattr("papermill.execute_notebook", start)
    assert main(["course"], tmp_path) == 1
    assert str(raised) in capfd.readouterr().err
    lessons = results(tmp_path)["lessons"]
    assert [lesson["status"] for lesson in lessons.values()] == ["failed", "failed"]
    assert lessons["00_a"]["error"]["message"] == str(raised)
    assert (tmp_path / "outputs" / "report.html").is_file()


def test_a_smoke_run_of_one_lesson_keeps_what_is_told_of_the_others(tmp_path, results):
    write_lesson(tmp_path, "00_a", RECORD)
    write_lesson(tmp_path, "01_b", RECORD)
    assert main(["smoke"], tmp_path) == 0
    before = results(tmp_path, "outputs/smoke")["lessons"]
    write_lesson(tmp_path, "01_b", "1 / 0")
    assert main(["smoke", "01"], tmp_path) == 1
    after = results(tmp_path, "outputs/smoke")["lessons"]
    assert list(after) == ["00_a", "01_b"] and after["00_a"] == before["00_a"]
    assert after["01_b"]["status"] == "failed"
    page = (tmp_path / "outputs" / "smoke" / "report.html").read_text(encoding="utf-8")
    assert 'id="00_a"' in page and 'id="01_b"' in page


@pytest.mark.parametrize(
    "text", ['{"lessons": {"00', "[1]", "{}", '{"lessons": [1]}', '{"lessons": {"00_a": {"state": 1}}}']
)
def test_a_damaged_record_of_earlier_runs_is_said_and_left_out(tmp_path, capfd, text):
    path = tmp_path / "outputs" / "results.json"
    write_results(path, {"00_a": Outcome("ok", 1.0, 100)}, {})
    assert read_results(path) == {"00_a": Outcome("ok", 1.0, 100)} and capfd.readouterr().out == ""
    path.write_text(text, encoding="utf-8")
    assert read_results(path) == {}
    assert "results.json is damaged" in capfd.readouterr().out


def test_a_wrong_answer_fails_a_run_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "0")  # so that what the runner sets goes with this test
    monkeypatch.delenv("COURSE_STRICT")
    path = write_lesson(
        tmp_path, "00_a", "from helpers.course.exercises import check\ncheck('size', False, 'count again')"
    )
    outcome = run_lesson(Lesson(path), tmp_path / "out.ipynb", {})
    assert outcome.error["cell"] == 3 and "count again" in outcome.error["message"]


def test_processes_take_the_usable_cores_and_are_read_in_the_order_of_their_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen = []

    def start(command, env, **_):
        seen.append(env["OMP_NUM_THREADS"])
        raise FileNotFoundError

    monkeypatch.setattr(launch.subprocess, "Popen", start)
    with pytest.raises(FileNotFoundError):
        launch.torchrun(2, "a")
    assert seen == ["3"]
    for rank in range(12):
        (tmp_path / "run" / "attempt_0" / str(rank)).mkdir(parents=True)
        (tmp_path / "run" / "attempt_0" / str(rank) / "stdout.log").write_text(f"{rank} ")
    assert "".join(launch._written(str(tmp_path), "stdout")).split() == [str(rank) for rank in range(12)]


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


def test_null_is_no_value_of_a_parameter(tmp_path):
    """papermill would hand on None, which a lesson takes for: as the settings file says."""
    path = write_lesson(tmp_path, "00_a")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "temperature = None"
    nbformat.write(notebook, path)
    with pytest.raises(InputError, match=r"(?s)null means.*parameter temperature.*copy of the settings file"):
        check_parameters(Lesson(path), {"temperature": None})


def test_short_forms_stand_for_the_names_of_the_lesson(tmp_path):
    path = write_lesson(tmp_path, "00_a")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = "loss_temperature = 0.1\nlr = 1e-3\nepochs = 2"
    nbformat.write(notebook, path)
    given = {"temperature": 1, "learning_rate": 2, "num_epochs": 3}
    assert check_parameters(Lesson(path), given) == {"loss_temperature": 1, "lr": 2, "epochs": 3}


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ("no table", "needs the columns"),
        ("| profile | minutes |\n|---|---|\n| cpu | 1 |", "needs the columns"),
        ("| profile | minutes | peak memory |\n|---|---|---|\n| t4 | 1 | 2 |", "no row `cpu`"),
        ("| profile | minutes | peak memory |\n|---|---|---|\n| cpu | 1 |", "2 cells of 3"),
    ],
)
def test_a_measured_table_that_cannot_be_filled_is_said(table, wrong):
    with pytest.raises(ValueError, match=wrong):
        measured_table(f"# Title\n<!-- measured -->\n{table}", 1, 1)


def test_a_marker_for_measured_figures_that_shares_its_line_is_said():
    with pytest.raises(ValueError, match="line of its own"):
        measured_table("here: <!-- measured -->\n| profile | minutes | peak memory |\n| cpu | 1 | 2 |", 1, 1)


def test_pieces_of_a_progress_bar_are_stored_as_the_bar_looked_at_the_end(tmp_path):
    path, executed = write_lesson(tmp_path, "00_a"), tmp_path / "executed.ipynb"
    notebook = nbformat.read(path, as_version=4)
    pieces = [("stderr", "\r 10%"), ("stderr", "\r 50%"), ("stderr", "\r100%"), ("stderr", "\n"), ("stdout", "done\n")]
    notebook.cells[1].outputs = [new_output("stream", name=name, text=text) for name, text in pieces]
    nbformat.write(notebook, executed)
    store_outputs(Lesson(path), executed, Outcome("ok", 60.0, 2048))
    stored = nbformat.read(path, as_version=4).cells[1].outputs
    assert [(output.name, output.text) for output in stored] == [("stderr", "100%\n"), ("stdout", "done\n")]


def test_a_lesson_without_the_marker_is_left_as_it_was(tmp_path):
    path = write_lesson(tmp_path, "00_a")
    path.write_text(path.read_text(encoding="utf-8").replace("<!-- measured -->", ""), encoding="utf-8")
    before = path.read_bytes()
    with pytest.raises(InputError, match="one cell with the marker"):
        store_outputs(Lesson(path), path, Outcome("ok", 60.0, 2048))
    assert path.read_bytes() == before


def test_figures_are_kept_whatever_backend_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")  # as streamlit sets it when it is imported
    write_lesson(tmp_path, "00_good", RECORD, FIGURE)
    assert main(["course"], tmp_path) == 0
    assert (tmp_path / "outputs/report.html").read_text(encoding="utf-8").count("data:image/png;base64,") == 1
