"""The options that the course's commands share, and the settings that follow from them."""

import argparse
import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from helpers.course.errors import InputError
from helpers.course.settings import PROFILES, LessonSettings

Settings = TypeVar("Settings", bound=LessonSettings)


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """``-p NAME VALUE``, as often as one likes."""
    parser.add_argument("-p", nargs=2, action="append", default=[], dest="parameters", metavar=("NAME", "VALUE"))


def add_settings(parser: argparse.ArgumentParser, kind: type[LessonSettings]) -> None:
    """``--config_path``, ``--profile`` and ``-p``."""
    file = f"settings, yaml or json (default: {kind.default_config})"
    parser.add_argument("--config_path", "--config", dest="config", help=file)
    parser.add_argument("--profile", choices=PROFILES, help="section of the file")
    add_parameters(parser)


def settings_of(kind: type[Settings], told: argparse.Namespace, **fixed: Any) -> Settings:
    """The settings of a command line: ``-p`` stands above the options, also where it names one of them; ``fixed`` above all.

    Raises :class:`InputError` for a wrong value, and for a parameter that is given twice.
    """
    options = {name: getattr(told, name) for name in ("config", "profile", "smoke") if getattr(told, name, None)}
    return kind.load(**options | parse_parameters(told.parameters) | fixed)


def parse_value(text: str) -> Any:
    """A value of the command line: JSON (numbers, true, null, lists) or Python's True, False, None; otherwise text."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError:
        return text


def parse_parameters(pairs: Iterable[Sequence[str]]) -> dict[str, Any]:
    """The values of ``-p NAME VALUE``. Raises :class:`InputError` for a name that is given twice."""
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise InputError("one parameter is given twice", place=f"parameter {name}", given=text)
        values[name] = parse_value(text)
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is a word here, not a number")
