"""Checkpoints that a kill cannot spoil: which one is whole, and whether it belongs to this run at all.

A run's folder holds ``checkpoint-<step>`` folders and ``run.json``, which says by name what decides the run's weights.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.course.atomic import atomic_write
from helpers.course.errors import InputError
from helpers.course.paths import short_path

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None

if TYPE_CHECKING:  # torch takes seconds to import
    from types import ModuleType

    from torch import Tensor

RUN_FILE = "run.json"
NAME = re.compile(r"checkpoint-(\d+)")
TRAINER_STATE = "trainer_state.json"
"""Of a checkpoint, the Hugging Face Trainer writes this file last, and removes an older checkpoint only afterwards."""

_held: dict[tuple[int, int], int] = {}
"""The folders that this process trains in, by device and inode, with the descriptor that locks each."""


def run_fingerprint(told: Mapping[str, Any], *sets: Iterable[Any]) -> dict[str, str]:
    """What decides a run's weights, by name: each setting as text, and under ``rows`` a hash of every example.

    An example is a dataclass, or what JSON knows; the same ones in other sets give another hash.
    """
    digest = hashlib.sha256()
    for examples in sets:
        for example in examples:
            digest.update(json.dumps(example, default=vars, sort_keys=True).encode() + b"\n")
        digest.update(b"\0")
    return {key: str(value) for key, value in told.items()} | {"rows": digest.hexdigest()}


def weights_digest(named: Iterable[tuple[str, "Tensor"]]) -> str:
    """A hash of tensors, bit by bit, and of their names: 64 hexadecimal digits."""
    import torch

    digest = hashlib.sha256()
    for name, weight in named:
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def resumable(folder: Path, fingerprint: dict[str, str], written_last: Sequence[str] = (TRAINER_STATE,)) -> Path | None:
    """The newest whole checkpoint of an unfinished run with this fingerprint, or None.

    ``written_last`` names JSON files: a checkpoint is whole where each of them can be read.
    Checkpoints of another run, or of no run that is known, are moved to ``folder/old-1`` (2, ...) together with their
    ``run.json``, and what differs is printed; when that run comes back, it finds them again. Of this very run only those
    are removed that a kill left half written and, once it has come to its end, those that it will now write again.
    Of several processes the first one looks and moves, the others wait for what it found.

    The folder belongs to this process until :func:`finish`, or until the process ends. Raises :class:`InputError` where it
    belongs to another one: two runs would take each other's checkpoints for their own.
    """
    group = _group()
    if group is None:
        return _resumable(folder, fingerprint, written_last)
    found = [_resumable(folder, fingerprint, written_last) if group.get_rank() == 0 else None]
    group.broadcast_object_list(found)
    return found[0]


def finish(folder: Path, fingerprint: dict[str, str], *, keep: bool = True) -> None:
    """Write down that the run came to its end; without ``keep`` its checkpoints and ``run.json`` are removed.

    Of several processes only the first one does anything.
    """
    group = _group()
    if group is not None and group.get_rank() > 0:
        return
    _mark(folder, fingerprint, finished=True)
    if not keep:
        for path in _checkpoints(folder):
            shutil.rmtree(path)
        (folder / RUN_FILE).unlink()  # last: until then it says that what is left of a checkpoint is not to be taken
    if (descriptor := _held.pop(_identity(folder), None)) is not None:
        os.close(descriptor)


def step_of(checkpoint: str | Path) -> int:
    """The step after which ``checkpoint-20`` was written: 20."""
    return int(NAME.fullmatch(Path(checkpoint).name)[1])


def _hold(folder: Path) -> None:
    """Lock the folder for this process (the system unlocks it when the process ends, however it does)."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or _identity(folder) in _held:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(
            "another run is at work in this folder",
            file=short_path(folder),
            hint="name another output_dir, or wait for it; a notebook that was stopped lets go when its kernel is restarted",
        ) from None
    except OSError:  # a file system that knows no locks
        os.close(descriptor)
    else:
        _held[_identity(folder)] = descriptor


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _resumable(folder: Path, fingerprint: dict[str, str], written_last: Sequence[str]) -> Path | None:
    _hold(folder)
    run = _read(folder / RUN_FILE)
    if run.get("fingerprint") != fingerprint:
        if others := _checkpoints(folder):
            print(_move_aside(folder, others, run.get("fingerprint"), fingerprint))
        run = _take_back(folder, fingerprint)
    found = None
    for path in _checkpoints(folder):
        if run.get("finished") or not all(_read(path / name) for name in written_last):
            shutil.rmtree(path)
        elif found is None:
            found = path
    _mark(folder, fingerprint, finished=False)
    return found


def _mark(folder: Path, fingerprint: dict[str, str], *, finished: bool) -> None:
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
    what = f"{len(checkpoints)} checkpoint{'s' * (len(checkpoints) > 1)}"
    why = f"of a run with other {', '.join(changed)}" if known else "of a run that is not known"
    return f"{what} {why} moved to {short_path(old)}: remove this folder when it is not wanted"


def _take_back(folder: Path, fingerprint: dict[str, str]) -> dict[str, Any]:
    """Undo :func:`_move_aside` for the unfinished run with this fingerprint; returns its ``run.json``, or nothing."""
    for old in sorted(folder.glob("old-*")):
        run = _read(old / RUN_FILE)
        if run.get("fingerprint") == fingerprint and not run.get("finished"):
            for path in [old / RUN_FILE, *_checkpoints(old)]:  # a kill between two of them leaves the rest aside
                path.rename(folder / path.name)
            if not any(old.iterdir()):
                old.rmdir()
            return run
    return {}


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


def _group() -> "ModuleType | None":
    """``torch.distributed`` where several processes work together, otherwise None."""
    import torch.distributed as dist

    return dist if dist.is_available() and dist.is_initialized() else None
