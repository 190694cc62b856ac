"""Named metrics in a notebook: written by its last cell, read back by tests and by the course report."""

import json
import math
from html import escape
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.paths import short_path

METRICS_MIME = "application/x-course-metrics+json"

Metric = int | float | str | bool


def record(**metrics: object) -> None:
    """Store metrics in the output of this cell and show them as a small table.

    Values are numbers or strings (numpy and torch scalars are turned into Python numbers).
    Raises :class:`InputError` for anything else and for numbers that are not finite.
    Outside a notebook the table is printed.
    """
    clean = {name: _plain(name, value) for name, value in metrics.items()}
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    text = "\n".join(f"{name}: {_pretty(value)}" for name, value in clean.items())
    if get_ipython() is None:
        print(text)
        return
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_pretty(value))}</td></tr>" for name, value in clean.items()
    )
    table = f"<table><thead><tr><th>metric</th><th>value</th></tr></thead><tbody>{rows}</tbody></table>"
    display({METRICS_MIME: clean, "text/plain": text, "text/html": table}, raw=True)


def read_records(notebook_path: str | Path) -> dict[str, Metric]:
    """All metrics recorded in an executed notebook, in order; a later cell's value replaces an earlier one's.

    Raises :class:`InputError` where the file is missing or is no notebook.
    """
    path = Path(notebook_path)
    found: dict[str, Metric] = {}
    try:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                found.update(output.get("data", {}).get(METRICS_MIME, {}))
    except FileNotFoundError:
        raise InputError("this notebook does not exist", file=short_path(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "this file is no notebook", file=short_path(path), hint=f"reading it failed with: {error}"
        ) from error
    return found


def _plain(name: str, value: object) -> Metric:
    if hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1:
        value = value.item()  # a numpy or torch scalar; a larger array is refused below
    if not isinstance(value, int | float | str):
        raise InputError(
            "this metric cannot be recorded", place=f"metric {name}", given=value, allowed="a number or a string"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(
            "this metric is not a finite number", place=f"metric {name}", given=value, allowed="a finite number"
        )
    return value


def _pretty(value: Metric) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
