"""BM25, the search that needs no model: which documents share rare pieces of words with a query."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from helpers.data.text import normalise


def word_bigrams(text: str) -> list[str]:
    """Runs of two characters within each word, punctuation and case set aside: a word of one character is its own.

    Particles stick to Korean nouns, so whole words rarely match: 서울에서 and 서울은 share 서울 this way.
    """
    words = ("".join(sign for sign in word if sign.isalnum()) for word in normalise(text).casefold().split())
    return [word[i : i + 2] for word in words if word for i in range(max(len(word) - 1, 1))]


class BM25:
    """An index of documents (Robertson and Zaragoza, 2009). ``k1``: how soon repetition stops counting; ``b``: length."""

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(word_bigrams(document)) for document in documents]
        lengths = np.array([sum(each.values()) for each in counts], dtype=float)
        mean = lengths.mean() if lengths.size else 0.0  # without a word in any document there is nothing to divide
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, each in enumerate(counts):
            for gram, count in each.items():
                postings[gram].append((number, count))
        self._count = len(counts)
        self._postings: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for gram, found in postings.items():
            numbers, often = (np.array(column) for column in zip(*found, strict=True))
            rarity = math.log(1 + (self._count - len(found) + 0.5) / (len(found) + 0.5))
            damped = often * (k1 + 1) / (often + k1 * (1 - b + b * lengths[numbers] / mean))
            self._postings[gram] = (numbers, rarity * damped)

    def scores(self, query: str) -> np.ndarray:
        """(documents,) float64, 0 where nothing is shared."""
        total = np.zeros(self._count)
        for gram in word_bigrams(query):
            if gram in self._postings:
                numbers, weights = self._postings[gram]
                total[numbers] += weights
        return total

    def ranked(self, query: str) -> np.ndarray:
        """(documents,) the numbers of all documents, the best first; equals in the order of the documents."""
        return np.argsort(-self.scores(query), kind="stable")
