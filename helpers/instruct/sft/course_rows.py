"""The rows of a tuning run: from the files of the settings, or the course's own; split, tokenised, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from helpers.course.paths import repository_path, short_path
from helpers.course.rejects import Rejects
from helpers.instruct.product_rows import product_rows
from helpers.instruct.prompts import Example, Prompt
from helpers.instruct.rows import (
    TOO_LONG,
    Row,
    passages,
    place_of,
    question_of,
    read_rows,
    split_by_text,
    to_examples,
    trained_share,
)
from helpers.instruct.sft.settings import InstructionSettings

LESSON_ROWS = "outputs/06_instruction_data/train.jsonl"


@dataclass(frozen=True)
class Prepared:
    """Training and validation rows, and the same rows as token ids with labels."""

    train_rows: list[Row]
    validation_rows: list[Row]
    train: list[Example]
    validation: list[Example]
    rejects: Rejects
    said: str

    def summary(self) -> str:
        """Where the rows come from, how many there are, which share of the tokens is learned, and whose rows are too long."""
        tokens = sum(len(one.input_ids) for one in self.train)
        return (
            f"{self.said}\n{len(self.train):,} rows to train on ({tokens:,} tokens, {trained_share(self.train):.1%} of "
            f"them learned), {len(self.validation):,} to validate on; {self.rejects.summary()}{self._too_long()}"
        )

    def _too_long(self) -> str:
        """The tasks whose rows were put aside as too long, those with most first, and the tasks that are left without any."""
        rows = [told["row"] for told in self.rejects.rows if str(told["reason"]).startswith(TOO_LONG)]
        tasks = Counter(row["task"] or "(no task)" for row in rows)
        left = {row["task"] or "(no task)" for row in self.train_rows}
        if not tasks:
            return ""
        counts = ", ".join(f"{task} {count}" for task, count in tasks.most_common())
        gone = ", ".join(task for task in tasks if task not in left)
        return f"\ntoo long, by task: {counts}" + (f"\nno row left to train on: {gone}" if gone else "")


def prepared(settings: InstructionSettings, prompt: Prompt) -> Prepared:
    """Read, split by text, tokenise. Rows that cannot be used go to ``output_dir/rows.jsonl.rejected.jsonl``."""
    rejects = Rejects(settings.output_dir / "rows.jsonl")
    if settings.train_path is None:
        rows, said = course_rows(rejects, settings.max_rows, settings.seed)
    else:
        rows = read_rows(settings.train_path, rejects, settings.max_rows, settings.seed)
        said = f"rows of {short_path(settings.train_path)}"
    if settings.val_path is None:
        train, aside = split_by_text(rows, settings.val_share, settings.max_val_rows, settings.seed)
    else:
        aside = read_rows(settings.val_path, rejects, settings.max_val_rows, settings.seed)
        train = without_texts(rows, aside, rejects)
    train, examples = to_examples(train, prompt, settings.max_seq_length, rejects)
    aside, held_out = to_examples(aside, prompt, settings.max_seq_length, rejects)
    rejects.save()
    return Prepared(train, aside, examples, held_out, rejects, said)


def course_rows(rejects: Rejects, limit: int | None = None, seed: int = 13) -> tuple[list[Row], str]:
    """The course's own rows and one line that says which: products to sort into domains, and lesson 06's training set.

    Half of ``limit`` are products, so that one task has enough rows to be measured. Where lesson 06 has not run, its
    place is left to them.
    """
    path = repository_path(LESSON_ROWS)
    if not path.is_file():
        products = product_rows(limit, seed)
        return products, f"{len(products)} products to sort into domains (lesson 06 has not run: no other tasks)"
    products = product_rows(None if limit is None else limit // 2, seed)
    tasks = read_rows(path, rejects, None if limit is None else limit - len(products), seed)
    return [
        *products,
        *tasks,
    ], f"{len(products)} products to sort into domains, {len(tasks)} rows of {short_path(path)}"


def without_texts(rows: Sequence[Row], others: Sequence[Row], rejects: Rejects) -> list[Row]:
    """``rows`` less those whose question or passage stands in ``others``: what is validated on must not be learned."""
    both = [*rows, *others]
    texts = [{question_of(row), *own} for row, own in zip(both, passages(both), strict=True)]
    known = set().union(*texts[len(rows) :])
    kept = []
    for row, own in zip(rows, texts, strict=False):
        if own & known:
            what = "question" if question_of(row) in known else "passage"
            rejects.add(row, *place_of(row), f"the {what} stands in the validation rows")
        else:
            kept.append(row)
    return kept
