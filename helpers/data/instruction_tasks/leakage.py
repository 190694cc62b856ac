"""Does a training set hold texts of a test set? Shared runs of characters after normalisation, text by text.

Spaces, punctuation and case do not hide a leak: both sides are compared by :func:`leak_key`. A test text is
leaked by a training text that holds ``threshold`` of its character n-grams (or, if it is shorter than n, by one that is the
same). The usual thirteen words (Brown et al. 2020, arXiv 2005.14165, appendix C) would rarely fire here: half of NSMC's film
reviews have six or fewer.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.rejects import Rejects
from helpers.data.benchmarks import BENCHMARKS, read_benchmark
from helpers.data.duplicates import split_rows
from helpers.data.instruction_tasks.building import Built
from helpers.data.instruction_tasks.rows import split_parts
from helpers.data.text import text_key

LONG_RUN = re.compile(r"(.)\1{2,}")
LABEL = re.compile(r"^[^:：\n]{1,10}[:：] ?", re.MULTILINE)
"""리뷰: and 질문 1: before a text. It hides a short one, which leaks only as a whole."""
SHORTEST = 6
"""Characters of a key. A shorter test text (최고!) is anybody's: finding it says nothing, so it is not looked for."""
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
    share: float


def zero_shot_texts(folder: str | Path) -> dict[str, list[str]]:
    """The different texts of the four zero-shot test sets, found in ``folder``; rows that are faulty there give none."""
    texts = {}
    for name, benchmark in BENCHMARKS.items():
        table = read_benchmark(name, folder, Rejects(Path(folder) / name))
        every = (text for column in benchmark.text_columns for text in table[column])
        texts[name] = list(dict.fromkeys(text for text in every if leak_key(text)))
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
        key, number = leak_key(text), len(self._texts)
        if len(key) < SHORTEST:
            return
        grams = grams_of(key, self.n)
        self._texts.append((name, text))
        self._sizes.append(len(grams))
        if not grams:
            self._short[key].append(number)
        for gram in grams:
            self._holders[gram].append(number)

    @property
    def sizes(self) -> Counter[str]:
        """How many texts of each test set are looked for (those below ``SHORTEST`` are not)."""
        return Counter(name for name, _ in self._texts)

    def look_up(self, text: str) -> list[tuple[str, str, float]]:
        """(test set, test text, share) of every test text that ``text`` leaks, the largest share first."""
        key, holders = leak_key(text), self._holders
        shared: Counter[int] = Counter()
        for gram in grams_of(key, self.n):
            if gram in holders:
                shared.update(holders[gram])
        found = {number: count / self._sizes[number] for number, count in shared.items()}
        found |= dict.fromkeys(self._short.get(key, ()), 1.0)
        kept = [(*self._texts[number], share) for number, share in found.items() if share >= self.threshold]
        return sorted(kept, key=lambda leak: (-leak[2], leak[0], leak[1]))

    def leaks(self, rows: Iterable[Mapping[str, str]]) -> list[Leak]:
        """Every leak of a set of instruction rows, in the order of the rows; a test text once a row, by its largest share."""
        found: list[Leak] = []
        for number, row in enumerate(rows):
            largest: dict[tuple[str, str], float] = {}
            for name, test, share in (leak for text in row_texts(row) for leak in self.look_up(text)):
                largest[name, test] = max(share, largest.get((name, test), 0.0))
            found += [Leak(number, name, test, share) for (name, test), share in largest.items()]
        return found


def leak_key(text: str) -> str:
    """The text without spaces, punctuation and case, a sign that stands three times or more in a row twice.

    Else ㅋㅋㅋㅋㅋㅋㅋㅋ in one review would be found in every other that laughs as long.
    """
    return LONG_RUN.sub(r"\1\1", text_key(text))


def grams_of(key: str, n: int) -> frozenset[str]:
    """The runs of ``n`` characters in a key; none where it is shorter."""
    return frozenset(key[start : start + n] for start in range(len(key) - n + 1))


def row_parts(row: Mapping[str, str]) -> list[str]:
    """The texts of a row: instruction, input part by part, output line by line."""
    parts = split_parts(row["input"])
    inputs = list(parts.values()) if parts else row["input"].split("\n")
    return list(dict.fromkeys(text for text in (row["instruction"], *inputs, *row["output"].split("\n")) if text))


def row_texts(row: Mapping[str, str]) -> list[str]:
    """What a test text may hide in: the parts, each line without a label before it, and the whole, for broken lines."""
    wholes = [row["instruction"], row["input"], row["output"]]
    bare = [LABEL.sub("", whole) for whole in wholes]
    lines = [line for whole in bare for line in whole.split("\n")]
    return list(dict.fromkeys(text for text in (*row_parts(row), *lines, *wholes, *bare) if text))


def long_texts(row: Mapping[str, str]) -> list[str]:
    """The texts of a row that must not stand on both sides of a split: its material, not the wording of the instruction."""
    own = row_parts(row | {"instruction": ""} if row["input"] else row)
    return [text for text in own if len(text) >= SHARED_LENGTH]


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
    texts = [(f"group {built.group}", *long_texts(built.row)) for built in rows]
    train, held_out = split_rows(texts, share, seed)
    return [rows[place] for place in train], [rows[place] for place in held_out]
