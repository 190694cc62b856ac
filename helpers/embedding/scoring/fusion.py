"""Several searches made into one: by their ranks, or by their scores once these live on one scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from helpers.course.errors import InputError
from helpers.embedding.retrieval_metrics import Run, ranked

SMOOTHING = 60
"""Cormack's k: how much less the first rank counts than it would by 1 / rank."""


def reciprocal_rank_fusion(
    runs: Sequence[Run], k: int = SMOOTHING, weights: Sequence[float] | None = None
) -> dict[str, dict[str, float]]:
    """A run whose scores are the sum over ``runs`` of weight / (k + rank of the document).

    Ranks start at 1 and follow :func:`~helpers.embedding.retrieval_metrics.ranked`; a document that a run does not hold
    gets nothing from it, so give runs of the same depth (100 documents a query, say). ``weights``: one a run, at least
    0; without them all count alike, as in Cormack, Clarke and Büttcher, SIGIR 2009. A run that ranks much worse than
    another should weigh less; choose how much on queries that are not tested. Raises InputError where there is nothing
    to fuse, the runs answer different queries, a score is not finite, or there is not one weight a run.
    """
    if k < 0:
        raise InputError("fusion takes k from 0 up", given=f"k = {k}")
    return _fused(runs, weights, lambda scores: {key: 1 / (k + n) for n, key in enumerate(ranked(scores), 1)})


def score_fusion(runs: Sequence[Run], weights: Sequence[float] | None = None) -> dict[str, dict[str, float]]:
    """A run whose scores are the sum over ``runs`` of weight * score, each run's scores brought to 0 to 1 for each query.

    Unlike ranks, scores say how much better the first document is than the second. The best document of a query becomes
    1 and the last that the run holds 0 (min-max; where all are equal, 1), and one that it does not hold gets 0: Bruch,
    Gai and Ingber, ACM TOIS 2023, arXiv 2210.11934, whose convex combination this is but for the scale. Depth, weights
    and what is raised: as in :func:`reciprocal_rank_fusion`.
    """
    return _fused(runs, weights, _from_0_to_1)


def _from_0_to_1(scores: Mapping[str, float]) -> dict[str, float]:
    low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
    return {key: (score - low) / (high - low) if high > low else 1.0 for key, score in scores.items()}


def _fused(
    runs: Sequence[Run], weights: Sequence[float] | None, says: Callable[[Mapping[str, float]], Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """``says``: what a run's scores for one query give each of its documents."""
    if not runs:
        raise InputError("fusion takes at least one run", given="0 runs")
    weights = [1.0] * len(runs) if weights is None else list(weights)
    if len(weights) != len(runs) or not all(0 <= weight < inf for weight in weights) or not any(weights):
        allowed = "one finite number from 0 up for each run, not all of them 0"
        raise InputError("these weights fit no fusion", place="weights", given=weights, allowed=allowed)
    for number, run in enumerate(runs[1:], 2):
        if run.keys() != runs[0].keys():
            odd = sorted(run.keys() ^ runs[0].keys())
            raise InputError(
                "the runs answer different queries", place=f"run {number}", given=f"only in one of them: {odd[:5]}"
            )
    for number, run in enumerate(runs, 1):
        for query, scores in run.items():
            for document, score in scores.items():
                if not -inf < score < inf:
                    place = f"run {number}, query {query}, document {document}"
                    raise InputError("a score is not finite", place=place, given=score)
    fused: dict[str, dict[str, float]] = {query: {} for query in runs[0]}
    for run, weight in zip(runs, weights, strict=True):
        for query, scores in fused.items():
            for document, share in says(run[query]).items():
                scores[document] = scores.get(document, 0.0) + weight * share
    return fused
