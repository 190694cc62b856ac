"""Generation in batches, free or held to a few labels: only tokens that can still become a label may be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from helpers.instruct.prompts import Prompt


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
            allowed = sorted(self._next.get(tuple(written), {self._stop}))
            masked[row, allowed] = scores[row, allowed]
        return masked


@torch.inference_mode()
def generate_ids(
    model: PreTrainedModel,
    prompt: Prompt,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    labels: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """Greedy continuations of each prompt, in the order given; with ``labels``, each is one of them and a stop token.

    Batches of like length, filled up on the left: the continuation starts in the same column for every row.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    written: list[list[int]] = [[]] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids = [torch.tensor(prompts[row]) for row in rows]
        lengths = torch.tensor([len(each) for each in ids])
        batch = torch.nn.utils.rnn.pad_sequence(ids, True, prompt.pad_id, padding_side="left")  # (B, T)
        real = torch.arange(batch.shape[1]) >= batch.shape[1] - lengths[:, None]
        choice = [] if labels is None else [LabelChoice(labels, prompt.stop_ids[0], batch.shape[1])]
        done = model.generate(
            input_ids=batch.to(device),
            attention_mask=real.long().to(device),
            max_new_tokens=max_new_tokens if labels is None else max(map(len, labels)) + 1,
            do_sample=False,
            eos_token_id=list(prompt.stop_ids),
            pad_token_id=prompt.pad_id,
            logits_processor=LogitsProcessorList(choice),
        )
        for row, new in zip(rows, done[:, batch.shape[1] :].tolist(), strict=True):
            written[row] = new
    return written
