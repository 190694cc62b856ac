"""How a saved encoder was trained: ``training.json`` in its folder, written when it is saved, copied into its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from helpers.course.atomic import atomic_write
from helpers.course.checksums import SUMS_FILE, read_checksums, sha256, weights_fingerprint
from helpers.course.config_files import read_config
from helpers.course.errors import InputError
from helpers.course.machine import detect_machine
from helpers.course.paths import repository_path, short_path, shown_model
from helpers.course.settings import LessonSettings

TRAINING_FILE = "training.json"
PACKAGES = ("korean-fine-tuning", "torch", "transformers", "sentence-transformers", "peft")
ELSEWHERE = {"config", "output_dir", "seed"}
"""Settings that a record leaves out: where a run was told and wrote teaches nothing, the seed has a key of its own."""
START_KEYS = {"model": str, "weights": str, "training": dict | None}
KEYS = (
    dict.fromkeys(("recipe", "hardware", "date", "weights"), str)
    | dict.fromkeys(("start", "data", "settings", "versions"), dict)
    | dict.fromkeys(("seed", "processes"), int)
)
WORDS = {str: "text", int: "a whole number", dict: "an object", dict | None: "an object or null"}


def record_training(
    folder: str | Path,
    settings: LessonSettings,
    recipe: str,
    data: Iterable[str | Path],
    start: Mapping[str, Any] | None = None,
) -> Path:
    """Write into a saved model's (or adapter's) folder how it was trained, and return the file's path.

    recipe    in words, what the settings do not say: the lesson, the loss, rounds before
    data      files and folders that it was trained on; a checksum of each is kept
    start     :func:`start_of` the weights that training began with; None: of ``settings.model``

    To be called once the weights are there: a record names them by checksum, so that it cannot pass for other ones'.
    Where the folder has a list of checksums, the record's is put into it. Raises InputError where there are no weights or
    no data.
    """
    from helpers.embedding.gather import world  # here, so that the leaderboard's page need not load torch

    folder = Path(folder).absolute()
    if not list(folder.rglob("*.safetensors")):
        raise InputError("there are no weights here to record the training of", file=short_path(folder))
    told = {key: value for key, value in settings if key not in ELSEWHERE} | {"model": shown_model(settings.model)}
    record = {
        "recipe": recipe,
        "start": dict(start or start_of(settings.model)),
        "data": {short_path(path): data_fingerprint(path) for path in map(repository_path, data)},
        "settings": told,
        "seed": settings.seed,
        "processes": world()[1],
        **hardware_and_date(),
        "versions": _versions(),
        "weights": weights_fingerprint(folder),
    }
    path = folder / TRAINING_FILE
    with atomic_write(path) as file:
        json.dump(record, file, ensure_ascii=False, indent=2, default=short_path)  # what JSON does not know are paths
    if (folder / SUMS_FILE).is_file():
        sums = read_checksums(folder) | {TRAINING_FILE: sha256(path)}  # the others as they were: damage stays visible
        with atomic_write(folder / SUMS_FILE) as file:
            file.writelines(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return path


def start_of(model: str | Path) -> dict[str, Any]:
    """The weights that a training begins with: their name, their checksum, and their own record where they have one."""
    return {"model": shown_model(model), "weights": weights_fingerprint(model), "training": read_training(model)}


def read_training(model: str | Path) -> dict[str, Any] | None:
    """The record in a model's folder; None where there is none, as for models of the hub.

    Raises InputError with file and place for what is no record, or is one of other weights.
    """
    path = repository_path(model) / TRAINING_FILE
    if not path.is_file():
        return None
    record = read_config(path)
    check_training(record, short_path(path))
    if record["weights"] != (there := weights_fingerprint(path.parent)):
        raise InputError(
            "this record tells how other weights were trained",
            file=short_path(path),
            place="key weights",
            given=record["weights"],
            allowed=there,
            hint="the model was saved again without record_training(): call it, or delete the record",
        )
    return record


def check_training(record: Mapping[str, Any], file: str | None = None, place: str = "key ") -> None:
    """Raise InputError, with the key, for what :func:`record_training` would not have written."""
    _check_keys(record, KEYS, file, place)
    start = f"{place}start."
    _check_keys(record["start"], START_KEYS, file, start)
    if record["start"]["training"] is not None:
        check_training(record["start"]["training"], file, f"{start}training.")


def _check_keys(values: Mapping[str, Any], kinds: Mapping[str, type], file: str | None, place: str) -> None:
    for key, kind in kinds.items():
        if key not in values:
            raise InputError("a record of training lacks a key", file=file, place=f"{place}{key}")
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            what = f"{key} must be {WORDS[kind]}"
            raise InputError(what, file=file, place=f"{place}{key}", given=repr(values[key]))
    if odd := sorted(set(values) - set(kinds)):
        what = "a record of training has an unknown key"
        raise InputError(what, file=file, place=f"{place}{odd[0]}", allowed=sorted(kinds))


def hardware_and_date() -> dict[str, str]:
    """The GPU, or else the CPU, that this runs on, and the time: UTC, ISO 8601."""
    machine = detect_machine()
    hardware = machine.gpu or f"{machine.cpu}, {machine.cores} cores"
    return {"hardware": hardware, "date": datetime.now(UTC).isoformat(timespec="seconds")}


def data_fingerprint(path: str | Path) -> str:
    """Sixteen hex digits for a file, or for names and contents of all files in a folder but hidden ones and cards."""
    path = Path(path)
    if path.is_file():
        return sha256(path)[:16]
    files = sorted(each.relative_to(path) for each in path.rglob("*") if each.is_file() and each.suffix != ".md")
    visible = [each for each in files if not any(part.startswith(".") for part in each.parts)]
    if not visible:
        raise InputError("there are no data that a model could have been trained on", file=short_path(path))
    lines = "".join(f"{sha256(path / each)}  {each.as_posix()}\n" for each in visible)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # the course itself need not be installed, as on Colab
            found[name] = version(name)
    return found
