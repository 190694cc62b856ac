"""Preference pairs: one question, an answer that was chosen and one that was rejected; read, checked, turned into token ids."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.jsonl import numbered_objects
from helpers.course.paths import short_path
from helpers.course.rejects import Rejects
from helpers.data.text import key_of, normalise
from helpers.instruct.prompts import Prompt
from helpers.instruct.rows import in_line

KEYS = ("prompt", "chosen", "rejected")
SHAPE = '{"prompt": "…", "chosen": "…", "rejected": "…"}'


@dataclass(frozen=True)
class Pair:
    """One preference: texts, token ids (both answers end with EOS), and where it stands in its file."""

    prompt: str
    chosen: str
    rejected: str
    part: str
    file: str
    line: int
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]

    @property
    def difference(self) -> int:
        """By how many tokens the chosen answer is longer."""
        return len(self.chosen_ids) - len(self.rejected_ids)

    @property
    def question(self) -> str:
        """The prompt without what does not make it another question: spaces, signs, case."""
        return key_of(self.prompt)

    def columns(self) -> dict[str, list[int]]:
        """What trl's ``DPOTrainer`` reads once texts have been tokenised; here they never are a second time."""
        return {"prompt_ids": self.prompt_ids, "chosen_ids": self.chosen_ids, "rejected_ids": self.rejected_ids}


def read_pairs(path: str | Path, prompt: Prompt, max_length: int, rejects: Rejects | None = None) -> list[Pair]:
    """Pairs of a jsonl file (``.gz`` too) with the ids that ``prompt`` gives them.

    A row whose texts are missing, empty or equal (after normalisation), of which the prompt makes no ids (a special token
    in a chat), or which is longer than ``max_length`` tokens, raises :class:`InputError` with file and line; with
    ``rejects`` it goes there and the others are returned. A pair is never cut: the end of an answer, with its EOS, may be
    what made it the better one.
    """
    pairs: list[Pair] = []
    path = Path(path)
    for line, row in numbered_objects(path, rejects):
        wrong = _wrong(row) or ""
        try:
            pair = None if wrong else to_pair(row, prompt, short_path(path), line)
        except InputError as error:  # a special token in a chat
            if rejects is None:
                raise in_line(error, path, line) from error
            wrong = error.what
        if not wrong:
            longest = len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
            wrong = f"the pair is longer than {max_length} tokens" if longest > max_length else ""
        if not wrong:
            pairs.append(pair)
        elif rejects is None:
            raise InputError(wrong, file=short_path(path), place=f"line {line}", given=row, allowed=SHAPE)
        else:
            rejects.add(row, path, line, wrong)
    if not pairs:
        given = rejects.summary() if rejects is not None else None
        raise InputError("this file holds no pair that can be used", file=short_path(path), given=given, allowed=SHAPE)
    return pairs


def to_pair(row: Mapping[str, str], prompt: Prompt, file: str = "", line: int = 0) -> Pair:
    """The texts of one row as ids: BOS once, in front of the question; EOS at the end of both answers."""
    question = prompt.prompt_ids(row["prompt"])
    answers = [prompt.example(row["prompt"], row[key]).input_ids[len(question) :] for key in ("chosen", "rejected")]
    return Pair(*(row[key] for key in KEYS), row.get("part", ""), file, line, question, *answers)


def _wrong(row: Mapping[str, object]) -> str | None:
    for key in KEYS:
        if not isinstance(row.get(key), str):
            return f"{key} is missing or no text"
        if not normalise(str(row[key])):
            return f"{key} is empty"
    if not isinstance(row.get("part", ""), str):
        return "part is no text"
    if normalise(str(row["chosen"])) == normalise(str(row["rejected"])):
        return "chosen and rejected are the same"
    return None


def need_apart(train: Sequence[Pair], test: Sequence[Pair], rejects: Rejects | None = None) -> list[Pair]:
    """``train`` less the pairs whose question stands in ``test`` too: what is measured on must not be learned.

    Without ``rejects`` such a pair raises :class:`InputError` with both places.
    """
    known = {pair.question: pair for pair in test}
    kept = []
    for pair in train:
        if (other := known.get(pair.question)) is None:
            kept.append(pair)
        elif rejects is None:
            raise InputError(
                f"this question stands in the test pairs, too ({other.file}, line {other.line})",
                file=pair.file,
                place=f"line {pair.line}",
                given=pair.prompt,
                hint="take it out of one of the two files",
            )
        else:
            row = {key: getattr(pair, key) for key in KEYS}
            rejects.add(row, pair.file, pair.line, "the question stands in the test pairs")
    if not kept:
        raise InputError("every question to train on stands in the test pairs", given=f"{len(train)} pairs")
    return kept


def split_by_prompt(pairs: Sequence[Pair], every: int) -> tuple[list[Pair], list[Pair]]:
    """Training and test pairs of one file: all pairs of every ``every``-th question are the test's."""
    numbers = {question: number for number, question in enumerate(dict.fromkeys(pair.question for pair in pairs))}
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for pair in pairs:
        sides[numbers[pair.question] % every == every - 1].append(pair)
    if not all(sides):
        raise InputError("too few different questions to keep some aside", given=f"{len(numbers)} questions")
    return sides


def length_matched(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs less as many as it takes for the chosen answer to be longer as often as shorter.

    Of the two kinds, chosen longer and chosen shorter, each pair of the rarer one takes as its partner the pair of the
    other whose difference in tokens is nearest to its own; pairs of equal length stay. What finds no partner is left
    out. The order is kept. Raises :class:`InputError` where nothing is left: all chosen answers are the longer ones, or
    all the shorter.
    """
    longer = sorted((pair for pair in pairs if pair.difference > 0), key=_tokens_apart)
    shorter = sorted((pair for pair in pairs if pair.difference < 0), key=_tokens_apart)
    few, free = sorted((longer, shorter), key=len)
    kept = {id(pair) for pair in few}
    for pair in few:
        above = bisect_left(free, _tokens_apart(pair), key=_tokens_apart)
        beside = range(max(above - 1, 0), min(above + 1, len(free)))
        nearest = min(beside, key=lambda place: abs(_tokens_apart(free[place]) - _tokens_apart(pair)))
        kept.add(id(free.pop(nearest)))
    matched = [pair for pair in pairs if pair.difference == 0 or id(pair) in kept]
    if not matched:
        raise InputError(
            "no pair is left when the lengths are matched",
            file=pairs[0].file if pairs else None,
            place="length_matched",
            given=f"chosen longer in {len(longer)} pairs, shorter in {len(shorter)}",
            allowed="both, at least once",
            hint="take loss_type sigmoid_norm, or pairs whose better answer is now and then the shorter one",
        )
    return matched


def _tokens_apart(pair: Pair) -> int:
    return abs(pair.difference)
