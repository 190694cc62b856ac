"""Depth up-scaling: a deeper model out of two copies of one, as SOLAR 10.7B was made from a 7B (arXiv 2312.15166)."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from helpers.course.atomic import replaced_folder
from helpers.course.checksums import weights_fingerprint
from helpers.course.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MADE_FROM = "up_scaled.json"
"""What a copy was made from, beside its weights: another base or another seam makes it anew."""


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


def save_up_scaled(base: str, dropped: int, folder: str | Path) -> Path:
    """Scale ``base`` up and write model and tokenizer to ``folder``, whole or not at all; returns ``folder``.

    A copy of the same weights and ``dropped`` that lies there already is kept as it is.
    """
    from helpers.instruct.models import load_language_model

    folder = Path(folder)
    made_from = json.dumps({"base": weights_fingerprint(base), "dropped": dropped}) + "\n"
    if (folder / MADE_FROM).is_file() and (folder / MADE_FROM).read_text(encoding="utf-8") == made_from:
        return folder
    tokenizer, model = load_language_model(base)
    deep = depth_up_scaled(model, dropped)
    with replaced_folder(folder) as new:
        deep.save_pretrained(str(new))
        tokenizer.save_pretrained(str(new))
        (new / MADE_FROM).write_text(made_from, encoding="utf-8")
    return folder
