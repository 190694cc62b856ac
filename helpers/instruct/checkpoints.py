"""Checkpoints that a kill cannot spoil: which one is whole, and whether it belongs to this run at all."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from helpers.course.atomic import atomic_write
from helpers.course.paths import short_path

RUN_FILE = "run.json"
NAME = re.compile(r"checkpoint-(\d+)")
LAST_WRITTEN = "trainer_state.json"
"""The trainer writes this file of a checkpoint last, and removes an older checkpoint only afterwards."""


def run_fingerprint(told: Mapping[str, Any], *sets: Sequence[Any]) -> dict[str, str]:
    """What decides a run's weights, by name: each setting as text, and under ``rows`` a hash of every example."""
    digest = hashlib.sha256()
    for examples in sets:
        for example in examples:
            digest.update(json.dumps(vars(example), sort_keys=True).encode())
    return {key: str(value) for key, value in told.items()} | {"rows": digest.hexdigest()}


def resumable(folder: Path, fingerprint: dict[str, str]) -> Path | None:
    """The newest whole checkpoint of an unfinished run with this fingerprint, or None.

    Checkpoints of another run, or of no run that is known, are moved to ``folder/old-1`` (2, ...) together with their
    ``run.json``, and what differs is printed. Of this very run only those are removed that a kill left half written
    and, once it has come to its end, those that it will now write again.
    """
    run, newest_first = _read(folder / RUN_FILE), _checkpoints(folder)
    if newest_first and run.get("fingerprint") != fingerprint:
        print(_move_aside(folder, newest_first, run.get("fingerprint"), fingerprint))
        newest_first = []
    found = None
    for path in newest_first:
        whole = bool(_read(path / LAST_WRITTEN).get("global_step"))
        if run.get("finished") or (found is None and not whole):
            shutil.rmtree(path)
        elif found is None:
            found = path
    mark(folder, fingerprint, finished=False)
    return found


def step_of(checkpoint: str | Path) -> int:
    """The step after which ``checkpoint-20`` was written: 20."""
    return int(NAME.fullmatch(Path(checkpoint).name)[1])


def mark(folder: Path, fingerprint: dict[str, str], *, finished: bool) -> None:
    """Write down which run the checkpoints in ``folder`` belong to, and whether it came to its end."""
    with atomic_write(folder / RUN_FILE) as file:
        json.dump({"fingerprint": fingerprint, "finished": finished}, file, ensure_ascii=False, indent=2)


def _move_aside(folder: Path, checkpoints: Sequence[Path], before: object, now: dict[str, str]) -> str:
    """Move them to the first ``old-<n>`` that is free; returns a line that says where to, and why."""
    old = next(path for number in count(1) if not (path := folder / f"old-{number}").exists())
    old.mkdir()
    for path in [*checkpoints, folder / RUN_FILE]:
        if path.exists():
            path.rename(old / path.name)
    known = before if isinstance(before, dict) else {}
    changed = [key for key in {**known, **now} if known.get(key) != now.get(key)]
    why = f"of a run with other {', '.join(changed)}" if known else "of a run that is not known"
    return f"{len(checkpoints)} checkpoints {why} are now in {short_path(old)}: remove it when they are not wanted"


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted(
        (path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)), key=step_of, reverse=True
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing or cut short: then it counts as not written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
