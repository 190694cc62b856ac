"""Does a training set hold texts of a test set? Shared runs of characters after normalisation, text by text.

Spaces, punctuation and case do not hide a leak: both sides are compared by :func:`helpers.data.text.text_key`. A test text is
leaked by a training text that holds ``threshold`` of its character n-grams (or, if it is shorter than n, by one that is the
same). The usual thirteen words (Brown et al. 2020, arXiv 2005.14165, appendix C) would never fire here: a Korean film review
has seven.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers.course.errors import InputError
from helpers.course.files import read_table, read_text, short_path
from helpers.course.rejects import Rejects
from helpers.course.separated import read_separated
from helpers.data.duplicates import split_rows
from helpers.data.task_building import Built
from helpers.data.task_rows import split_parts
from helpers.data.text import text_key

ZERO_SHOT_COLUMNS = {
    "nsmc": ("document",),
    "kornli": ("sentence1", "sentence2"),
    "question_pair": ("question1", "question2"),
    "hate_speech": ("comments",),
}
"""The columns of the four zero-shot test sets that hold text."""
N, THRESHOLD = 8, 0.7
"""Eight characters are about three Korean words."""
SHARED_LENGTH = 25
"""Shorter texts (answers, titles, 예) may stand on both sides of a split."""


@dataclass(frozen=True)
class Leak:
    """Training row ``row`` (its number) holds the share ``share`` of a test text's n-grams."""

    row: int
    test_set: str
    test_text: str
    train_text: str
    share: float


def zero_shot_texts(files: Mapping[str, str | Path]) -> dict[str, list[str]]:
    """The different texts of zero-shot test sets, by name (``nsmc``, ``kornli``, ``question_pair``, ``hate_speech``)."""
    texts = {}
    for name, path in files.items():
        if name not in ZERO_SHOT_COLUMNS:
            raise InputError("there is no zero-shot set of this name", given=name, allowed=list(ZERO_SHOT_COLUMNS))
        table = _table(Path(path))
        missing = [column for column in ZERO_SHOT_COLUMNS[name] if column not in table]
        if missing:
            raise InputError(
                f"this file of {name} has no column {missing[0]}", file=short_path(path), given=list(table)
            )
        columns = [table[column] for column in ZERO_SHOT_COLUMNS[name]]
        texts[name] = list(dict.fromkeys(text for column in columns for text in column if text_key(text)))
    return texts


class LeakIndex:
    """The n-grams of test texts, ready to be looked up. One look-up of a training text costs its own length.

    ``n``: characters of a run; shorter runs find more, and more that is chance. ``threshold``: the share of a test text's
    n-grams that one training text must hold, above 0 to 1.
    """

    def __init__(self, tests: Mapping[str, Sequence[str]], n: int = N, threshold: float = THRESHOLD) -> None:
        if n < 2 or not 0 < threshold <= 1:
            raise InputError("n must be 2 or more and the threshold above 0, at most 1", given=(n, threshold))
        self.n, self.threshold = n, threshold
        self._texts: list[tuple[str, str]] = []
        self._sizes: list[int] = []
        self._holders: dict[str, list[int]] = defaultdict(list)
        self._short: dict[str, list[int]] = defaultdict(list)
        for name, texts in tests.items():
            for text in texts:
                self._add(name, text)

    def _add(self, name: str, text: str) -> None:
        key, number = text_key(text), len(self._texts)
        grams = grams_of(key, self.n)
        self._texts.append((name, text))
        self._sizes.append(len(grams))
        if not grams and key:
            self._short[key].append(number)
        for gram in grams:
            self._holders[gram].append(number)

    def __len__(self) -> int:
        return len(self._texts)

    def look_up(self, text: str) -> list[tuple[str, str, float]]:
        """(test set, test text, share) of every test text that ``text`` leaks, the largest share first."""
        key = text_key(text)
        shared: Counter[int] = Counter()
        for gram in grams_of(key, self.n):
            shared.update(self._holders.get(gram, ()))
        found = {number: count / self._sizes[number] for number, count in shared.items()}
        found |= dict.fromkeys(self._short.get(key, ()), 1.0)
        kept = [(*self._texts[number], share) for number, share in found.items() if share >= self.threshold]
        return sorted(kept, key=lambda leak: (-leak[2], leak[0], leak[1]))

    def leaks(self, rows: Iterable[Mapping[str, str]]) -> list[Leak]:
        """Every leak of a set of instruction rows, in the order of the rows."""
        return [
            Leak(number, name, test, text, share)
            for number, row in enumerate(rows)
            for text in row_texts(row)
            for name, test, share in self.look_up(text)
        ]


def grams_of(key: str, n: int) -> frozenset[str]:
    """The runs of ``n`` characters in a key; none where it is shorter."""
    return frozenset(key[start : start + n] for start in range(len(key) - n + 1))


def row_texts(row: Mapping[str, str]) -> list[str]:
    """The texts of a row that a test text may hide in: instruction, input part by part, output line by line."""
    parts = split_parts(row["input"])
    inputs = list(parts.values()) if parts else row["input"].split("\n")
    return list(dict.fromkeys(text for text in (row["instruction"], *inputs, *row["output"].split("\n")) if text))


def take_out_leaks(rows: Sequence[Built], index: LeakIndex, rejects: Rejects) -> tuple[list[Built], Counter[str]]:
    """The rows that leak no test text, and how many leaked for each test set; those that do go to ``rejects``."""
    leaked: dict[int, Leak] = {}
    for leak in index.leaks(built.row for built in rows):
        leaked.setdefault(leak.row, leak)
    for number, leak in leaked.items():
        built = rows[number]
        row = built.row | {"test_text": leak.test_text, "share": round(leak.share, 3)}
        rejects.add(row, built.file, built.line, f"holds a text of the test set {leak.test_set}")
    kept = [built for number, built in enumerate(rows) if number not in leaked]
    return kept, Counter(leak.test_set for leak in leaked.values())


def split_by_group(rows: Sequence[Built], share: float, seed: int) -> tuple[list[Built], list[Built]]:
    """Training and held-out rows that share no article, table or source line, and no longer text of input or output.

    An article becomes a dozen rows: split those at random and the held-out side asks for texts that training has shown.
    """
    texts = []
    for built in rows:
        own = row_texts(built.row | {"instruction": ""} if built.row["input"] else built.row)
        texts.append((f"group {built.group}", *(text for text in own if len(text) >= SHARED_LENGTH)))
    train, held_out = split_rows(texts, share, seed)
    return [rows[place] for place in train], [rows[place] for place in held_out]


def _table(path: Path) -> pd.DataFrame:
    """A test set's file: fields are quoted in csv; in tsv a quotation mark is a plain character."""
    if path.name.removesuffix(".gz").endswith(".txt"):  # NSMC's ratings_test.txt is a tsv under another name
        return read_separated(read_text(path)[0], path, "\t", False, None)
    return read_table(path, quoted=path.name.removesuffix(".gz").endswith(".csv"))
