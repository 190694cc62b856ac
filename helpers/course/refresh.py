"""Outputs of a real run stored into the notebooks: clean, free of this machine's paths, with measured figures.

The measured figures stand in a table after a marker line, in one markdown cell of the notebook (by habit the first)::

    <!-- measured -->
    | profile | minutes | peak memory |
    |---|---|---|
    | cpu | 0.7 | 1.8 GB |
    | t4 | not measured yet | not measured yet |
    | a100 | not measured yet | not measured yet |

The marker stands alone on its line; the first line after it that starts with ``|`` names the columns. Of the row whose
first cell is ``cpu``, the cells under ``minutes`` and ``peak memory`` are rewritten: minutes with one decimal (0.1 at
least), memory in GB (2**30 bytes) with one decimal and its unit. Further columns and the other rows stay as they are.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat

from helpers.course.atomic import atomic_write
from helpers.course.errors import InputError
from helpers.course.execution import Outcome
from helpers.course.lessons import Lesson, read_notebook
from helpers.course.paths import REPOSITORY

MARKER = "<!-- measured -->"
WIDGET = "application/vnd.jupyter.widget-view+json"


def store_outputs(lesson: Lesson, executed: Path, outcome: Outcome) -> None:
    """Put the outputs and execution counts of ``executed`` into the lesson's own file, and its measured figures.

    Metadata stay those of the source, so nothing of papermill's remains. Raises :class:`InputError` when an output
    shows a path of this machine; then the lesson's file is left as it was.
    """
    notebook, ran = read_notebook(lesson.path), read_notebook(executed)
    for number, (cell, done) in enumerate(zip(notebook.cells, ran.cells, strict=True), 1):
        if cell.cell_type == "code":
            cell.execution_count = done.execution_count
            cell.outputs = [_clean(output) for output in _joined(done.outputs)]
            _refuse_machine_paths(cell.outputs, lesson, number)
    notebook.metadata.pop("papermill", None)
    _write_measured(notebook, lesson, outcome)
    with atomic_write(lesson.path) as file:
        nbformat.write(notebook, file)


def measured_table(text: str, minutes: float, memory_gb: float) -> str:
    """``text`` with the cpu row of the table after the marker rewritten. :class:`ValueError`: it is not there."""
    lines = text.split("\n")
    start = next((n for n, line in enumerate(lines) if line.strip() == MARKER), None)
    if start is None:
        raise ValueError("the marker for measured figures needs a line of its own")
    rows = [n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("|")]
    columns = [name.lower() for name in _cells(lines[rows[0]])] if rows else []
    if not {"minutes", "peak memory"} <= set(columns):
        raise ValueError("the table after the marker needs the columns `minutes` and `peak memory`")
    row = next((n for n in rows if _cells(lines[n])[0].strip("`* ").lower() == "cpu"), None)
    if row is None:
        raise ValueError("the table after the marker has no row `cpu`")
    cells = _cells(lines[row])
    if len(cells) < len(columns):
        raise ValueError(f"the row `cpu` of the table after the marker has {len(cells)} cells of {len(columns)}")
    cells[columns.index("minutes")] = f"{max(minutes, 0.1):.1f}"
    cells[columns.index("peak memory")] = f"{memory_gb:.1f} GB"
    lines[row] = f"| {' | '.join(cells)} |"
    return "\n".join(lines)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _write_measured(notebook: nbformat.NotebookNode, lesson: Lesson, outcome: Outcome) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown" and MARKER in cell.source]
    if len(cells) != 1:
        raise InputError(
            f"one cell with the marker for measured figures is needed, this lesson has {len(cells)}",
            file=lesson.path.name,
            allowed=f"a line `{MARKER}` with a table after it",
        )
    try:
        cells[0].source = measured_table(cells[0].source, outcome.seconds / 60, outcome.peak_mb / 1024)
    except ValueError as error:
        raise InputError(
            str(error), file=lesson.path.name, hint="helpers/course/refresh.py shows the format"
        ) from error


def _joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Neighbouring pieces of one stream as one: a progress bar arrives in many, each meant to overwrite the one before."""
    joined: list[nbformat.NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == "stream" == joined[-1].output_type and output.name == joined[-1].name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def _clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Progress bars as they looked at the end, and no widget that would show nothing without its kernel."""
    if output.output_type == "stream":
        output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
    elif "data" in output:
        output.data.pop(WIDGET, None)
        output.get("metadata", {}).pop(WIDGET, None)
    return output


def _refuse_machine_paths(outputs: list[nbformat.NotebookNode], lesson: Lesson, number: int) -> None:
    folders = {str(REPOSITORY), str(lesson.path.parents[1]), str(Path.home()), sys.prefix, tempfile.gettempdir()}
    pattern = re.compile("|".join(rf"{re.escape(folder)}(?![\w.-])" for folder in folders - {"/", "/usr"}))
    for text in _texts([{k: v for k, v in output.items() if k != "metadata"} for output in outputs]):
        found = pattern.search(text)
        if found:
            line = text[text.rfind("\n", 0, found.start()) + 1 :].split("\n")[0]
            raise InputError(
                "an output shows a path of this machine and would be stored with it",
                file=lesson.path.name,
                place=f"cell {number}",
                given=line,
                hint="print short_path(path) of helpers.course.files instead",
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in an output, pictures left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            if not str(key).startswith("image/") or key == "image/svg+xml":
                yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
