"""Rows of instruction data -> token ids with labels: read, checked, split, counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.jsonl import numbered_objects
from helpers.course.paths import short_path
from helpers.course.rejects import Rejects
from helpers.data.duplicates import linked
from helpers.data.instruction_tasks.leakage import long_texts
from helpers.data.text import normalise
from helpers.instruct.prompting.conversations import joined
from helpers.instruct.prompts import Example, Prompt

KEYS = ("instruction", "input", "output", "task")
TOO_LONG = "longer than"
"""So begins the reason of a row that is put aside for its length."""
WIDELY = 50
"""Rows; what more of them share is no passage: all tasks and questions of one article are fewer."""


class Row(dict[str, str]):
    """The texts of one row under ``KEYS``, and where it stands; a plain dict does as well, it comes from nowhere."""

    file: str | Path | None = None
    line: int | None = None


def in_line(error: InputError, file: str | Path | None, line: int | None) -> InputError:
    """The same error, told with the row's file and line."""
    place = error.place if line is None else f"line {line}"
    named = None if file is None else short_path(Path(file))
    return InputError(error.what, file=named, place=place, given=error.given, allowed=error.allowed, hint=error.hint)


def place_of(row: Mapping[str, str]) -> tuple[str | Path | None, int | None]:
    """File and line of a row, None where it was made here."""
    return getattr(row, "file", None), getattr(row, "line", None)


def read_rows(path: str | Path, rejects: Rejects, limit: int | None = None, seed: int = 13) -> list[Row]:
    """Rows of a jsonl file (``.gz`` too) as ``{"instruction", "input", "output", "task"}``, texts all.

    A missing or null ``input`` or ``task`` becomes ``""``; a row without instruction or output, or with something else than
    text there, goes to ``rejects`` with its line. With ``limit``, as many rows drawn at random. Raises
    :class:`InputError` when nothing is left.
    """
    rows: list[Row] = []
    path = Path(path)
    for line, found in numbered_objects(path, rejects):
        row = Row({key: found.get(key, "") for key in KEYS})
        row |= {key: "" for key in ("input", "task") if row[key] is None}
        row.file, row.line = path, line
        if wrong := _complaint(row):
            rejects.add(found, path, line, wrong)
        else:
            rows.append(row)
    if not rows:
        raise InputError(
            "this file holds no row to train on",
            file=short_path(path),
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
    if not normalise(f"{row['instruction']}{row['input']}"):
        return "there is no instruction"
    return None if normalise(str(row["output"])) else "the output is empty"


def question_of(row: Mapping[str, str]) -> str:
    """Instruction and input as the prompt joins them: rows of which it makes the same ids have the same question."""
    return joined(row["instruction"], row["input"])


def passages(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """For each row the longer texts of its question: what it is about.

    Left out is the wording, which begins the input before a blank line where there is no instruction (KOSITP's three keys),
    and what more than ``WIDELY`` rows share, such as a list of options.
    """
    inputs = [row["input"] if row["instruction"] else row["input"].partition("\n\n")[2] for row in rows]
    texts = [
        long_texts({"instruction": row["instruction"], "input": each, "output": ""})
        for row, each in zip(rows, inputs, strict=True)
    ]
    known = Counter(text for row in texts for text in row)
    return [[text for text in row if known[text] <= WIDELY] for row in texts]


def split_by_text(rows: Sequence[Row], share: float, most: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and validation rows; no question and none of its :func:`passages` stands on both sides.

    Rows that share one stay together. ``share`` of these groups are kept aside, at least one and so few that at most
    ``most`` rows are; a group of more rows than there is room for is passed over.
    """
    groups = linked([(question_of(row), *own) for row, own in zip(rows, passages(rows), strict=True)])
    if len(groups) < 2:
        raise InputError("too few different questions to keep some aside", given=f"{len(groups)} groups of rows")
    random.Random(seed).shuffle(groups)
    aside: list[Row] = []
    kept: list[list[int]] = []
    wanted = min(max(1, round(share * len(groups))), len(groups) - 1)
    for group in reversed(groups):
        if wanted and len(aside) + len(group) <= most:
            aside += [rows[number] for number in group]
            wanted -= 1
        else:
            kept.append(group)
    if not aside:
        fewest = min(map(len, groups))
        raise InputError(
            "no question has so few rows that it could be kept aside",
            place="max_val_rows",
            given=most,
            allowed=f"{fewest} or more: so many rows has the question with the fewest, with those that share its text",
        )
    return [rows[number] for group in reversed(kept) for number in group], aside


def to_examples(
    rows: Sequence[Row], prompt: Prompt, max_length: int, rejects: Rejects | None = None
) -> tuple[list[Row], list[Example]]:
    """The rows that fit in ``max_length`` tokens and their examples. A longer row is put aside, never cut.

    Cutting would take the answer's end with its EOS, and teach the model to go on for ever. A row of which the prompt
    makes no example (a special token in a chat) is put aside, too; without ``rejects`` it raises :class:`InputError`.
    """
    fitting, examples = [], []
    for row in rows:
        file, line = place_of(row)
        try:
            example = prompt.example(row["instruction"], row["output"], row["input"])
        except InputError as error:
            if rejects is None:
                raise in_line(error, file, line) from error
            rejects.add(row, file, line, error.what)
            continue
        if len(example.input_ids) <= max_length:
            fitting.append(row)
            examples.append(example)
        elif rejects is not None:
            rejects.add(row, file, line, f"{TOO_LONG} {max_length} tokens")
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
