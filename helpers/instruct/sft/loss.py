"""The loss of instruction tuning: answers count, prompts and PAD do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.instruct.prompts import IGNORED, Example, Prompt
from helpers.instruct.sft.preview import answering

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def batch_loss(model: torch.nn.Module, examples: list[Example], pad_id: int) -> Tensor:
    """Mean cross entropy of the answers' tokens in one batch, in nats; PAD and prompts do not count."""
    device = next(model.parameters()).device
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.input_ids) for e in examples], True, pad_id)  # (B, T)
    labels = torch.nn.utils.rnn.pad_sequence([torch.tensor(e.labels) for e in examples], True, IGNORED)  # (B, T)
    logits = model(input_ids=ids.to(device), attention_mask=(ids != pad_id).to(device)).logits  # (B, T, V)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten().to(device))


def response_loss(model: PreTrainedModel, prompt: Prompt, examples: Sequence[Example], batch_size: int = 16) -> float:
    """Mean negative log-likelihood of all answers' tokens, in nats a token: every token counts the same."""
    order = sorted(examples, key=lambda one: len(one.input_ids))
    total = 0.0
    with answering(model):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            total += batch_loss(model, batch, prompt.pad_id).item() * sum(one.trained for one in batch)
    return total / sum(one.trained for one in order)
