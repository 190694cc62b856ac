"""Label likelihood: how probable a model finds each label word after each prompt, without generating anything.

Two ways to the same numbers. :func:`naive_likelihoods` runs every prompt with every label, whole. :func:`label_likelihoods`
reads what all prompts share once, and what a few share (three hypotheses of one premise) once for those; it sorts the
rows by length, reads all labels of a row in one pass under a mask that keeps them apart, and asks the output layer only
where a label token is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from helpers.course.errors import InputError
from helpers.instruct.scoring.label_tree import LabelTree
from helpers.instruct.scoring.shared_beginnings import families, shared_prefix
from helpers.instruct.scoring.tree_scoring import batches, read_beginning, read_more, score_labels

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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

    ``batch_tokens``: for how many tokens a batch holds keys and values, those that its rows share counted in each (a row
    longer than that is a batch of its own). Beside it only what families begin with is held, at most as much again.
    The rows are returned in the order given. Raises :class:`InputError` where a prompt is empty, does not fit into the
    model together with its label, or where the model's attention takes no mask of our own.
    """
    _need_room(model, prompts, labels)
    device = next(model.parameters()).device
    tree = LabelTree.of(labels).to(device)
    shared = shared_prefix(prompts)
    begun = read_beginning(model, list(prompts[0][:shared]) if prompts else [])
    own = [torch.tensor(prompt[shared:], device=device) for prompt in prompts]
    scores = torch.empty(len(prompts), len(labels))
    related, alone = families([prompt[shared:] for prompt in prompts])
    for rows in batches([shared + len(own[row]) + len(tree) for row in alone], batch_tokens):
        rows = [alone[place] for place in rows]
        scores[rows] = score_labels(model, [own[row] for row in rows], begun.repeated(len(rows)), tree).cpu()
    for group in batches([shared + common for _, common in related], batch_tokens):
        some = [related[place] for place in group]  # families whose common beginnings are read together
        read = read_more(model, [own[rows[0]][:common] for rows, common in some], begun.repeated(len(some)))
        members = [(row, place, common) for place, (rows, common) in enumerate(some) for row in rows]
        begin = read.real.shape[1]
        for chosen in batches([begin + len(own[row]) - common + len(tree) for row, _, common in members], batch_tokens):
            part = [members[place] for place in chosen]
            rest = [own[row][common:] for row, _, common in part]
            scores[[row for row, _, _ in part]] = score_labels(
                model, rest, read.of([place for _, place, _ in part]), tree
            ).cpu()
    return scores


def room_of(model: PreTrainedModel) -> int | None:
    """How many tokens the model can read at once; None where its config sets no limit."""
    config = model.config.get_text_config(decoder=True)
    limits = (getattr(config, "max_position_embeddings", None), getattr(config, "sliding_window", None))
    return min((limit for limit in limits if limit), default=None)


def _need_room(model: PreTrainedModel, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> None:
    if empty := [row for row, prompt in enumerate(prompts) if not prompt]:
        raise InputError("a prompt has no tokens", place=f"prompt {empty[0] + 1}", allowed="at least BOS")
    room, config = room_of(model), model.config.get_text_config(decoder=True)
    longest = max(map(len, prompts), default=0) + max(map(len, labels), default=0)
    if room is not None and longest > room:
        raise InputError(
            "a prompt is longer than the model can read at once",
            place=f"prompt {1 + max(range(len(prompts)), key=lambda row: len(prompts[row]))}",
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
