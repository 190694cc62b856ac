"""One pass through a causal model over the ends of many prompts at once, what they begin with being read already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from helpers.instruct.scoring.label_tree import LabelTree

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True)
class Begun:
    """What has been read of B rows: for each layer keys and values (B, heads, K, size), and ``real`` (B, K), False on PAD."""

    layers: list[tuple[Tensor, Tensor]]
    real: Tensor

    def repeated(self, rows: int) -> Begun:
        """One row for each of ``rows`` rows; the memory is shared until the model appends to it."""
        return Begun(
            [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self.layers],
            self.real.expand(rows, -1),
        )

    def of(self, rows: Sequence[int]) -> Begun:
        """The rows of these numbers, in this order, repeated where a number is."""
        chosen = torch.tensor(rows, device=self.real.device)
        return Begun([(keys[chosen], values[chosen]) for keys, values in self.layers], self.real[chosen])

    def cache(self) -> Cache:
        """A fresh cache of transformers that holds this, for the model to append to."""
        from transformers import DynamicCache

        return DynamicCache(self.layers)


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, each at most ``batch_tokens`` once filled up to its longest row, or one row.

    Longest first: what does not fit into memory fails at once, not at the end.
    """

    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        yield order[:size]
        order = order[size:]


def read_beginning(model: PreTrainedModel, ids: Sequence[int]) -> Begun:
    """What all rows begin with, read once (B = 1). No ids: nothing has been read."""
    device = next(model.parameters()).device
    if not ids:
        return Begun([], torch.ones(1, 0, dtype=torch.bool, device=device))
    cache = model(input_ids=torch.tensor([ids], device=device), use_cache=True, logits_to_keep=1).past_key_values
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Begun(layers, torch.ones(1, len(ids), dtype=torch.bool, device=device))


def read_more(model: PreTrainedModel, own: Sequence[Tensor], begun: Begun) -> Begun:
    """``begun`` and, behind it, the ids of ``own`` (B of them), filled up on the left."""
    ids, real = _filled_up(own)
    cache = begun.cache()
    model(
        input_ids=ids,
        attention_mask=_mask(real, begun.real, None, next(model.parameters()).dtype),
        position_ids=_places(begun, real),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Begun(layers, torch.cat([begun.real, real], 1))


def score_labels(model: PreTrainedModel, own: Sequence[Tensor], begun: Begun, tree: LabelTree) -> Tensor:
    """Log-probabilities (B, L) of all labels after B prompts, of which ``own`` are the ids behind ``begun``.

    A row is laid out [PAD ... PAD, own ids, label tree]: filled up on the left, so that the tree stands in the same
    columns for every row.
    """
    left, real = _filled_up(own)  # (B, W)
    places = _places(begun, real)
    width = left.shape[1]
    logits = model(
        input_ids=torch.cat([left, tree.tokens.expand(len(left), -1)], 1),  # (B, W + N)
        attention_mask=_mask(real, begun.real, tree, next(model.parameters()).dtype),
        position_ids=torch.cat([places, places[:, -1:] + tree.depths], 1),
        past_key_values=begun.cache(),
        use_cache=True,
        logits_to_keep=torch.arange(width - 1, width + len(tree), device=left.device),
    ).logits.float()  # (B, 1 + N, V): node 0 is the prompt's last token
    chosen = logits[:, tree.at, tree.predicts] - logits.logsumexp(-1)[:, tree.at]  # (B, L, T)
    return chosen.masked_fill(~tree.mask, 0).sum(-1)


def _filled_up(own: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids (B, W), filled up on the left with 0, and what of them is real (B, W)."""
    left = torch.nn.utils.rnn.pad_sequence(list(own), batch_first=True, padding_side="left")
    lengths = torch.tensor([len(ids) for ids in own], device=left.device)
    return left, torch.arange(left.shape[1], device=left.device) >= left.shape[1] - lengths[:, None]


def _places(begun: Begun, real: Tensor) -> Tensor:
    """Positions (B, W) of what follows ``begun``, PAD not counted."""
    return (begun.real.sum(1, keepdim=True) + real.cumsum(1) - 1).clamp(min=0)


def _mask(real: Tensor, begun: Tensor, tree: LabelTree | None, dtype: torch.dtype) -> Tensor:
    """Who may see whom, (B, 1, W + N, K + W + N), 0 or the smallest number, to be added to the attention's scores.

    Prompt tokens see what has been read and the prompt up to themselves; label tokens see the whole prompt, their ancestors
    and themselves, but no other label. A PAD sees itself, so that no row of the softmax is empty; nobody sees a PAD.
    """
    rows, width = real.shape
    own = torch.ones(width, width, dtype=torch.bool, device=real.device).tril() & real[:, None, :]
    seen = own | torch.eye(width, dtype=torch.bool, device=real.device)  # (B, W, W)
    if tree is not None and len(tree):
        prompt = torch.cat([seen, seen.new_zeros(rows, width, len(tree))], 2)
        labels = torch.cat([real[:, None, :].expand(-1, len(tree), -1), tree.sees.expand(rows, -1, -1)], 2)
        seen = torch.cat([prompt, labels], 1)
    seen = torch.cat([begun[:, None, :].expand(-1, seen.shape[1], -1), seen], 2)
    return torch.zeros(seen.shape, dtype=dtype, device=real.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
