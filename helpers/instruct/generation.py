"""A model of transformers that answers prompts in batches: ids in, ids out, greedy or sampled, sorted by length or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from helpers.instruct.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LocalModel:
    """A model of transformers with its prompt; what the export gate asks of an engine, it asks of this too."""

    def __init__(self, model: PreTrainedModel, prompt: Prompt, batch_size: int = 16) -> None:
        self.model, self.prompt, self.batch_size = model.eval(), prompt, batch_size

    @classmethod
    def load(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, batch_size: int = 16) -> Self:
        """A merged model and the prompt that lies beside it, computed in ``dtype`` whatever its file holds."""
        from transformers import AutoModelForCausalLM

        from helpers.course.machine import torch_device
        from helpers.course.quiet import quiet

        quiet()
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, use_safetensors=True)
        return cls(model.to(torch_device()), Prompt.load(folder), batch_size)

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, *, by_length: bool = True, **how: Any
    ) -> list[list[int]]:
        """Continuations in the order of ``prompts``, each up to its stop token (kept) or ``max_new_tokens``.

        Greedy, unless ``how`` (any argument of ``generate``: ``do_sample=True, temperature=0.7``) says otherwise.
        ``by_length``: questions of like length share a batch. A batch runs until its longest answer has ended.
        """
        told = {"do_sample": False, "max_new_tokens": max_new_tokens} | how
        told |= {"eos_token_id": list(self.prompt.stop_ids), "pad_token_id": self.prompt.pad_id}
        written: dict[int, list[int]] = {}
        for rows in _batches([len(ids) for ids in prompts], self.batch_size, by_length):
            ids, real = self._padded([prompts[row] for row in rows], left=True)
            new = self.model.generate(input_ids=ids, attention_mask=real, **told)[:, ids.shape[1] :]
            written |= {row: until_stop(each, self.prompt) for row, each in zip(rows, new.tolist(), strict=True)}
        return [written[row] for row in range(len(prompts))]

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
            ids, real = self._padded([[*prompt, *continuation]])
            logits = self.model(input_ids=ids, attention_mask=real).logits[0, len(prompt) - 1 : -1]  # (n, V)
            all_of_them = logits.float().log_softmax(-1)
            yield all_of_them.gather(1, ids[0, len(prompt) :, None])[:, 0], all_of_them.topk(2).values

    def _padded(self, rows: Sequence[Sequence[int]], left: bool = False) -> tuple[Tensor, Tensor]:
        """Ids (B, T) and what of them is not PAD (B, T); on the left, where a continuation is to follow."""
        side = "left" if left else "right"
        tensors = [torch.tensor(list(row)) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(tensors, True, self.prompt.pad_id, padding_side=side)
        real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in tensors], True, 0, padding_side=side)
        return ids.to(self.model.device), real.to(self.model.device)


def until_stop(ids: Sequence[int], prompt: Prompt) -> list[int]:
    """Generated ids up to and with the first stop token; what a batch filled up behind it is dropped."""
    end = next((place for place, token in enumerate(ids, 1) if token in prompt.stop_ids), len(ids))
    return list(ids[:end])


def _batches(lengths: Sequence[int], size: int, by_length: bool) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row]) if by_length else list(range(len(lengths)))
    for start in range(0, len(order), size):
        yield order[start : start + size]
