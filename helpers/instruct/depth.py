"""Depth up-scaling: a deeper model out of two copies of one, as SOLAR 10.7B was made from a 7B (arXiv 2312.15166)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from helpers.course.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def up_scaled_order(layers: int, dropped: int) -> list[int]:
    """Which layer of the small model each layer of the deep one copies: ``[0 .. n-m-1, m .. n-1]``.

    For SOLAR n = 32 and m = 8: 48 layers. Raises :class:`InputError` where nothing would be left or nothing dropped.
    """
    if not 1 <= dropped < layers:
        raise InputError(
            "the layers dropped at the seam do not fit the model",
            place="dropped",
            given=dropped,
            allowed=f"1 to {layers - 1} of its {layers} layers",
        )
    return [*range(layers - dropped), *range(dropped, layers)]


def depth_up_scaled(model: PreTrainedModel, dropped: int) -> PreTrainedModel:
    """A new model of ``2 (n - dropped)`` layers from a decoder-only one of n (Mistral, Llama); ``model`` stays as it is.

    One copy loses its last ``dropped`` layers, the other its first, and the second goes on top of the first. Embeddings,
    final norm and head are the small model's own. No new weight is made, and no layer shares its weights with another.
    """
    order = up_scaled_order(model.config.num_hidden_layers, dropped)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(order)
    if getattr(config, "layer_types", None):  # which layers attend in a window: one word a layer
        config.layer_types = [config.layer_types[number] for number in order]
    deep = type(model)._from_config(config, dtype=model.dtype).to(model.device)  # .to(dtype) would round RoPE's buffers
    small, wanted = model.state_dict(), deep.state_dict()
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(small[_source(name, order)])
    deep.tie_weights()
    return deep.train(model.training)


def _source(name: str, order: list[int]) -> str:
    """``model.layers.9.mlp.up_proj.weight`` -> the name of the weight that it copies."""
    head, found, tail = name.partition("layers.")
    if not found:
        return name
    number, _, rest = tail.partition(".")
    return f"{head}layers.{order[int(number)]}.{rest}"


def save_up_scaled(base: str, dropped: int, folder: str | Path) -> tuple[Path, PreTrainedTokenizerBase]:
    """Load ``base``, scale it up, write model and tokenizer to ``folder``; return the folder and the tokenizer."""
    from helpers.instruct.models import load_language_model

    tokenizer, model = load_language_model(base)
    folder = Path(folder)
    depth_up_scaled(model, dropped).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder, tokenizer
