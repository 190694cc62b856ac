"""Several rankings made into one without looking at their scores, which live on different scales."""

from __future__ import annotations

from collections.abc import Sequence

from helpers.course.errors import InputError
from helpers.embedding.retrieval_metrics import Run, ranked

SMOOTHING = 60
"""Cormack's k: how much less the first rank counts than it would by 1 / rank."""


def reciprocal_rank_fusion(runs: Sequence[Run], k: int = SMOOTHING) -> dict[str, dict[str, float]]:
    """A run whose scores are the sum over ``runs`` of 1 / (k + rank of the document).

    Ranks start at 1 and follow :func:`~helpers.embedding.retrieval_metrics.ranked`; a document that a run does not hold
    gets nothing from it, so give runs of the same depth (100 documents a query, say). Cormack, Clarke and Büttcher, SIGIR
    2009. Raises InputError where there is nothing to fuse or the runs answer different queries.
    """
    if not runs or k < 0:
        raise InputError("fusion takes at least one run, and k from 0 up", given=f"{len(runs)} runs, k = {k}")
    for number, run in enumerate(runs[1:], 2):
        if run.keys() != runs[0].keys():
            odd = sorted(run.keys() ^ runs[0].keys())
            raise InputError(
                "the runs answer different queries", place=f"run {number}", given=f"only in one of them: {odd[:5]}"
            )
    return {query: _fused([ranked(run[query]) for run in runs], k) for query in runs[0]}


def _fused(rankings: Sequence[Sequence[str]], k: int) -> dict[str, float]:
    scores: dict[str, float] = {}
    for documents in rankings:
        for rank, document in enumerate(documents, 1):
            scores[document] = scores.get(document, 0.0) + 1 / (k + rank)
    return scores
