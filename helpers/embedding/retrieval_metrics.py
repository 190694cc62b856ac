"""How good a ranking is: NDCG, F1, MRR and recall at k, for each query and on average.

A *run* is what a search returned, ``run[query][document] = score`` (higher is better); *qrels* are the judgements,
``qrels[query][document] = grade`` (0 and missing: not relevant). Ranx, pytrec_eval and MTEB speak of both in this form.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

from helpers.course.errors import InputError

Run = Mapping[str, Mapping[str, float]]
Qrels = Mapping[str, Mapping[str, int]]

KS = (1, 3, 10)
METRICS = ("ndcg", "f1", "mrr", "recall")


def retrieval_metrics(run: Run, qrels: Qrels, ks: Sequence[int] = KS) -> dict[str, float]:
    """The mean over all judged queries of :func:`metrics_by_query`: ``{"ndcg@1": ..., "f1@1": ..., ...}``, 0 to 1."""
    each = metrics_by_query(run, qrels, ks)
    names = next(iter(each.values()))
    return {name: math.fsum(scores[name] for scores in each.values()) / len(each) for name in names}


def metrics_by_query(run: Run, qrels: Qrels, ks: Sequence[int] = KS) -> dict[str, dict[str, float]]:
    """The metrics of every query in ``qrels``, in its order; a query for which the run holds nothing scores 0.

    With the k best documents and their grades (``hits``: how many of them have a grade above 0):

    * ``ndcg@k``: sum of grade / log2(rank + 1), as a share of what the best possible order reaches (Järvelin and
      Kekäläinen, 2002; the linear gain of trec_eval and MTEB)
    * ``f1@k``: harmonic mean of hits / k and hits / relevant documents
    * ``mrr@k``: 1 / rank of the first hit
    * ``recall@k``: hits / relevant documents

    Raises InputError for a query without a relevant document, a query that was never judged, a score that is no finite
    number, or a k below 1.
    """
    _check(run, qrels, ks)
    scores = {}
    for query, grades in qrels.items():
        found = [grades.get(document, 0) for document in ranked(run.get(query, {}), max(ks))]
        best = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
        scores[query] = {name: value for k in ks for name, value in zip(_names(k), _at(k, found, best), strict=True)}
    return scores


def ranked(scores: Mapping[str, float], top: int | None = None) -> list[str]:
    """The documents, best first; where scores are equal, ids that sort later come first.

    That is trec_eval's rule, so that a figure does not depend on the order in which a search happened to return ties.
    """
    order = [(score, document) for document, score in scores.items()]
    best = sorted(order, reverse=True) if top is None else heapq.nlargest(top, order)
    return [document for _, document in best]


def _names(k: int) -> list[str]:
    return [f"{metric}@{k}" for metric in METRICS]


def _at(k: int, found: Sequence[int], best: Sequence[int]) -> tuple[float, float, float, float]:
    """NDCG, F1, reciprocal rank and recall at k of the grades found, best document first."""
    top = found[:k]
    hits = sum(grade > 0 for grade in top)
    first = next((rank for rank, grade in enumerate(top, 1) if grade > 0), None)
    # 2pr / (p + r) with p = hits / k and r = hits / relevant is 2 hits / (k + relevant), and 0 for no hit
    return (
        _dcg(top) / _dcg(best[:k]),
        2 * hits / (k + len(best)),
        0.0 if first is None else 1 / first,
        hits / len(best),
    )


def _dcg(grades: Sequence[int]) -> float:
    return math.fsum(max(grade, 0) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def _check(run: Run, qrels: Qrels, ks: Sequence[int]) -> None:
    if not qrels:
        raise InputError("there are no judgements: nothing can be scored", place="qrels")
    if not ks or any(k < 1 for k in ks):
        raise InputError("a metric looks at the k best documents", place="ks", given=ks, allowed="whole numbers from 1")
    for query, grades in qrels.items():
        if not any(grade > 0 for grade in grades.values()):
            raise InputError(
                "this query has no relevant document, so no search could answer it",
                place=f"query {query}",
                hint="leave it out of the judgements",
            )
    for query, scores in run.items():
        if query not in qrels:
            raise InputError(
                "the run answers a query that nobody judged",
                place=f"query {query}",
                hint="score the queries of one split with the judgements of the same split",
            )
        for document, score in scores.items():
            if not math.isfinite(score):
                raise InputError(
                    "a score must be a finite number",
                    place=f"query {query}, document {document}",
                    given=score,
                    hint="NaN in the vectors? An empty text or a diverged training leaves it",
                )
