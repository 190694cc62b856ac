"""A model of transformers that answers prompts in batches: ids in, ids out, greedy, sampled or held to a few labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from helpers.instruct.choosing import LabelChoice
from helpers.instruct.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "use_cache": True}
"""A checkpoint's generation_config.json may say otherwise (Qwen2.5 Instruct: a penalty of 1.05): scores would not be the
model's own, a label that the question names would be held back, and vLLM, which is told nothing of it, would disagree."""


def greedy(prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
    """What transformers' ``generate`` is told for a greedy answer that a stop token ends."""
    stops = {"eos_token_id": list(prompt.stop_ids), "pad_token_id": prompt.pad_id}
    return {"do_sample": False, "max_new_tokens": max_new_tokens} | NEUTRAL | stops


@torch.inference_mode()
def generate_ids(
    model: PreTrainedModel,
    prompt: Prompt,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    by_length: bool = True,
    labels: Sequence[Sequence[int]] | None = None,
    **how: Any,
) -> list[list[int]]:
    """Continuations in the order of ``prompts``, each up to and with its stop token, at most ``max_new_tokens`` long.

    Greedy, unless ``how`` (any argument of ``generate``: ``do_sample=True, temperature=0.7``) says otherwise. With
    ``labels`` each is one of them and a stop token, however long. ``by_length``: prompts of like length
    share a batch, the longest first: what does not fit into memory fails at once. A batch runs until its longest answer
    has ended; it is filled up on the left, so that every answer starts in the same column.
    """
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row])) if by_length else range(len(prompts))
    told = greedy(prompt, max_new_tokens if labels is None else max(map(len, labels)) + 1) | how
    written: list[list[int]] = [[]] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        ids, real = _padded([prompts[row] for row in rows], prompt.pad_id, model, "left")
        if labels is not None:
            told["logits_processor"] = LogitsProcessorList([LabelChoice(labels, prompt.stop_ids[0], ids.shape[1])])
        new = model.generate(input_ids=ids, attention_mask=real, **told)[:, ids.shape[1] :].tolist()
        for row, each in zip(rows, new, strict=True):
            end = next((place for place, token in enumerate(each, 1) if token in prompt.stop_ids), len(each))
            written[row] = each[:end]
    return written


class LocalModel:
    """A model of transformers with its prompt; what the export gate asks of an engine, it asks of this too."""

    def __init__(self, model: PreTrainedModel, prompt: Prompt, batch_size: int = 16) -> None:
        self.model, self.prompt, self.batch_size = model.eval(), prompt, batch_size

    @classmethod
    def load(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, batch_size: int = 16) -> Self:
        """A merged model and the prompt that lies beside it, computed in ``dtype`` whatever its file holds."""
        from helpers.instruct.models import load_language_model

        tokenizer, model = load_language_model(folder, dtype)
        return cls(model, Prompt.load(folder, tokenizer), batch_size)

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, **how: Any) -> list[list[int]]:
        """As :func:`generate_ids`, which takes ``how``."""
        told = {"max_new_tokens": max_new_tokens, "batch_size": self.batch_size} | how
        return generate_ids(self.model, self.prompt, prompts, **told)

    def log_probs(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability (nats) of every token of each continuation, given its prompt and the tokens before it."""
        return [chosen.tolist() for chosen, _ in self._read(prompts, continuations)]

    def margins(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """By how many nats the most likely token leads the second at every place of each continuation."""
        return [(best[:, 0] - best[:, 1]).tolist() for _, best in self._read(prompts, continuations)]

    @torch.inference_mode()
    def _read(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """For each row the log-probabilities of its n tokens, (n,), and the two highest at each place, (n, 2)."""
        for prompt, continuation in zip(prompts, continuations, strict=True):
            ids, real = _padded([[*prompt, *continuation]], self.prompt.pad_id, self.model)
            logits = self.model(input_ids=ids, attention_mask=real).logits[0, len(prompt) - 1 : -1]  # (n, V)
            all_of_them = logits.float().log_softmax(-1)
            yield all_of_them.gather(1, ids[0, len(prompt) :, None])[:, 0], all_of_them.topk(2).values


def _padded(
    rows: Sequence[Sequence[int]], pad_id: int, model: PreTrainedModel, side: str = "right"
) -> tuple[Tensor, Tensor]:
    """Ids (B, T) and what of them is not PAD (B, T), where the model is."""
    tensors = [torch.tensor(list(row)) for row in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, True, pad_id, padding_side=side)
    real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], True, 0, padding_side=side)
    return ids.to(model.device), real.to(model.device)
