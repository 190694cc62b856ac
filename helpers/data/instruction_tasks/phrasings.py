"""The wordings of a task's instruction: one file a task, drawn at random, the same for the same row and seed.

A model that saw one wording only learns that wording, not the task; the data set that we follow used 100 for each task.
"""

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.files import read_text, short_path
from helpers.data.text import normalise, text_key


def read_phrasings(path: str | Path, least: int = 1) -> tuple[str, ...]:
    """The wordings of one task, one a line. :class:`InputError` names a line that is empty, repeated or not normal.

    Two lines that differ only in spaces, punctuation or case are the same wording. ``least``: so many there must be.
    """
    text, _ = read_text(path, "utf-8")
    lines = text.removesuffix("\n").split("\n")
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        key = text_key(line)
        if not key or line != normalise(line):
            raise InputError(
                "this wording is empty or not in the normal form (NFC, single spaces)",
                file=short_path(path),
                place=f"line {number}",
                given=line,
            )
        if key in seen:
            raise InputError(
                f"this wording stands in line {seen[key]} already",
                file=short_path(path),
                place=f"line {number}",
                given=line,
                hint="spaces, punctuation and case do not make another wording",
            )
        seen[key] = number
    if len(lines) < least:
        raise InputError(
            "there are too few wordings", file=short_path(path), given=len(lines), allowed=f"{least} or more"
        )
    return tuple(lines)


def read_all_phrasings(folder: str | Path, tasks: Iterable[str], least: int = 1) -> dict[str, tuple[str, ...]]:
    """The wordings of several tasks from ``<folder>/<task>.txt``."""
    return {task: read_phrasings(Path(folder) / f"{task}.txt", least) for task in tasks}


def draw(phrasings: Mapping[str, tuple[str, ...]], task: str, name: str, seed: int) -> str:
    """A wording of ``task`` for the row called ``name``.

    The draw depends on seed, task and name alone: what else is in the set, and in which order, moves nothing.
    """
    if not phrasings.get(task):
        raise InputError("there are no wordings for this task", given=task, allowed=list(phrasings))
    return random.Random(f"{seed} {task} {name}").choice(phrasings[task])
