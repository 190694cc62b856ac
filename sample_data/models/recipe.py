"""The settings of a pretraining run, and what both models and all of its steps share."""

from __future__ import annotations

import math
import os
from pathlib import Path

import yaml

from helpers.course.errors import InputError
from helpers.course.machine import detect_machine

ROOT = Path(__file__).resolve().parents[2]
SPECIALS = {"encoder": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "lm": ["<pad>", "<unk>", "<s>", "</s>"]}
PAD, UNK, FIRST, LAST, MASK = range(5)  # the same ids in both tokenizers
SAMPLE = ROOT / "sample_data"
HELD_OUT_BATCHES = 8  # that a held-out loss is the mean of; the same ones every time
DTYPES = ["auto", "bfloat16", "float32"]
DOCUMENT_SOURCES = ("boddari", "petitions", "msdocs", "ko.react", "rust-book")  # neighbouring lines belong together


def load_settings(path: Path, overrides: list[str], profile: str) -> dict:
    """The YAML file, its profile's section over it, `--set section.key=value` over that.

    `data_dir` is, in this order: what `--set` says, KO_DATA_DIR, the file's folder, the sample where that is absent.
    """
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    profiles = settings.pop("profiles", {"cpu": {}})
    if os.environ.get("KO_DATA_DIR"):
        settings["data_dir"] = os.environ["KO_DATA_DIR"]
    elif not (ROOT / settings["data_dir"]).is_dir():
        settings["data_dir"] = str(SAMPLE)
    if profile not in profiles:
        raise InputError("there is no such profile", file=path.name, given=profile, allowed=sorted(profiles))
    changes: list[tuple[str, object]] = []
    for key, value in profiles[profile].items():
        inside = value.items() if isinstance(value, dict) else [("", value)]
        changes += [(f"{key}.{name}" if name else key, part) for name, part in inside]
    changes += [(key, value) for key, _, value in (item.partition("=") for item in overrides)]
    for key, value in changes:
        section, _, name = key.rpartition(".")
        there = settings.get(section) if section else settings
        if not isinstance(there, dict) or name not in there:
            known = there if isinstance(there, dict) else settings
            raise InputError("there is no such setting", file=path.name, place=f"key {key}", allowed=sorted(known))
        there[name] = fitting(value, there[name], path.name, key)
    if settings["dtype"] not in DTYPES:
        raise InputError("there is no such dtype", file=path.name, given=settings["dtype"], allowed=DTYPES)
    if settings["dtype"] == "auto":
        settings["dtype"] = "bfloat16" if detect_machine().bf16 else "float32"
    settings["data_dir"] = ROOT / settings["data_dir"]
    settings["run_dir"] = ROOT / settings["run_dir"]
    return settings


def fitting(value: object, known: object, file: str, key: str) -> object:
    """`value` as the type that stands in the file. Text may hold a number: so YAML and a command line write 1e6."""
    if isinstance(known, str) and isinstance(value, str):
        return value
    if isinstance(known, int | float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if isinstance(known, float) and math.isfinite(number):
            return number
        if isinstance(known, int) and number.is_integer():
            return int(number)
    words = {int: "a whole number", float: "a number", str: "text", dict: "a section: set one of its keys, section.key"}
    raise InputError("this value does not fit", file=file, place=f"key {key}", given=value, allowed=words[type(known)])
