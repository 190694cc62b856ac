"""What a run of the course leaves to read: ``results.json`` for programs, ``report.html`` for people."""

import json
from html import escape
from pathlib import Path
from typing import Any

from helpers.course.atomic import atomic_write, read_text
from helpers.course.execution import Outcome
from helpers.course.fonts import font_face
from helpers.course.lessons import Lesson, read_notebook
from helpers.course.paths import short_path

STYLE = """
:root { --ink: #2b2b2b; --soft: #6d6a63; --line: #e4e1da; --paper: #fbfaf7; --accent: #2f6f8f; --bad: #b1495b; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; color: var(--ink); background: var(--paper);
  font: 16px/1.6 "Course Korean", system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 0; }
p, .soft { color: var(--soft); } p { margin: .25rem 0 1.5rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .85rem; }
.number { text-align: right; white-space: nowrap; }
.failed { color: var(--bad); font-weight: 600; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1.25rem; margin-top: 1.5rem; }
section table { width: auto; min-width: 40%; margin-top: .75rem; font-size: .92rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(24rem, 100%), 1fr)); gap: 1rem; }
.figures { margin-top: 1rem; } .figures img { width: 100%; height: auto; display: block; }
pre { font-family: "Course Korean", ui-monospace, monospace; overflow-x: auto; }
pre { background: var(--paper); padding: .75rem; border-radius: 6px; font-size: .85rem; }
@media (max-width: 34rem) { body { padding-top: 1.25rem; } section { padding: 1rem; } td, th { padding-right: .5rem; } }
"""


def write_results(path: Path, outcomes: dict[str, Outcome], machine: dict[str, Any]) -> None:
    """``{"lessons": {name: {"status", "seconds", "peak_mb", "profile", "metrics"[, "error"]}}, "machine": {...}}``."""
    lessons = {name: outcome.as_json() for name, outcome in outcomes.items()}
    with atomic_write(path) as file:
        json.dump({"lessons": lessons, "machine": machine}, file, ensure_ascii=False, indent=1)
        file.write("\n")


def read_results(path: Path) -> dict[str, Outcome]:
    """The outcomes that :func:`write_results` wrote; none, and that is said, where the file holds anything else.

    None where there is no such file. Every run of all lessons writes it anew: what is lost is found again.
    """
    if not path.is_file():
        return {}
    try:
        lessons = json.loads(read_text(path)[0])["lessons"]
        return {name: Outcome(**outcome) for name, outcome in lessons.items()}
    except (ValueError, KeyError, TypeError, AttributeError):  # an InputError is a ValueError
        print(f"{short_path(path)} is damaged: what it told of other lessons is left out")
        return {}


def write_report(
    path: Path, lessons: list[Lesson], outcomes: dict[str, Outcome], machine: dict[str, Any], executed: Path
) -> None:
    """One HTML file that needs no other: the table of lessons, then each lesson's metrics and figures.

    ``executed`` is the folder with the executed notebooks that the figures are taken from.
    """
    ran = [(lesson, outcomes[lesson.name]) for lesson in lessons if lesson.name in outcomes]
    rows = "".join(_row(lesson, outcome) for lesson, outcome in ran)
    sections = "".join(_section(lesson, outcome, executed / lesson.path.name) for lesson, outcome in ran)
    minutes = sum(outcome.seconds for _, outcome in ran) / 60
    good = sum(outcome.error is None for _, outcome in ran)
    gpu = f", {machine['gpu']} {machine['gpu_memory_gb']} GB" if machine.get("gpu") else ""
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB{gpu}; Python {machine['python']}"
    with atomic_write(path) as file:
        file.write(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>Course report</title>\n<style>{font_face(rows + sections)}{STYLE}</style>\n</head>\n<body>\n"
            "<h1>Korean fine-tuning, notebook by notebook</h1>\n"
            f"<p>{good} of {len(ran)} lessons ran, {minutes:.1f} minutes in all.<br>{escape(place)}</p>\n"
            '<div class="scroll"><table>\n<thead><tr><th>Lesson</th><th>Status</th><th class="number">Minutes</th>'
            f'<th class="number">Peak memory</th></tr></thead>\n<tbody>{rows}</tbody>\n</table></div>\n'
            f"{sections}</body>\n</html>\n"
        )


def _row(lesson: Lesson, outcome: Outcome) -> str:
    return (
        f'<tr><td><a href="#{lesson.name}">{escape(lesson.title)}</a></td>'
        f'<td class="{outcome.status}">{outcome.status}</td><td class="number">{outcome.seconds / 60:.1f}</td>'
        f'<td class="number">{outcome.peak_mb / 1024:.1f} GB</td></tr>\n'
    )


def _section(lesson: Lesson, outcome: Outcome, executed: Path) -> str:
    parts = [f'<section id="{lesson.name}"><h2>{escape(lesson.title)}</h2>']
    parts.append(f'<div class="soft">{lesson.name}, {outcome.profile} profile, {outcome.seconds:.1f} s</div>')
    if outcome.error:
        source = escape(f"{outcome.error['source']}\n\n{outcome.error['message']}")
        parts.append(f'<div class="failed">failed, cell {outcome.error["cell"] or "-"}</div><pre>{source}</pre>')
    if outcome.metrics:
        rows = "".join(_metric(name, value) for name, value in outcome.metrics.items())
        parts.append(f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>')
    pictures = [
        f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}" loading="lazy">'
        for alt, data in _figures(executed)
    ]
    if pictures:
        parts.append(f'<div class="figures">{"".join(pictures)}</div>')
    return "".join([*parts, "</section>\n"])


def _metric(name: str, value: object) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f'<tr><td>{escape(name.replace("_", " "))}</td><td class="number">{escape(shown)}</td></tr>'


def _figures(executed: Path) -> list[tuple[str, str]]:
    """(text that stands for the picture, base64 PNG) of every picture in an executed notebook."""
    if not executed.is_file():
        return []
    found, heading = [], executed.stem
    for cell in read_notebook(executed).cells:
        if cell.cell_type == "markdown":
            heading = next((line.lstrip("# ") for line in cell.source.split("\n") if line.startswith("#")), heading)
        for output in cell.get("outputs", []):
            data = output.get("data", {}).get("image/png")
            if data:
                found.append((f"figure from: {heading}", data.replace("\n", "")))
    return found
