"""How good sentence vectors are: Spearman against human scores, alignment and uniformity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import spearmanr

from helpers.course.errors import InputError
from helpers.embedding.encoder import Encoder
from helpers.embedding.losses import alignment, uniformity


def cosines(encoder: Encoder, first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """Cosine similarity of each pair, (N,) float32; a text that occurs twice is encoded once."""
    texts = sorted({*first, *second})
    place = {text: number for number, text in enumerate(texts)}
    vectors = encoder.encode(texts)
    left, right = vectors[[place[text] for text in first]], vectors[[place[text] for text in second]]
    return (left * right).sum(1)


def sts_spearman(encoder: Encoder, first: Sequence[str], second: Sequence[str], scores: Sequence[float]) -> float:
    """Spearman's rank correlation of cosine and human score, -1 to 1 (SentEval's "all" setting).

    Raises what :func:`check_scored` does.
    """
    check_scored(first, second, scores)
    return float(spearmanr(cosines(encoder, first, second), scores).statistic)


def check_scored(first: Sequence[str], second: Sequence[str], scores: Sequence[float] | None) -> None:
    """Raise InputError for pairs that no score can rank: no scores, all the same, or lists of different length."""
    if scores is None or not len(first) == len(second) == len(scores):
        counts = f"{len(first)}, {len(second)} and {'none' if scores is None else len(scores)}"
        raise InputError("sentences and scores differ in number", given=counts)
    if len(set(scores)) < 2:
        raise InputError("scores that are all the same rank no pair above another", given=f"{len(scores)} pairs")


def alignment_uniformity(
    encoder: Encoder, first: Sequence[str], second: Sequence[str], scores: Sequence[float], close: float = 4.0
) -> tuple[float, float]:
    """(alignment of the pairs scored `close` and above, uniformity of all sentences); lower is better for both.

    Wang and Isola, arXiv 2005.10242; the split at a score of 4 is SimCSE's (arXiv 2104.08821, section 6).
    """
    near = [i for i, score in enumerate(scores) if score >= close]
    if not near:
        raise InputError("no pair is scored as close", allowed=f"at least one score of {close} and above")
    left = torch.from_numpy(encoder.encode([first[i] for i in near]))
    right = torch.from_numpy(encoder.encode([second[i] for i in near]))
    everything = torch.from_numpy(encoder.encode(sorted({*first, *second})))
    return alignment(left, right).item(), uniformity(everything).item()
