"""The first code cell of every lesson, from one source: it fetches the course on Colab and does nothing elsewhere.

python -m helpers.course.bootstrap           write the cell into every notebook
python -m helpers.course.bootstrap --check   only say which notebooks have another one (exit status 1)
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from helpers.course.atomic import atomic_write
from helpers.course.errors import InputError
from helpers.course.lessons import Lesson, find_lessons
from helpers.course.paths import REPOSITORY

REPOSITORY_URL = "https://github.com/OWNER/korean-fine-tuning"
"""Where Colab clones the course from: whoever publishes a copy puts its address here and runs this module."""

CELL = f"""\
import os
import sys
from importlib.util import find_spec
from subprocess import check_call

if not find_spec("helpers") and find_spec("google") and find_spec("google.colab"):
    address = "{REPOSITORY_URL}"
    assert "/OWNER/" not in address, "put the account that holds the course in place of OWNER above (README, Colab)"
    if not os.path.isdir("/content/course"):  # it is there when the kernel was started again
        check_call(["git", "clone", "--depth", "1", address, "/content/course"])
    os.chdir("/content/course/notebooks")
    check_call([sys.executable, "-m", "pip", "install", "-q", "-r", "../requirements/gpu.txt"])
    sys.path.insert(0, "/content/course")
if not find_spec("helpers"):
    sys.exit("The course's environment is not active: run `make env`, then `make lab`.")"""


def first_code_cell(lesson: Lesson) -> nbformat.NotebookNode:
    """The cell that has to be the bootstrap cell. Raises :class:`InputError` where the first code cell is another one."""
    cell = next((cell for cell in lesson.notebook.cells if cell.cell_type == "code"), None)
    if cell is None or "find_spec" not in cell.source or "parameters" in cell.metadata.get("tags", []):
        raise InputError(
            "the first code cell of a lesson is the bootstrap cell, this one is another",
            file=lesson.path.name,
            given=cell.source if cell else "no code cell",
            hint="put an empty check before it, `from importlib.util import find_spec`, and run this command again",
        )
    return cell


def main(arguments: Sequence[str] | None = None, root: Path = REPOSITORY) -> int:
    """Write or check the cell; returns the exit status."""
    told = list(sys.argv[1:] if arguments is None else arguments)
    if set(told) - {"--check"}:
        print(f"error: {' '.join(told)} is no option of this command, which has only --check", file=sys.stderr)
        return 2
    others = []
    for lesson in find_lessons(root):
        cell = first_code_cell(lesson)
        if cell.source == CELL:
            continue
        others.append(lesson.name)
        if not told:
            cell.source = CELL
            with atomic_write(lesson.path) as file:
                nbformat.write(lesson.notebook, file)
    print(f"{', '.join(others) or 'no lesson'} {'has' if told else 'had'} another first cell")
    return 1 if told and others else 0


if __name__ == "__main__":
    sys.exit(main())
