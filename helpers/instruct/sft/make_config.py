"""Write a settings file that explains itself, and show settings with what each one does."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from helpers.course.atomic import atomic_write
from helpers.course.paths import short_path
from helpers.course.settings import LessonSettings

LEFT_OUT = ("config", "profile", "smoke")
"""What a run is told where it is started, not in its file."""


def make_config(settings: LessonSettings, path: str | Path) -> Path:
    """Write ``settings`` to a YAML file, one commented key a line, complete; loading it gives the same settings.

    Paths inside the repository are written relative to its root, so that the file can be given away.
    """
    lines = [f"# {type(settings).__name__}, every setting with what it does."]
    lines += [f"# Launch: python -m helpers.instruct.tuning --config_path {short_path(path)}"]
    for key, value in settings:
        if key not in LEFT_OUT:
            text = yaml.safe_dump(_plain(value), allow_unicode=True, default_flow_style=True, width=10**6)
            line = f"{key}: {text.strip().removesuffix('...').rstrip()}"
            lines.append(f"{line:<44} # {_meaning(settings, key)}")
    with atomic_write(path) as file:
        file.write("\n".join(lines) + "\n")
    return Path(path)


def explained(settings: LessonSettings, *keys: str) -> pd.DataFrame:
    """A table: setting, value, what it does; all settings, or those named."""
    rows = [
        (key, str(_plain(value)), _meaning(settings, key))
        for key, value in settings
        if (key in keys if keys else key not in LEFT_OUT)
    ]
    return pd.DataFrame(rows, columns=["setting", "value", "what it does"])


def _meaning(settings: LessonSettings, key: str) -> str:
    return type(settings).model_fields[key].description or ""


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Path) or (isinstance(value, str) and value.startswith("/")):
        return short_path(value)
    return value
