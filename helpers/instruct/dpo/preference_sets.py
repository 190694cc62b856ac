"""The pairs of a run: from the files of the settings, checked, held-out questions apart; and what can be said of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from helpers.course.rejects import Rejects
from helpers.instruct.dpo.settings import DpoSettings
from helpers.instruct.preferences import Pair, length_matched, need_apart, read_pairs, split_by_prompt
from helpers.instruct.prompts import Prompt


@dataclass(frozen=True)
class PreferenceSets:
    """Pairs to learn, pairs held out, and the rows that could not be used."""

    train: list[Pair]
    test: list[Pair]
    rejects: Rejects

    def summary(self) -> str:
        """How many pairs there are, from where, and what was put aside."""
        files = " and ".join(dict.fromkeys(pair.file for pair in [*self.train, *self.test]))
        return f"{len(self.train):,} pairs to learn, {len(self.test):,} held out, of {files}; {self.rejects.summary()}"


def preference_sets(settings: DpoSettings, prompt: Prompt) -> PreferenceSets:
    """Read, check, split. What cannot be used goes to ``output_dir/pairs.jsonl.rejected.jsonl``.

    Where there is no ``test_path``, the held-out pairs are those of ``test.jsonl`` beside ``train_path``, or else of
    every ``test_every``-th question.
    """
    rejects = Rejects(settings.output_dir / "pairs.jsonl")
    path = settings.test_path or settings.train_path.with_name("test.jsonl")
    train = read_pairs(settings.train_path, prompt, settings.max_length, rejects)
    if path.is_file() or settings.test_path:
        test = read_pairs(path, prompt, settings.max_length, rejects)
    else:
        train, test = split_by_prompt(train, settings.test_every)
    test = _drawn(test, settings.max_test_pairs, settings.seed)
    train = _drawn(need_apart(train, test, rejects), settings.max_pairs, settings.seed)
    if settings.length_matched:
        train = length_matched(train)
    rejects.save()
    return PreferenceSets(train, test, rejects)


def _drawn(pairs: list[Pair], most: int | None, seed: int) -> list[Pair]:
    return pairs if most is None or most >= len(pairs) else random.Random(seed).sample(pairs, most)


def length_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """One row a part: pairs, in how many the chosen answer has more tokens, fewer, and how many more on average."""
    rows = []
    for part in [*dict.fromkeys(pair.part for pair in pairs), None]:
        some = [pair.difference for pair in pairs if part in (None, pair.part)]
        longer, shorter = sum(each > 0 for each in some), sum(each < 0 for each in some)
        name = "all" if part is None else part or "(no part)"
        rows.append((name, len(some), longer, shorter, round(sum(some) / len(some), 1)))
    return pd.DataFrame(rows, columns=["part", "pairs", "chosen longer", "chosen shorter", "tokens more"])
