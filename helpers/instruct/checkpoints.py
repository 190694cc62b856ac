"""Checkpoints that a kill cannot spoil: which one is whole, and whether it belongs to this run at all."""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.course.atomic import atomic_write
from helpers.instruct.prompts import Example

RUN_FILE = "run.json"
NAME = re.compile(r"checkpoint-(\d+)")
LAST_WRITTEN = "trainer_state.json"
"""The trainer writes this file of a checkpoint last, and removes an older checkpoint only afterwards."""


def run_fingerprint(told: dict[str, Any], *sets: Sequence[Example]) -> str:
    """A hash of the settings that decide the weights and of every training and validation example."""
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for examples in sets:
        for example in examples:
            digest.update(json.dumps([example.input_ids, example.labels]).encode())
    return digest.hexdigest()


def resumable(folder: Path, fingerprint: str) -> Path | None:
    """The newest whole checkpoint of an unfinished run with this fingerprint, or None.

    Checkpoints of another run, of a finished one, and those that a kill left half written are removed.
    """
    run = _read(folder / RUN_FILE)
    newest_first = sorted(_checkpoints(folder), key=lambda path: int(NAME.fullmatch(path.name)[1]), reverse=True)
    same = run.get("fingerprint") == fingerprint and not run.get("finished")
    found = None
    for path in newest_first:
        whole = bool(_read(path / LAST_WRITTEN).get("global_step"))
        if not same or (found is None and not whole):
            shutil.rmtree(path)
        elif found is None:
            found = path
    mark(folder, fingerprint, finished=False)
    return found


def mark(folder: Path, fingerprint: str, *, finished: bool) -> None:
    """Write down which run the checkpoints in ``folder`` belong to, and whether it came to its end."""
    with atomic_write(folder / RUN_FILE) as file:
        json.dump({"fingerprint": fingerprint, "finished": finished}, file)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if NAME.fullmatch(path.name)] if folder.is_dir() else []


def _read(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing or cut short: then it counts as not written."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
