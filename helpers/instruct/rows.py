"""Rows of instruction data -> token ids with labels: read, checked, split, counted."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.jsonl import numbered_objects
from helpers.course.rejects import Rejects
from helpers.instruct.prompts import Example, Prompt

Row = dict[str, str]
KEYS = ("instruction", "input", "output", "task")


def read_rows(path: str | Path, rejects: Rejects, limit: int | None = None, seed: int = 13) -> list[Row]:
    """Rows of a jsonl file (``.gz`` too) as ``{"instruction", "input", "output", "task"}``, texts all.

    A missing ``input`` or ``task`` becomes ``""``; a row without instruction or output, or with something else than
    text there, goes to ``rejects`` with its line. With ``limit``, as many rows drawn at random. Raises
    :class:`InputError` when nothing is left.
    """
    rows: list[Row] = []
    for line, found in numbered_objects(Path(path), rejects):
        row = {key: found.get(key, "") for key in KEYS}
        if wrong := _complaint(row):
            rejects.add(found, path, line, wrong)
        else:
            rows.append(row)
    if not rows:
        raise InputError(
            "this file holds no row to train on",
            file=path,
            given=rejects.summary(),
            allowed='lines like {"instruction": "…", "input": "…", "output": "…"}',
        )
    if limit is not None and limit < len(rows):
        rows = random.Random(seed).sample(rows, limit)
    return rows


def _complaint(row: Mapping[str, object]) -> str | None:
    for key, value in row.items():
        if not isinstance(value, str):
            return f"{key} is not a text"
    if not f"{row['instruction']}{row['input']}".strip():
        return "there is no instruction"
    return None if str(row["output"]).strip() else "the output is empty"


def split_by_question(rows: Sequence[Row], share: float, most: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and validation rows; no question (instruction and input) stands on both sides.

    ``share`` of the questions are kept aside, at least one and so few that at most ``most`` rows are.
    """
    questions: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        questions.setdefault((row["instruction"].strip(), row["input"].strip()), []).append(row)
    keys = list(questions)
    random.Random(seed).shuffle(keys)
    aside: list[Row] = []
    wanted = max(1, round(share * len(keys)))
    while keys and wanted and len(aside) + len(questions[keys[-1]]) <= most:
        aside += questions[keys.pop()]
        wanted -= 1
    kept = [row for key in keys for row in questions[key]]
    if not kept or not aside:
        raise InputError("too few different questions to keep some aside", given=f"{len(questions)} questions")
    return kept, aside


def to_examples(
    rows: Sequence[Row], prompt: Prompt, max_length: int, rejects: Rejects | None = None
) -> tuple[list[Row], list[Example]]:
    """The rows that fit in ``max_length`` tokens and their examples. A longer row is put aside, never cut.

    Cutting would take the answer's end with its EOS, and teach the model to go on for ever.
    """
    fitting, examples = [], []
    for row in rows:
        example = prompt.example(row["instruction"], row["output"], row["input"])
        if len(example.input_ids) <= max_length:
            fitting.append(row)
            examples.append(example)
        elif rejects is not None:
            rejects.add(row, None, None, f"longer than {max_length} tokens")
    if not examples:
        raise InputError("no row fits in the length", place="max_seq_length", given=max_length, hint="give more tokens")
    return fitting, examples


def trained_share(examples: Sequence[Example]) -> float:
    """Which share of all positions is learned, 0 to 1. Raises :class:`InputError` where it is nothing or everything.

    Nothing: the mask hit the answers too, so the loss is 0 or not a number. Everything: the model also learns to ask.
    """
    trained, everything = sum(one.trained for one in examples), sum(len(one.labels) for one in examples)
    if trained in (0, everything):
        raise InputError(
            "no position would be trained" if trained == 0 else "every position would be trained, questions included",
            place="labels",
            given=f"{trained:,} of {everything:,} positions have a label",
            hint="make rows with Prompt.example: it masks the question and nothing else",
        )
    return trained / everything
