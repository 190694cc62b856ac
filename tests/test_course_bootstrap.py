"""The first cell of every lesson is the same, does nothing here, and fetches the course on Colab."""

import importlib.machinery
import os
import subprocess
import sys

import nbformat
import pytest

from helpers.course import bootstrap
from helpers.course.errors import InputError
from helpers.course.files import REPOSITORY
from helpers.course.lessons import find_lessons


@pytest.mark.parametrize("lesson", find_lessons(REPOSITORY), ids=lambda lesson: lesson.name)
def test_every_lesson_carries_the_same_first_cell(lesson):
    cell = bootstrap.first_code_cell(lesson)
    assert cell.source == bootstrap.CELL, "run: python -m helpers.course.bootstrap"
    assert "nbval-check-output" not in cell.metadata.get("tags", [])


def test_the_cell_is_short():
    assert len(bootstrap.CELL.split("\n")) <= 15 and max(map(len, bootstrap.CELL.split("\n"))) <= 120


ADDRESS = "https://github.com/{}/korean-fine-tuning"


def run_cell(monkeypatch, there, cloned=False, account="somebody"):
    """Run the cell of a published copy with only the modules in `there` importable; returns the commands it asked for."""
    asked = []

    def find(name):
        return importlib.machinery.ModuleSpec(name, None) if name in there else None

    def call(command):
        asked.append(command)
        if command[0] == "git":
            there.add("helpers")

    monkeypatch.setattr("importlib.util.find_spec", find)
    monkeypatch.setattr(subprocess, "check_call", call)
    monkeypatch.setattr(os, "chdir", lambda folder: asked.append(["cd", folder]))
    monkeypatch.setattr(os.path, "isdir", lambda folder: cloned and folder == "/content/course")
    monkeypatch.setattr(sys, "path", path := list(sys.path))
    if cloned:  # then it is the path that makes the course importable
        monkeypatch.setattr("importlib.util.find_spec", lambda name: find(name) or ("/content/course" in path or None))
    exec(bootstrap.CELL.replace(bootstrap.REPOSITORY_URL, ADDRESS.format(account)), {})
    return asked


def test_nothing_is_fetched_where_the_course_is(monkeypatch):
    assert run_cell(monkeypatch, {"helpers"}) == []
    assert run_cell(monkeypatch, {"helpers", "google", "google.colab"}) == []


def test_colab_clones_and_installs(monkeypatch):
    clone, cd, install = run_cell(monkeypatch, {"google", "google.colab"})
    assert clone[:2] == ["git", "clone"] and clone[-2] == ADDRESS.format("somebody")
    assert cd == ["cd", f"{clone[-1]}/notebooks"] and install[-1] == "../requirements/gpu.txt"
    assert (REPOSITORY / "notebooks" / install[-1]).is_file()


def test_a_kernel_that_was_started_again_clones_nothing(monkeypatch):
    cd, install = run_cell(monkeypatch, {"google", "google.colab"}, cloned=True)
    assert cd[0] == "cd" and install[-1] == "../requirements/gpu.txt" and "/content/course" in sys.path


def test_without_an_address_the_cell_says_what_to_set(monkeypatch):
    with pytest.raises(AssertionError, match=r"in place of OWNER .*README"):
        run_cell(monkeypatch, {"google", "google.colab"}, account="OWNER")
    assert bootstrap.REPOSITORY_URL in bootstrap.CELL


def test_without_environment_the_cell_says_what_to_do(monkeypatch):
    for there in (set(), {"google"}):  # google alone: a package of that name, not Colab
        with pytest.raises(SystemExit, match="make env"):
            run_cell(monkeypatch, there)


def test_the_command_writes_the_cell_and_refuses_a_stranger(tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "02_a.ipynb"
    cells = [nbformat.v4.new_code_cell("from importlib.util import find_spec"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert bootstrap.main(["--check"], tmp_path) == 1 and "02_a has another" in capsys.readouterr().out
    assert bootstrap.main([], tmp_path) == 0
    assert [cell.source for cell in nbformat.read(path, 4).cells] == [bootstrap.CELL, "1 + 1"]
    assert bootstrap.main(["--check"], tmp_path) == 0
    assert bootstrap.main(["--fix"], tmp_path) == 2
    nbformat.write(nbformat.v4.new_notebook(cells=cells[1:]), path)
    with pytest.raises(InputError, match=r"02_a\.ipynb"):
        bootstrap.main([], tmp_path)
