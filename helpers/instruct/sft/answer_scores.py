"""What can be counted about answers: do they end, do they keep to the form asked for, are they right?"""

from __future__ import annotations

from collections.abc import Sequence

from helpers.instruct.prompting.conversations import clean
from helpers.instruct.rows import Row
from helpers.instruct.sft.preview import Answer

MOST_LABELS = 20


def closed_tasks(rows: Sequence[Row]) -> dict[str, set[str]]:
    """Tasks whose answers are a few fixed labels (each seen three times on average), with these labels."""
    outputs: dict[str, list[str]] = {}
    for row in rows:
        outputs.setdefault(row["task"], []).append(clean(row["output"]))
    return {
        task: set(found)
        for task, found in outputs.items()
        if task and len(set(found)) <= MOST_LABELS and len(found) >= 3 * len(set(found))
    }


def answer_scores(rows: Sequence[Row], answers: Sequence[Answer], labels: dict[str, set[str]]) -> dict[str, float]:
    """``ends``: share that ended by themselves; over rows of closed tasks ``in form`` and ``right``; all 0 to 1.

    An answer in another form is wrong. Where no row belongs to a closed task, ``ends`` stands alone.
    """
    scores = {"ends": sum(one.ended for one in answers) / len(answers)}
    closed = [(row, one.text) for row, one in zip(rows, answers, strict=True) if row["task"] in labels]
    if closed:
        scores["in form"] = sum(text in labels[row["task"]] for row, text in closed) / len(closed)
        scores["right"] = sum(text == clean(row["output"]) for row, text in closed) / len(closed)
    return scores


def majority_right(rows: Sequence[Row], train: Sequence[Row], labels: dict[str, set[str]]) -> float | None:
    """The bar: how often each closed task's most frequent training label is right; None without such a task."""
    closed = [row for row in rows if row["task"] in labels]
    if not closed:
        return None
    often = {
        task: max(sorted(known), key=[clean(row["output"]) for row in train if row["task"] == task].count)
        for task, known in labels.items()
    }
    return sum(often[row["task"]] == clean(row["output"]) for row in closed) / len(closed)
