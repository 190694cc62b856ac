"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): the loss, and what it reads of a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.instruct.preferences import Pair
from helpers.instruct.prompts import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LN_2 = math.log(2)
REFERENCE = "ref"
"""The name that trl gives the frozen copy of the adapter."""


def dpo_loss(policy: Tensor, reference: Tensor, beta: float, lengths: Tensor | None = None) -> Tensor:
    """The loss of each pair, (N,), in nats.

    ``policy`` and ``reference`` (N, 2): log-probability of the chosen and of the rejected answer under the model that
    learns and under the one it started from. ``lengths`` (N, 2), tokens of the answers: compare the means of a token
    instead of the sums (trl's ``sigmoid_norm``), so that length alone earns nothing.
    """
    moved = policy - reference  # (N, 2): log of how many times as probable each answer has become
    if lengths is not None:
        moved = moved / lengths
    return -F.logsigmoid(beta * (moved[:, 0] - moved[:, 1]))


def need_ln_2(loss: float) -> None:
    """Raise RuntimeError where the first loss is not ln 2 to three digits: the reference is not what training began from."""
    if abs(loss - LN_2) >= 5e-4:
        raise RuntimeError(
            f"the first loss is {loss:.4f}, not ln 2 = {LN_2:.4f}: the reference is another model than the start "
            "(dropout is on, or the adapter was left out of the reference)"
        )


def rewards(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """What DPO's model of preference says each answer is worth, (N, 2): ``beta`` times the log-ratio."""
    return beta * (policy - reference)


def padded(rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Questions with answers as ids (B, T), and labels (B, T) that are IGNORED everywhere but on the answers."""
    ids = [torch.tensor([*row, *answer]) for row, answer in zip(rows, answers, strict=True)]
    labels = [torch.tensor([*[IGNORED] * len(row), *answer]) for row, answer in zip(rows, answers, strict=True)]
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, True, pad_id), pad(labels, True, IGNORED)


def sequence_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the log-probabilities of each row's labelled tokens, (B,): logits (B, T, V) at t predict the token at t + 1."""
    logits, labels = logits[:, :-1], labels[:, 1:]
    own = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (B, T-1)
    return (own * (labels != IGNORED)).sum(-1)


@torch.inference_mode()
def pair_log_probs(model: PreTrainedModel, pairs: Sequence[Pair], pad_id: int, batch_size: int = 16) -> Tensor:
    """Log-probability of the chosen and the rejected answer of every pair, (N, 2), float32, in nats, EOS included."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    found = torch.empty(len(pairs), 2)
    order = sorted(range(len(pairs)), key=lambda number: len(pairs[number].prompt_ids) + len(pairs[number].chosen_ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        questions = [pairs[row].prompt_ids for row in rows]
        for side, key in enumerate(("chosen_ids", "rejected_ids")):
            ids, labels = padded(questions, [getattr(pairs[row], key) for row in rows], pad_id)
            logits = model(input_ids=ids.to(device), use_cache=False).logits  # PAD stands behind: nothing reads it
            found[rows, side] = sequence_log_probs(logits.float(), labels.to(device)).cpu()
    model.train(training)
    return found


def answer_lengths(pairs: Sequence[Pair]) -> Tensor:
    """Tokens of the chosen and the rejected answers, EOS included, (N, 2)."""
    return torch.tensor([[len(pair.chosen_ids), len(pair.rejected_ids)] for pair in pairs])
