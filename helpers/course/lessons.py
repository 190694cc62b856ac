"""The lessons: which there are, what they may be told, and whether an executed copy is still true."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import papermill

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY

FILE_NAME = re.compile(r"(?:\d\d|A\d)_\w+\.ipynb")
ALIASES = {
    "temperature": "loss_temperature",
    "learning_rate": "lr",
    "num_epochs": "epochs",
}
"""Short forms of parameters, accepted where the lesson has no parameter of that name itself."""
TUNED = "outputs/07_instruction_lora_unsloth/adapter"
READS = {
    "05": (
        "outputs/02_simcse_lora/model",
        "outputs/03_infonce_gradient_cache/model",
        "outputs/04_triplet_and_embeddinggemma/model",
    ),
    "07": ("outputs/06_instruction_data/train.jsonl",),
    "08": (TUNED,),
    "09": (TUNED,),
    "10": (TUNED,),
    "11": (TUNED,),
}
"""What a lesson takes from the outputs of others, where it is there."""
LARGE = 2**20
"""Bytes from which a data file is known by its size; the weights' checksums stand in SHA256SUMS, which is small."""


@dataclass(frozen=True)
class Lesson:
    """One notebook of the course."""

    path: Path

    @property
    def name(self) -> str:
        """The file's name without ending, e.g. ``02_simcse_lora``."""
        return self.path.stem

    @property
    def number(self) -> str:
        """What it is called by on the command line: ``02``, ``A1``."""
        return self.name.split("_")[0]

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        """The source notebook. Raises :class:`InputError` when the file is no notebook."""
        return read_notebook(self.path)

    @property
    def title(self) -> str:
        """The first heading of the notebook, or its name (also where the file is no notebook)."""
        try:
            prose = "\n".join(cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")
        except InputError:
            return self.name
        heading = re.search(r"^#\s+(.+)$", prose, re.MULTILINE)
        return heading[1].strip() if heading else self.name


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook in format 4. Raises :class:`InputError` when the file is missing or no notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError("this notebook does not exist", file=path.name) from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError, KeyError) as error:
        raise InputError("this file is no notebook", file=path.name, hint=str(error).split("\n")[0]) from error


def find_lessons(root: Path = REPOSITORY) -> list[Lesson]:
    """All lessons in ``notebooks/`` in their order: 00 to 11, then A1, A2."""
    found = [Lesson(path) for path in sorted((root / "notebooks").glob("*.ipynb")) if FILE_NAME.fullmatch(path.name)]
    if not found:
        raise InputError("there is no lesson here", file="notebooks/", allowed="files named like 02_simcse_lora.ipynb")
    return found


def choose_lessons(lessons: list[Lesson], wanted: Iterable[str]) -> list[Lesson]:
    """The lessons called ``02`` (or ``2``, or by full name), in the course's order; all where none is named."""
    by_name = {
        key: lesson for lesson in lessons for key in (lesson.number.lstrip("0") or "0", lesson.number, lesson.name)
    }
    chosen = set()
    for name in wanted:
        if name not in by_name:
            raise InputError(
                "there is no such lesson",
                given=name,
                allowed=[lesson.number for lesson in lessons],
                hint="a lesson is called by its number",
            )
        chosen.add(by_name[name])
    return [lesson for lesson in lessons if lesson in chosen] if chosen else lessons


def check_parameters(lesson: Lesson, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters under the names of the lesson's ``parameters`` cell; a short form is replaced and said.

    Raises :class:`InputError` for a name that the cell does not have: papermill itself would inject it without effect.
    """
    tagged = any("parameters" in cell.metadata.get("tags", []) for cell in lesson.notebook.cells)
    allowed = [name for name in papermill.inspect_notebook(str(lesson.path)) if name.isidentifier()] if tagged else []
    if not allowed:
        raise InputError("this lesson has no cell tagged `parameters`", file=lesson.path.name)
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            hint = "leave it out; to set something to null, write it into a copy of the settings file and name that as config"
            raise InputError("null means: as the settings file says", place=f"parameter {name}", given=value, hint=hint)
        full = name if name in allowed else ALIASES.get(name, name)
        if full not in allowed:
            near = difflib.get_close_matches(name, [*allowed, *ALIASES], 2, 0.6)
            raise InputError(
                "this lesson has no such parameter",
                file=lesson.path.name,
                place=f"parameter {name}",
                given=value,
                allowed=allowed,
                hint=f"did you mean {' or '.join(near)}?" if near else None,
            )
        if full in checked:
            raise InputError(
                "one parameter is given twice", file=lesson.path.name, place=f"parameter {full}", given=value
            )
        if full != name:
            print(f"{name} is short for {full}")
        checked[full] = value
    return checked


def fingerprint(lesson: Lesson, parameters: dict[str, Any], root: Path = REPOSITORY) -> str:
    """A hash of what a lesson's result rests on in the repository; its outputs are told by :func:`outputs_state`.

    It covers the sources and tags of the notebook's cells (not its stored outputs), every ``.py`` file of ``helpers/``,
    every file of ``config/`` and ``sample_data/`` (the size alone from :data:`LARGE` on), the locked packages and the
    parameters.
    """
    cells = [[cell.cell_type, cell.source, cell.metadata.get("tags", [])] for cell in lesson.notebook.cells]
    lines = [json.dumps(cells)]
    lock = (root / "requirements").glob("cpu.lock")
    for path in [*(root / "helpers").rglob("*.py"), *lock, *_files(root / "config"), *_files(root / "sample_data")]:
        size = path.stat().st_size
        content = path.read_bytes() if size < LARGE else b""
        lines.append(f"{path.relative_to(root).as_posix()} {size} {hashlib.sha256(content).hexdigest()}")
    lines.append(json.dumps(parameters, sort_keys=True, default=str))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def outputs_state(lesson: Lesson, root: Path = REPOSITORY) -> str:
    """A hash of names, sizes and times of the files that lessons hand to one another: those it reads, those it leaves.

    Taken when a lesson has run; another one later says that a run with other values, by whatever means, has replaced them.
    """
    handed = {path for paths in READS.values() for path in paths if path.startswith(f"outputs/{lesson.name}/")}
    lines = []
    for place in sorted({*handed, *READS.get(lesson.number, ())}):
        for path in _files(root / place) if (root / place).is_dir() else [root / place]:
            seen = path.stat() if path.is_file() else None
            lines.append(f"{path.relative_to(root).as_posix()} {seen and (seen.st_size, seen.st_mtime_ns)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    """Every file below, in order, without hidden ones and what Python compiles beside the scripts it ran."""
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path for path in found if not path.name.startswith("."))
