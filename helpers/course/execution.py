"""One lesson run by papermill in a kernel of this environment: seconds, peak memory, metrics, and where it failed."""

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import KernelManager
from nbclient.exceptions import CellTimeoutError
from traitlets.config import Config

from helpers.course.atomic import atomic_write
from helpers.course.errors import InputError
from helpers.course.exercises import STRICT_VARIABLE
from helpers.course.lessons import Lesson, outputs_state, read_notebook
from helpers.course.machine import measure
from helpers.course.paths import REPOSITORY
from helpers.course.records import read_records

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
KERNEL = {"TOKENIZERS_PARALLELISM": "false", "PYDEVD_DISABLE_FILE_VALIDATION": "1", STRICT_VARIABLE: "1"}
START_TIMEOUT = 300
"""Seconds for the kernel's first answer: on a busy machine it can take more than nbclient's 60."""


@dataclass
class Outcome:
    """What came of a run: the entry of one lesson in ``results.json``; ``error`` has cell, source and message."""

    status: str
    seconds: float
    peak_mb: int
    profile: str = "cpu"
    metrics: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON values, ``error`` left out where there is none."""
        return {key: value for key, value in vars(self).items() if value is not None}


def run_lesson(
    lesson: Lesson,
    output: Path,
    parameters: dict[str, Any],
    *,
    mark: str = "",
    timeout: int = 3600,
    offline: bool = True,
    folder: Path | None = None,
    root: Path = REPOSITORY,
) -> Outcome:
    """Execute ``lesson`` and write the executed copy to ``output``.

    ``mark`` (a fingerprint) is stored in the copy only when every cell ran, with the state of the outputs below ``root``,
    so that :func:`finished_outcome` knows it again. ``timeout``: seconds for one cell. ``offline`` keeps the model hub out
    of it. ``folder``: the working directory; None is the lesson's own, as in JupyterLab. A failing cell is no exception
    here but an :class:`Outcome` with status ``failed``; Ctrl-C passes through. :class:`InputError`: it is no notebook.
    """
    if not lesson.notebook.cells:
        raise InputError("this notebook has no cells", file=lesson.path.name)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.unlink(missing_ok=True)
    _set_environment(offline)
    error = None
    with measure(children_only=True, every=0.1) as taken:
        try:
            papermill.execute_notebook(
                str(lesson.path),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(folder or lesson.path.parent),
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                execution_timeout=timeout,
                autosave_cell_every=0,
                config=_kernel_config(),
            )
        except papermill.PapermillExecutionError as failure:
            error = _failure(lesson, output, failure.source, f"{failure.ename}: {failure.evalue}")
        except (RuntimeError, CellTimeoutError, NoSuchKernel) as failure:  # a kernel that died or never answered
            error = _failure(lesson, output, None, str(failure).split("\n")[0])
    outcome = Outcome(
        status="failed" if error else "ok",
        seconds=round(taken.seconds, 1),
        peak_mb=round(taken.peak_mb),
        profile=str(parameters.get("profile", "cpu")),
        metrics=read_records(output) if output.is_file() else {},  # no copy: not even the kernel started
        error=error,
    )
    if not error:
        _mark(output, outcome, mark, outputs_state(lesson, root))
    return outcome


def finished_outcome(output: Path, mark: str, state: str = "") -> Outcome | None:
    """The outcome of an earlier run, from its executed copy; None when that is missing, unfinished or out of date.

    ``mark`` and ``state``: the lesson's fingerprint and the state of its outputs, as they are now.
    """
    try:
        course = read_notebook(output).metadata.get("course", {})
    except InputError:
        return None
    if (course.get("fingerprint"), course.get("outputs")) != (mark, state):
        return None
    return Outcome("ok", course["seconds"], course["peak_mb"], course["profile"], read_records(output))


def _mark(output: Path, outcome: Outcome, mark: str, state: str) -> None:
    notebook = read_notebook(output)
    notebook.metadata["course"] = {
        "fingerprint": mark,
        "outputs": state,
        "seconds": outcome.seconds,
        "peak_mb": outcome.peak_mb,
        "profile": outcome.profile,
    }
    with atomic_write(output) as file:
        nbformat.write(notebook, file)


def _failure(lesson: Lesson, output: Path, source: str | None, message: str) -> dict[str, Any]:
    """Which cell of the source notebook failed (1 is the first, prose counted), its source and its error."""
    ran = read_notebook(output).cells if output.is_file() else []
    started = [cell for cell in ran if cell.metadata.get("papermill", {}).get("start_time")]
    stopped = started[-1] if started else None
    source = source or (stopped.source if stopped else "")
    cells = lesson.notebook.cells
    ids = [cell.get("id") for cell in cells]
    number = next((n for n, cell in enumerate(cells, 1) if cell.source == source), None)
    if stopped and stopped.get("id") in ids:
        number = ids.index(stopped.id) + 1
    return {"cell": number, "source": source, "message": COLOURS.sub("", message)}


def _kernel_config() -> Config:
    """Talk to the kernel in cipher where jupyter_client can: else every kernel prints a warning that it does not."""
    known = "transport_encryption" in KernelManager.class_trait_names()
    return Config({"KernelManager": {"transport_encryption": "auto"}} if known else {})


def _set_environment(offline: bool) -> None:
    """What the kernel inherits. What the learner set stays, but for the last three: a run of ours needs them so."""
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # a failure is told once, by the Outcome
    for name, value in KERNEL.items():
        os.environ.setdefault(name, value)
    if offline:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Figures, whatever a shell or streamlit has set.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one in the home folder
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(REPOSITORY) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), *filter(None, paths)])
