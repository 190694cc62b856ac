"""Keys and values of a batch whose rows come and go: padded on the left, joined, thinned out."""

import torch
from torch.nn.functional import pad
from transformers import DynamicCache


def join(first: DynamicCache, second: DynamicCache) -> None:
    """Put the rows of ``second`` under those of ``first``; the shorter one is padded on the left with zeros."""
    for mine, theirs in zip(first.layers, second.layers, strict=True):
        length = max(mine.keys.shape[2], theirs.keys.shape[2])
        mine.keys = torch.cat([left_pad(mine.keys, length), left_pad(theirs.keys, length)])
        mine.values = torch.cat([left_pad(mine.values, length), left_pad(theirs.values, length)])


def keep(cache: DynamicCache, rows: torch.Tensor, skip: int) -> None:
    """Keep these rows, and of each all but the first ``skip`` positions."""
    for layer in cache.layers:
        layer.keys = layer.keys[rows, :, skip:]  # (B, heads, L, size)
        layer.values = layer.values[rows, :, skip:]


def left_pad(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """(B, heads, L, size) -> (B, heads, length, size)."""
    return pad(tensor, (0, 0, length - tensor.shape[2], 0))
