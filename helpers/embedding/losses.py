"""The losses that make sentence vectors, and two numbers that describe them.

All of them take vectors as the encoder pools them (not normalised, any float dtype) and compute in float32 (float64 where
they are float64), also under autocast: a temperature of 0.05 multiplies rounding errors of bfloat16 by twenty before they
meet the exponential.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(
    anchor: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    temperature: float | None = None,
    *,
    symmetric: bool = False,
    mask: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Cross entropy of finding each anchor's positive among all candidates, by cosine similarity (a scalar).

    With `positive` a second dropout view of the same sentences this is unsupervised SimCSE; with paraphrases and hard
    negatives it is supervised SimCSE (Gao et al., arXiv 2104.08821); with queries and documents it is the loss of e5.
    Positives of other rows and all negatives serve as negatives of a row.

    anchor     (B, H)
    positive   (M, H), M >= B: row `first + i` belongs to anchor i. M > B when positives came from other processes.
    negatives  (N, H), or (B, K, H) for K hard negatives each; every anchor is compared with all of them
    mask       (B, M + N) bool, True = leave this candidate out for this anchor (a false negative); never the positive
    temperature
               must be given: a default would hide a setting that never arrived here
    symmetric  also find each positive's anchor among the anchors, and take the mean of both losses (needs M = B)

    Raises ValueError for a temperature that is not given or not positive, shapes that do not fit, a mask that hides a positive.
    """
    if temperature is None or not temperature > 0:
        raise ValueError(f"temperature must be given, and greater than 0; got {temperature}")
    rows, count = len(anchor), len(positive)
    if first + rows > count or (symmetric and rows != count):
        raise ValueError(f"{rows} anchors with positives {first} to {first + rows - 1} do not fit {count} positives")
    with torch.autocast(anchor.device.type, enabled=False):
        a, p = _unit(anchor), _unit(positive)
        candidates = p if negatives is None else torch.cat([p, _unit(negatives.flatten(0, -2))])
        logits = a @ candidates.T / temperature  # (B, M + N)
        labels = torch.arange(first, first + rows, device=a.device)
        if mask is not None:
            logits = _masked(logits, mask, labels)
        loss = F.cross_entropy(logits, labels)
        if symmetric:
            loss = (loss + F.cross_entropy(logits[:, :count].T, labels)) / 2
    return loss


def cosent_loss(first: Tensor, second: Tensor, scores: Tensor, temperature: float = 0.05) -> Tensor:
    """Rank scored pairs: a pair with a higher human score should have the higher cosine similarity (a scalar).

    log(1 + sum over pairs i, j with score_i > score_j of exp((cos_j - cos_i) / temperature)); Su Jianlin's CoSENT.

    first, second  (B, H), the two sentences of each pair
    scores         (B,), any scale: only their order counts
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
    with torch.autocast(first.device.type, enabled=False):
        cosine = (_unit(first) * _unit(second)).sum(-1) / temperature  # (B,)
        excess = cosine[None, :] - cosine[:, None]  # [i, j] = cos_j - cos_i
        wrong_order = excess[scores[:, None] > scores[None, :]]
        return torch.logsumexp(torch.cat([wrong_order.new_zeros(1), wrong_order]), dim=0)


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the two unit vectors of positive pairs (0 = all equal, 4 = all opposite).

    first, second  (B, H). Wang and Isola, arXiv 2005.10242, with their exponent 2. Lower is better.
    """
    return (_unit(first) - _unit(second)).square().sum(-1).mean()


def uniformity(vectors: Tensor) -> Tensor:
    """Log of the mean Gaussian potential between all pairs of unit vectors (0 = all in one point, lower = spread out).

    vectors  (B, H), B >= 2. Wang and Isola, arXiv 2005.10242, with their t = 2.
    """
    if len(vectors) < 2:
        raise ValueError(f"uniformity compares vectors with each other: at least 2 are needed, got {len(vectors)}")
    distances = torch.pdist(_unit(vectors))  # (B * (B - 1) / 2,)
    return torch.logsumexp(-2 * distances.square(), dim=0) - math.log(len(distances))


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(at_least_float32(vectors), dim=-1)


def at_least_float32(vectors: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32))


def _masked(logits: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    if mask.shape != logits.shape:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, the similarities have {tuple(logits.shape)}")
    if mask.gather(1, labels[:, None]).any():
        raise ValueError("mask hides a positive from its own anchor")
    return logits.masked_fill(mask, float("-inf"))
