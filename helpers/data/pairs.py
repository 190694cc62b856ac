"""Strong sets (pairs of sentences) and STS sets (scored pairs), read from every format that people keep them in.

.csv, .tsv, .jsonl, all also with .gz, .parquet, and .pkl through the safe reader. Every text comes out in the normal
form of :func:`helpers.data.text.normalise`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, read_table, read_text, short_path
from helpers.course.pickles import read_pickle
from helpers.course.rejects import Rejects
from helpers.course.tables import ending_of
from helpers.data.places import RowLines, refuse
from helpers.data.text import key_of, normalise

PAIR_COLUMNS = (
    ("sentence_a", "sentence_b"),
    ("anchor", "positive"),
    ("query", "document"),
    ("sentence1", "sentence2"),
)
"""Known names of the two texts of a pair. With ``score``: scored pairs."""
NEGATIVE_COLUMNS = ("hard_negative", "negative")
"""Either name of the hard negative, which may be missing."""
STS_COLUMNS = ("score", "sentence1", "sentence2")
LOWEST, HIGHEST = 0.0, 5.0
HALVES = ("dev", "test")
"""The sides of an STS file that names none: its even and its odd rows."""


@dataclass(frozen=True)
class Pairs:
    """Lists of one length: ``first[i]`` and ``second[i]`` belong together, ``negatives[i]`` does not."""

    first: list[str]
    second: list[str]
    negatives: list[str] | None = None
    scores: list[float] | None = None

    def __post_init__(self) -> None:
        lengths = [len(part) for part in (self.first, self.second, self.negatives, self.scores) if part is not None]
        if len(set(lengths)) > 1:
            raise InputError("the lists of a set of pairs differ in length", given=", ".join(map(str, lengths)))

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Sequence[int]) -> "Pairs":
        """The rows asked for, in that order."""
        parts = (self.first, self.second, self.negatives, self.scores)
        return Pairs(*(None if part is None else [part[row] for row in rows] for part in parts))

    def texts(self) -> list[tuple[str, ...]]:
        """The two or three texts of each row."""
        sides = [side for side in (self.first, self.second, self.negatives) if side is not None]
        return list(zip(*sides, strict=True))


def read_pairs(path: str | Path, *, rejects: Rejects | None = None) -> Pairs:
    """The pairs of a strong set.

    A pickle holds tuples ``[(a, b), ...]`` or ``[(a, b, hard negative), ...]``, or two or three equally long lists (a
    list of two or three lists of two or three texts could be either, and is refused). A table has two of the columns in
    ``PAIR_COLUMNS`` and perhaps one of ``NEGATIVE_COLUMNS``; an STS file gives its pairs with their scores
    (:func:`read_sts`). A jsonl row may be a group ``{"sentences": [...]}`` of texts that mean the same: each is paired
    with the next. Raises :class:`InputError`, or keeps unusable rows in ``rejects``.
    """
    path = Path(path)
    ending = ending_of(path)
    if ending == ".tsv" and set(STS_COLUMNS) <= set(read_text(path)[0].split("\n", 1)[0].strip().split("\t")):
        return read_sts(path, rejects=rejects)
    if ending == ".pkl":
        rows = _pickled_rows(path)
        names = (*PAIR_COLUMNS[0], NEGATIVE_COLUMNS[0])[: len(rows[0])]
        return _pairs(pd.DataFrame(rows, columns=list(names), dtype="str"), names, path, RowLines(path), rejects)
    if ending == ".jsonl" and _holds_groups(path):
        return _chained(path, rejects)
    before = len(rejects or ())
    table = read_table(path, rejects=rejects)
    known = next((names for names in PAIR_COLUMNS if set(names) <= set(table.columns)), None)
    if known is None:
        raise InputError(
            "no known pair of columns",
            file=short_path(path),
            given=", ".join(table.columns),
            allowed="; ".join(map(" and ".join, PAIR_COLUMNS)),
        )
    lines = RowLines(path, rejects=rejects, since=before)
    return _pairs(table, (*known, *_negative_column(table, path)), path, lines, rejects)


def read_sts(path: str | Path, split: str | None = None, *, rejects: Rejects | None = None) -> Pairs:
    """The scored pairs of a tab-separated STS file with columns score, sentence1, sentence2 (KorSTS's own files fit).

    Quotation marks are plain characters. ``split`` takes the rows of one side by the column ``split``. A file without
    that column is halved, and that is said: its rows 0, 2, 4, ... are ``dev``, the others ``test``.
    """
    path = Path(path)
    before = len(rejects or ())
    table = read_table(path, quoted=False, rejects=rejects)
    lines = RowLines(path, quoted=False, rejects=rejects, since=before)
    if not set(STS_COLUMNS) <= set(table.columns):
        raise InputError(
            "this is no STS file",
            file=short_path(path),
            given=", ".join(table.columns),
            allowed=f"columns {', '.join(STS_COLUMNS)}",
        )
    if split is not None:
        side = table["split"] if "split" in table else pd.Series(HALVES)[table.index % 2].set_axis(table.index)
        if split not in set(side):
            raise InputError("no such split", file=short_path(path), given=split, allowed=sorted(set(side)))
        table = table[side == split]
        if "split" not in table:
            print(f"{path.name} has no column split: every second of its rows, {len(table):,}, is {split}")
    return _pairs(table, STS_COLUMNS[1:], path, lines, rejects)


def without(pairs: Pairs, texts: set[str]) -> Pairs:
    """The pairs of which no text is among ``texts``: what is tested on is never trained on."""
    return pairs.take([row for row, sides in enumerate(pairs.texts()) if texts.isdisjoint(sides)])


def _negative_column(table: pd.DataFrame, path: Path) -> list[str]:
    """The column of hard negatives, if there is one; a second one, or another name for it, would be lost without a word."""
    found = [name for name in table.columns if name.lower().startswith(NEGATIVE_COLUMNS)]
    if len(found) > 1 or not set(found) <= set(NEGATIVE_COLUMNS):
        raise InputError(
            "a row has one hard negative here, in a column of a known name",
            file=short_path(path),
            given=", ".join(found),
            allowed=" or ".join(NEGATIVE_COLUMNS),
            hint="rename the one to train with, and leave the others out",
        )
    return found


def _holds_groups(path: Path) -> bool:
    """True where the first object has a list under the key ``sentences``."""
    text, _ = read_text(path, "utf-8")
    return re.match(r'\s*\{[^\n]*"sentences"\s*:\s*\[', text) is not None


def _chained(path: Path, rejects: Rejects | None) -> Pairs:
    """Pairs of neighbours in each group of texts."""
    before = len(rejects or ())
    groups = read_jsonl(path, rejects=rejects)
    lines = RowLines(path, rejects=rejects, since=before)
    first, second = [], []
    for row, group in enumerate(groups):
        texts = group.get("sentences")
        fits = isinstance(texts, list) and len(texts) > 1
        if not fits or not all(isinstance(text, str) and normalise(text) for text in texts):
            refuse("a group is a list of two or more texts that are not empty", group, path, lines, row, rejects)
            continue
        clean = [normalise(text) for text in texts]
        first += clean[:-1]
        second += clean[1:]
    if not first:
        raise InputError("there is no pair in this file", file=short_path(path))
    return Pairs(first, second)


def _pairs(table: pd.DataFrame, names: Sequence[str], path: Path, lines: RowLines, rejects: Rejects | None) -> Pairs:
    """Check every row of a table: no empty text, no hard negative that is the positive, a score (if any) from 0 to 5."""
    scored = "score" in table.columns
    kept: list[tuple[list[str], float]] = []
    for row, values in zip(table.index, table.to_dict("records"), strict=True):
        texts, why, score = [normalise(values[name]) for name in names], None, 0.0
        if not all(texts):
            why = f"the text in {names[texts.index('')]} is empty"
        elif len(texts) > 2 and _same(texts[2], texts[1]):
            why = "the hard negative is the same text as its positive"
        elif scored:
            score, why = _score(values["score"])
        if why is None:
            kept.append((texts, score))
        else:
            refuse(why, values, path, lines, row, rejects)
    if not kept:
        raise InputError("there is no pair in this file", file=short_path(path))
    sides = [list(side) for side in zip(*(texts for texts, _ in kept), strict=True)]
    return Pairs(*sides[:2], sides[2] if len(sides) > 2 else None, [score for _, score in kept] if scored else None)


def _same(one: str, other: str) -> bool:
    return key_of(one) == key_of(other)


def _score(text: str) -> tuple[float, str | None]:
    try:
        score = float(text)
    except ValueError:
        return 0.0, f"the score {text!r} is no number"
    return score, None if LOWEST <= score <= HIGHEST else f"the score {text} is not between 0 and 5"


def _pickled_rows(path: Path) -> list[tuple[str, ...]]:
    content = read_pickle(path)
    shape = "[(a, b), ...], [(a, b, hard negative), ...] or two or three lists of one length"
    if len(content) in (2, 3) and all(isinstance(side, list) for side in content):
        lengths = [len(side) for side in content]
        if len(set(lengths)) > 1:
            raise InputError(
                "the lists of this strong set differ in length",
                file=short_path(path),
                given=", ".join(map(str, lengths)),
                hint="a sentence without its partner shifts all later ones: find the one that is missing",
            )
        if isinstance(content, list) and lengths[0] in (2, 3):
            raise InputError(
                "these lists could be the sides of the pairs, or the pairs themselves",
                file=short_path(path),
                given=content,
                allowed="pairs as tuples: [(a, b), ...]; or the sides in a tuple: ([a, ...], [b, ...])",
            )
        content = list(zip(*content, strict=True))
    for number, row in enumerate(content, 1):
        fits = isinstance(row, tuple | list) and len(row) == len(content[0]) and len(row) in (2, 3)
        if not fits or not all(isinstance(text, str) for text in row):
            raise InputError(
                "this pickle is no strong set", file=short_path(path), place=f"item {number}", given=row, allowed=shape
            )
    if not content:
        raise InputError("there is no pair in this file", file=short_path(path), allowed=shape)
    return [tuple(row) for row in content]
