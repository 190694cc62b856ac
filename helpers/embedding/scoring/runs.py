"""Searches that leave a run: by vectors and by BM25, over a retrieval set or any texts by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from helpers.course.errors import InputError
from helpers.data.bm25 import BM25
from helpers.data.pairs import Pairs
from helpers.data.retrieval import Document, RetrievalSet

Encode = Callable[[Sequence[str]], np.ndarray]
TOP = 100
"""Documents kept for each query: enough for every metric at 10 and for fusion."""
QUERIES_AT_ONCE = 256


def judged_queries(data: RetrievalSet) -> dict[str, str]:
    """The queries that have judgements, in their order: the others cannot be scored."""
    return {query: text for query, text in data.queries.items() if query in data.qrels}


def tell_unjudged(name: str, data: RetrievalSet) -> None:
    """Print how many queries of the set `name` have no relevant document, and the ids of the first."""
    if lost := [query for query in data.queries if query not in data.qrels]:
        told = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
        print(f"{name}: {len(lost)} of {len(data.queries)} queries have no relevant document and are left out: {told}")


def documents_of(data: RetrievalSet) -> dict[str, str]:
    """Every document as it is embedded: title and text."""
    return {key: document.full() for key, document in data.corpus.items()}


def triplets_as_retrieval(triplets: Pairs) -> RetrievalSet:
    """A retrieval set made of triplets: find each anchor's positive among all positives and negatives.

    An anchor that stands in several triplets is one query with several answers.
    """
    texts = dict.fromkeys([*triplets.second, *(triplets.negatives or [])])
    keys = {text: f"d{number}" for number, text in enumerate(texts)}
    asked = {text: f"q{number}" for number, text in enumerate(dict.fromkeys(triplets.first))}
    qrels: dict[str, dict[str, int]] = {}
    for anchor, positive in zip(triplets.first, triplets.second, strict=True):
        qrels.setdefault(asked[anchor], {})[keys[positive]] = 1
    corpus = {key: Document("", text) for text, key in keys.items()}
    return RetrievalSet(corpus, {key: text for text, key in asked.items()}, qrels)


def dense_run(
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    encode_queries: Encode,
    encode_documents: Encode,
    top: int = TOP,
) -> dict[str, dict[str, float]]:
    """The ``top`` documents of each query by :func:`vector_run`.

    ``encode_queries`` and ``encode_documents`` turn N texts into (N, H); they put their own prompts before the texts.
    """
    asked = encode_queries(list(queries.values()))
    return vector_run(list(queries), list(documents), asked, encode_documents(list(documents.values())), top)


def vector_run(
    queries: Sequence[str], documents: Sequence[str], asked: np.ndarray, bank: np.ndarray, top: int = TOP
) -> dict[str, dict[str, float]]:
    """The ``top`` documents of each query by the dot product of their vectors (cosine, where they are unit vectors).

    ``queries`` (Q) and ``documents`` (D) are ids, ``asked`` (Q, H) and ``bank`` (D, H) their vectors. Raises InputError
    for a vector that is not finite, by its id.
    """
    asked, bank = _finite(asked, queries, "query"), _finite(bank, documents, "document")
    run = {}
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        some = slice(start, start + QUERIES_AT_ONCE)
        run |= scored_run(queries[some], documents, asked[some] @ bank.T, top)
    return run


def scored_run(
    queries: Sequence[str], documents: Sequence[str], scores: np.ndarray, top: int = TOP
) -> dict[str, dict[str, float]]:
    """The ``top`` documents of each query by scores (Q, D); of equal ones the later id comes first, as in `ranked`."""
    order = sorted(range(len(documents)), key=documents.__getitem__, reverse=True)
    keys, scores = [documents[place] for place in order], scores[:, order]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return {
        query: {keys[place]: float(row[place]) for place in places}
        for query, row, places in zip(queries, scores, best, strict=True)
    }


def bm25_run(queries: Mapping[str, str], documents: Mapping[str, str], top: int = TOP) -> dict[str, dict[str, float]]:
    """The ``top`` documents of each query by BM25 on character bigrams; those that share nothing with it are left out."""
    keys = sorted(documents, reverse=True)
    index = BM25([documents[key] for key in keys])
    run = {}
    for query, text in queries.items():
        scores = index.scores(text)
        best = np.argsort(-scores, kind="stable")[:top]
        run[query] = {keys[place]: float(scores[place]) for place in best if scores[place] > 0}
    return run


def _finite(vectors: np.ndarray, keys: Sequence[str], what: str) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(keys):
        raise InputError(
            f"the encoder did not return one vector for each {what}", given=vectors.shape, allowed=f"({len(keys)}, H)"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise InputError(
            f"the vector of this {what} is not finite (NaN or infinite)",
            place=f"{what} {', '.join(keys[number] for number in bad[:5])}",
            given=f"{len(bad)} of {len(keys)} vectors",
            hint="did the training diverge? lower the learning rate",
        )
    return vectors
