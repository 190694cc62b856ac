"""Generation held to a few labels: only tokens that can still become a label may be chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class LabelChoice(LogitsProcessor):
    """Sets every token to minus infinity that no label has at this place; behind a whole label only ``stop_id`` is left.

    ``begin``: the width of the prompts in the batch. Without it a model may write anything; with it every answer is a label,
    so coverage is 1 and says nothing any more about whether the model understood.
    """

    def __init__(self, labels: Sequence[Sequence[int]], stop_id: int, begin: int) -> None:
        self._begin, self._stop = begin, stop_id
        self._next: dict[tuple[int, ...], set[int]] = {}
        for label in labels:
            for place, token in enumerate([*label, stop_id]):
                self._next.setdefault(tuple(label[:place]), set()).add(token)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``input_ids`` (B, T), ``scores`` (B, V) in, the masked scores (B, V) out."""
        masked = torch.full_like(scores, -torch.inf)
        for row, written in enumerate(input_ids[:, self._begin :].tolist()):
            allowed = list(self._next.get(tuple(written), {self._stop}))
            masked[row, allowed] = scores[row, allowed]
        return masked
