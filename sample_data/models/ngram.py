"""A character n-gram model with interpolated Kneser-Ney smoothing: the bar that a language model of any size must clear.

Kneser and Ney 1995; the interpolated form and its discount as in Chen and Goodman 1999, section 2.7: one discount per
order, D = n1 / (n1 + 2 n2), or 0.5 where a text is too small to hold a count of one. Counts are sorted arrays, so that
fifty million characters fit in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

START, END, UNKNOWN = 0, 1, 2
LARGEST_ALPHABET = 6000  # 6000**5 still fits in 63 bits


@dataclass(frozen=True)
class Order:
    """Counts of one order: n-grams as sorted keys, and what is known of each context (the n-gram less its last)."""

    grams: np.ndarray  # (G,) int64 keys
    counts: np.ndarray  # (G,) float64: raw for the highest order, of distinct left neighbours below it
    contexts: np.ndarray  # (C,) int64 keys
    totals: np.ndarray  # (C,) float64: sum of counts that follow the context
    kinds: np.ndarray  # (C,) float64: number of different characters that follow it
    discount: float


class KneserNey:
    """p(character | the n - 1 before it); every line starts after START and ends with END.

    Characters beyond the `LARGEST_ALPHABET` most frequent ones share one UNKNOWN, whose probability each of them gets:
    a kindness to this model that a byte-fallback model does not have.
    """

    def __init__(self, lines: Iterable[str], n: int = 5) -> None:
        lines = list(lines)
        frequent = Counter(character for line in lines for character in line).most_common(LARGEST_ALPHABET - 3)
        self.n = n
        self.ids = {character: number for number, (character, _) in enumerate(frequent, 3)}
        self.base = len(self.ids) + 3
        if self.base**n >= 2**63:
            raise ValueError(f"{n}-grams over {self.base} characters do not fit in 63 bits")
        text = self._encode(lines)
        windows = self._keys(text)
        self.orders = [self._order(size, text, windows) for size in range(1, n + 1)]

    def _encode(self, lines: Sequence[str]) -> np.ndarray:
        """All lines one after another, each as n - 1 STARTs, its characters, END: (T,) int64."""
        before = [START] * (self.n - 1)
        return np.fromiter(
            (i for line in lines for i in (*before, *(self.ids.get(c, UNKNOWN) for c in line), END)), dtype=np.int64
        )

    def _keys(self, text: np.ndarray) -> np.ndarray:
        """Key of the n characters that end at each position: (T,) int64; the first n - 1 positions hold fewer."""
        keys = np.zeros(len(text), dtype=np.int64)
        for back in range(self.n):
            keys[back:] += text[: len(text) - back] * self.base**back
        return keys

    def _order(self, size: int, text: np.ndarray, windows: np.ndarray) -> Order:
        predicted = text != START
        highest, raw = np.unique(windows[predicted] % self.base**size, return_counts=True)
        counts = raw.astype(np.float64)
        if size < self.n:  # how many different characters stand before the n-gram
            longer = np.unique(windows[predicted] % self.base ** (size + 1))
            kinds = np.unique(longer % self.base**size, return_counts=True)[1]
            at_start = highest // self.base ** (size - 1) == START  # nothing stands before a line: keep the raw count
            counts = np.where(at_start & (size > 1), raw, kinds).astype(np.float64)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        contexts, first = np.unique(highest // self.base, return_index=True)
        totals = np.add.reduceat(counts, first)
        kinds = np.diff([*first, len(highest)]).astype(np.float64)
        return Order(highest, counts, contexts, totals, kinds, once / (once + 2 * twice) if once else 0.5)

    def log2_probabilities(self, line: str) -> np.ndarray:
        """log2 p of every character of a line and of its end: (len(line) + 1,)."""
        text = self._encode([line])
        windows = self._keys(text)[text != START]
        probability = np.full(len(windows), 1 / (self.base - 1))  # START is never predicted
        for size, order in enumerate(self.orders, 1):
            gram = windows % self.base**size
            count = _look_up(order.grams, order.counts, gram)
            total = _look_up(order.contexts, order.totals, gram // self.base)
            kinds = _look_up(order.contexts, order.kinds, gram // self.base)
            seen = total > 0
            share = np.maximum(count - order.discount, 0) / np.where(seen, total, 1)
            left_over = np.where(seen, order.discount * kinds / np.where(seen, total, 1), 1)
            probability = share + left_over * probability
        return np.log2(probability)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """values of the wanted keys, 0 where a key is absent; `keys` is sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0.0)


def bits_per_character(model: KneserNey, lines: Sequence[str]) -> float:
    """Mean over all characters of `lines`, the end of each line counted in the bits and not in the characters."""
    return -sum(model.log2_probabilities(line).sum() for line in lines) / sum(map(len, lines))
