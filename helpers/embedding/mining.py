"""Hard negatives: documents that a model finds for a query although they do not answer it.

Nearest is not best: among the nearest documents are answers that nobody marked. Two guards, both of NV-Retriever (Moreira et
al., arXiv 2407.15831): pass over the first ranks, and take only what scores clearly below the positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import faiss
import numpy as np
import torch

from helpers.course.errors import InputError
from helpers.course.machine import torch_device
from helpers.data.text import key_of
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.encoder import Encoder

ROWS_AT_ONCE, COLUMNS_AT_ONCE = 1024, 16_384


@dataclass(frozen=True)
class Mined:
    """Hard negatives of Q queries among D documents.

    documents           for each query the numbers of its hard negatives, the nearest first; fewer where guards left fewer
    likely_false_share  of the documents in the rank window that are no known positive, the share that the teacher puts too
                        close to (or above) the positive to be believed
    short               queries that got fewer than were asked for
    """

    documents: list[list[int]]
    likely_false_share: float
    short: int


def nearest(
    queries: np.ndarray, documents: np.ndarray, k: int, search: Literal["faiss", "matmul"] = "faiss"
) -> tuple[np.ndarray, np.ndarray]:
    """The k best documents of each query by dot product: scores (Q, k) float32 and numbers (Q, k) int64, best first.

    All D documents where there are fewer than k.

    "matmul" needs torch alone and runs on a GPU where there is one; never more than (1024, 16384) scores exist at once.
    Raises InputError for another `search`, and for queries and documents of different width.
    """
    if search not in ("faiss", "matmul"):
        raise InputError("there is no such search", place="search", given=search, allowed="faiss or matmul")
    if queries.shape[1] != documents.shape[1]:
        raise InputError(
            "queries and documents have vectors of different width",
            given=f"{queries.shape[1]} and {documents.shape[1]}",
            hint="encode both with one model, cut to the same number of dimensions",
        )
    queries, documents = (np.ascontiguousarray(side, dtype=np.float32) for side in (queries, documents))
    k = min(k, len(documents))
    if not k or not len(queries):  # faiss fails on the one, torch on the other
        return np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int64)
    if search == "faiss":
        index = faiss.IndexFlatIP(documents.shape[1])
        index.add(documents)
        return index.search(queries, k)
    device = torch_device()
    bank, found = torch.from_numpy(documents).to(device), []
    for start in range(0, len(queries), ROWS_AT_ONCE):
        asked = torch.from_numpy(queries[start : start + ROWS_AT_ONCE]).to(device)
        scores, places = asked.new_zeros(len(asked), 0), torch.zeros(len(asked), 0, dtype=torch.long, device=device)
        for first in range(0, len(bank), COLUMNS_AT_ONCE):
            part = asked @ bank[first : first + COLUMNS_AT_ONCE].T
            best, at = part.topk(min(k, part.shape[1]))
            scores, places = torch.cat([scores, best], 1), torch.cat([places, at + first], 1)
        scores, order = scores.topk(k)
        found.append((scores.cpu().numpy(), places.gather(1, order).cpu().numpy()))
    return np.concatenate([scores for scores, _ in found]), np.concatenate([places for _, places in found])


def mine(
    queries: np.ndarray,
    documents: np.ndarray,
    positives: Sequence[Sequence[int]],
    *,
    per_query: int = 1,
    top: int = 30,
    skip: int = 0,
    margin: float = 0.95,
    lowest: float = -1.0,
    highest: float = 1.0,
    search: Literal["faiss", "matmul"] = "faiss",
) -> Mined:
    """Pick hard negatives by the vectors of a model (the teacher); vectors are unit vectors, (Q, H) and (D, H).

    positives  for each query the numbers of all documents that answer it: they are never picked
    top, skip  ranks looked at, among documents that are no positive: `skip` to `top`
    margin     a negative scores at most `margin` times the score of its query's worst positive
    lowest, highest  and between these two cosines

    Raises InputError for vectors that are not finite, counts that differ, no query, a query without a positive, a positive
    that is no document, an empty window, limits that leave nothing between them, or another `search`.
    """
    if not lowest < highest:
        raise InputError(
            "no cosine lies between the limits",
            given=f"lowest {lowest:g}, highest {highest:g}",
            allowed="lowest < highest",
        )
    _check(queries, documents, positives, skip, top)
    known = [np.array(sorted(set(each))) for each in positives]
    depth = min(len(documents), top + max(map(len, known)))
    scores, places = nearest(queries, documents, depth, search)
    worst = np.array([(documents[each] @ query).min() for query, each in zip(queries, known, strict=True)])
    pairs = np.concatenate([number * len(documents) + each for number, each in enumerate(known)])
    rows = np.arange(len(places), dtype=np.int64)[:, None] * len(documents)
    other = ~np.isin(rows + places, pairs)  # (Q, depth): no known positive
    rank = other.cumsum(1) - 1
    window = other & (rank >= skip) & (rank < top)
    limit = worst - (1 - margin) * np.abs(worst)  # margin * worst, and below it also where it is negative
    believed = window & (scores <= limit[:, None]) & (scores >= lowest) & (scores <= highest)
    chosen = [row[keep][:per_query].tolist() for row, keep in zip(places, believed, strict=True)]
    too_close = (window & (scores > limit[:, None])).sum() / max(1, window.sum())
    return Mined(chosen, float(too_close), sum(len(each) < per_query for each in chosen))


def mine_rows(
    encoder: Encoder, rows: ContrastiveRows, corpus: Sequence[str], *, per_query: int = 1, **limits: float | str
) -> tuple[ContrastiveRows, Mined]:
    """The rows with hard negatives that `encoder` itself finds in `corpus`; `limits` are those of :func:`mine`.

    A document with the text of a known positive, or of the query, counts as a positive. The documents of the rows belong
    to what is searched. Raises InputError for an empty text in `corpus`, and what :func:`mine` does.
    """
    if empty := [number for number, text in enumerate(corpus) if not text.strip()]:
        place = ", ".join(f"corpus, text {number}" for number in empty[:5])
        raise InputError("a document is empty", place=place, given=f"{len(empty)} of {len(corpus)} texts")
    texts = list({key_of(text): text for text in [*rows.documents, *corpus]}.values())
    number = {key_of(text): place for place, text in enumerate(texts)}
    asked = list(dict.fromkeys(rows.queries))
    answers = [
        [number[key] for key in {key_of(query), *rows.relevant[key_of(query)]} if key in number] for query in asked
    ]
    found = mine(
        encoder.encode(asked, prompt="query"),
        encoder.encode(texts, prompt="document"),
        answers,
        per_query=per_query,
        **limits,
    )
    of_query = {query: [texts[i] for i in places] for query, places in zip(asked, found.documents, strict=True)}
    return rows.with_negatives([of_query[query] for query in rows.queries]), found


def _check(queries: np.ndarray, documents: np.ndarray, positives: Sequence[Sequence[int]], skip: int, top: int) -> None:
    if len(positives) != len(queries):
        raise InputError(
            "queries and lists of positives differ in number", given=f"{len(queries)} and {len(positives)}"
        )
    for what, vectors in (("query", queries), ("document", documents)):
        bad = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(bad):
            raise InputError(
                "vectors hold NaN or infinity", place=", ".join(f"{what} {number}" for number in bad[:5].tolist())
            )
    if empty := [number for number, each in enumerate(positives) if not len(each)]:
        raise InputError(
            "a query has no positive to measure negatives against",
            place=", ".join(f"query {number}" for number in empty[:5]),
            hint="leave it out",
        )
    if not len(queries):
        raise InputError("there is no query to mine hard negatives for", given="0 queries")
    for number, each in enumerate(positives):
        if outside := [place for place in each if not 0 <= place < len(documents)]:
            raise InputError(
                "a positive is no document",
                place=f"query {number}",
                given=outside[0],
                allowed=f"0 to {len(documents) - 1}",
            )
    if not 0 <= skip < top:
        raise InputError("the rank window is empty", given=f"skip {skip}, top {top}", allowed="0 <= skip < top")
