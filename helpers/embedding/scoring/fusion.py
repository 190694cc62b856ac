"""Several rankings made into one without looking at their scores, which live on different scales."""

from __future__ import annotations

from collections.abc import Sequence
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
    to fuse, the runs answer different queries, or there is not one weight a run.
    """
    if not runs or k < 0:
        raise InputError("fusion takes at least one run, and k from 0 up", given=f"{len(runs)} runs, k = {k}")
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
    return {query: _fused([ranked(run[query]) for run in runs], k, weights) for query in runs[0]}


def _fused(rankings: Sequence[Sequence[str]], k: int, weights: Sequence[float]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for documents, weight in zip(rankings, weights, strict=True):
        for rank, document in enumerate(documents, 1):
            scores[document] = scores.get(document, 0.0) + weight / (k + rank)
    return scores
