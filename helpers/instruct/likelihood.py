"""Label likelihood: how probable a model finds each label word after each prompt, without generating anything.

Two ways to the same numbers. :func:`naive_likelihoods` runs every prompt with every label, whole. :func:`label_likelihoods`
computes what all prompts share once, sorts the rows by length, reads all labels of a row in one pass under a mask that
keeps them apart, and asks the output layer only where a label token is predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from helpers.course.errors import InputError
from helpers.instruct.label_tree import LabelTree, shared_prefix

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

BATCH_TOKENS = 1024


@torch.inference_mode()
def naive_likelihoods(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> Tensor:
    """Sum of the log-probabilities of each label's tokens after each prompt, (N, L), float32, in nats.

    One forward pass for each prompt and label, no batch, no mask, no cache: slow, and hard to get wrong.
    """
    device = next(model.parameters()).device
    scores = torch.zeros(len(prompts), len(labels))
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            ids = torch.tensor([[*prompt, *label]], device=device)  # (1, T)
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()  # (n, V): predict the label's tokens
            chosen = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])  # (n, 1)
            scores[row, column] = chosen.sum().item()
    return scores


@torch.inference_mode()
def label_likelihoods(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """As :func:`naive_likelihoods`, (N, L), many times faster; equal within 1e-4 in float32.

    ``batch_tokens``: how many tokens go through the model at a time; memory grows with it. The rows are returned in
    the order given. Raises :class:`InputError` where a prompt is empty, does not fit into the model together with its label,
    or where the model's attention takes no mask of our own.
    """
    _need_room(model, prompts, labels)
    device = next(model.parameters()).device
    tree = LabelTree.of(labels).to(device)
    shared = shared_prefix(prompts)
    prefix = _read_prefix(model, prompts[0][:shared], device) if shared else []
    scores = torch.empty(len(prompts), len(labels))
    for rows in _batches([len(prompt) - shared for prompt in prompts], len(tree), batch_tokens):
        own = [torch.tensor(prompts[row][shared:]) for row in rows]
        scores[rows] = _score_batch(model, own, shared, prefix, tree, device).cpu()
    return scores


def _read_prefix(model: PreTrainedModel, ids: Sequence[int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the shared prefix, for each layer (1, heads, P, size)."""
    cache = model(input_ids=torch.tensor([ids], device=device), use_cache=True, logits_to_keep=1).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def _batches(lengths: Sequence[int], extra: int, batch_tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, longest first: what does not fit fails at once, not at the end."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while order:
        size = max(1, batch_tokens // (lengths[order[0]] + extra))
        yield order[:size]
        order = order[size:]


def _score_batch(
    model: PreTrainedModel,
    own: list[Tensor],
    shared: int,
    prefix: list[tuple[Tensor, Tensor]],
    tree: LabelTree,
    device: torch.device,
) -> Tensor:
    """Log-probabilities (B, L) of all labels after B prompts, of which ``own`` are the ids behind the prefix.

    A row is laid out [PAD ... PAD, own ids, label tree]: filled up on the left, so that the tree stands in the same
    columns for every row.
    """
    lengths = torch.tensor([len(ids) for ids in own], device=device)  # (B,)
    width = int(lengths.max())
    columns = torch.arange(width, device=device)
    real = columns >= width - lengths[:, None]  # (B, W): not PAD
    left = torch.nn.utils.rnn.pad_sequence(own, batch_first=True, padding_side="left").to(device)  # (B, W)
    ids = torch.cat([left, tree.tokens.expand(len(own), -1)], 1)  # (B, W + N)
    places = torch.cat([columns - width + lengths[:, None], lengths[:, None] - 1 + tree.depths], 1)  # within the row
    logits = model(
        input_ids=ids,
        attention_mask=_tree_mask(real, shared, tree, next(model.parameters()).dtype),
        position_ids=(shared + places).clamp(min=0),
        past_key_values=_cache_for(prefix, len(own)),
        use_cache=True,
        logits_to_keep=torch.arange(width - 1, width + len(tree), device=device),
    ).logits.float()  # (B, 1 + N, V): node 0 is the prompt's last token
    chosen = logits[:, tree.at, tree.predicts] - logits.logsumexp(-1)[:, tree.at]  # (B, L, T)
    return chosen.masked_fill(~tree.mask, 0).sum(-1)


def _tree_mask(real: Tensor, shared: int, tree: LabelTree, dtype: torch.dtype) -> Tensor:
    """Who may see whom, (B, 1, W + N, P + W + N), 0 or the smallest number, to be added to the attention's scores.

    Prompt tokens see the prefix and the prompt up to themselves; label tokens see the whole prompt, their ancestors and
    themselves, but no other label. A PAD sees itself, so that no row of the softmax is empty; nobody sees a PAD.
    """
    rows, width = real.shape
    own = torch.ones(width, width, dtype=torch.bool, device=real.device).tril() & real[:, None, :]
    own = own | torch.eye(width, dtype=torch.bool, device=real.device)  # (B, W, W)
    prompt = torch.cat([own, own.new_zeros(rows, width, len(tree))], 2)
    labels = torch.cat([real[:, None, :].expand(-1, len(tree), -1), tree.sees.expand(rows, -1, -1)], 2)
    seen = torch.cat([own.new_ones(rows, width + len(tree), shared), torch.cat([prompt, labels], 1)], 2)
    return torch.zeros(seen.shape, dtype=dtype, device=real.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _cache_for(prefix: list[tuple[Tensor, Tensor]], rows: int) -> Cache:
    """A cache that holds the prefix for each of ``rows`` rows; its memory is shared until the model appends to it."""
    from transformers import DynamicCache

    return DynamicCache([(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in prefix])


def _need_room(model: PreTrainedModel, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> None:
    if empty := [row for row, prompt in enumerate(prompts) if not prompt]:
        raise InputError("a prompt has no tokens", place=f"row {empty[0]}", allowed="at least BOS")
    config = model.config.get_text_config(decoder=True)
    limits = (getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None))
    room = min((limit for limit in limits if limit), default=None)
    longest = max(map(len, prompts), default=0) + max(map(len, labels), default=0)
    if room is not None and longest > room:
        raise InputError(
            "a prompt is longer than the model can read at once",
            place=f"row {max(range(len(prompts)), key=lambda row: len(prompts[row]))}",
            given=f"{longest} tokens with its label",
            allowed=f"at most {room}",
            hint="shorten the texts; cutting them unasked would change what is measured",
        )
    if config._attn_implementation not in ("sdpa", "eager"):
        raise InputError(
            "this attention takes no mask of our own",
            place="attn_implementation",
            given=config._attn_implementation,
            allowed=["sdpa", "eager"],
            hint='load the model with attn_implementation="sdpa"',
        )
