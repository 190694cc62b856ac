"""Who answers: transformers here, vLLM in ``vllm_backend.py``; both take token ids of one prompt object and give the same
three things: free text, a choice of labels, label likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch
from torch import Tensor

from helpers.course.paths import short_path
from helpers.instruct.choosing import generate_ids
from helpers.instruct.likelihood import BATCH_TOKENS, label_likelihoods
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Backend(Protocol):
    """What the evaluation asks of a model. ``facts`` go into every row of results."""

    prompt: Prompt
    facts: Mapping[str, str | int]

    def free(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy answers as text."""

    def choose(
        self, prompts: Sequence[Sequence[int]], words: Sequence[str], labels: Sequence[Sequence[int]]
    ) -> list[int]:
        """The label that greedy decoding writes where it may write nothing else: its place in ``words``."""

    def likelihoods(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the whole labels, (N, L), in nats."""


class TransformersBackend:
    """A model of transformers, with a peft adapter or without."""

    def __init__(
        self, model: PreTrainedModel, prompt: Prompt, *, name: str, batch_size: int, batch_tokens: int
    ) -> None:
        self.model, self.prompt = model.eval(), prompt
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        self.facts = {
            "model": name,
            "backend": "transformers",
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "batch_size": batch_size,
            "batch_tokens": batch_tokens,
            "template": prompt.template,
        }

    @classmethod
    def load(
        cls,
        base: str,
        adapter: Path | None = None,
        *,
        dtype: str = "float32",
        template: str = "seed",
        batch_size: int = 32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Self:
        """The base model, or the base under an adapter with the prompt that lies beside it. ``dtype`` auto: the machine's."""
        tokenizer, model = load_language_model(base)
        model = model if dtype == "auto" else model.to(getattr(torch, dtype))
        name = short_path(Path(base)) if Path(base).is_dir() else base
        if adapter is None:
            prompt = Prompt.for_tokenizer(tokenizer, template)
        else:
            from peft import PeftModel

            prompt, name = Prompt.load(adapter), f"{name} + {short_path(adapter)}"
            model = PeftModel.from_pretrained(model, str(adapter)).to(model.dtype)
        return cls(model, prompt, name=name, batch_size=batch_size, batch_tokens=batch_tokens)

    def free(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy answers as text, cut at the first stop token or after ``max_new_tokens``."""
        written = generate_ids(
            self.model, self.prompt, prompts, max_new_tokens=max_new_tokens, batch_size=self._batch_size
        )
        return [self.prompt.answer_text(ids) for ids in written]

    def choose(
        self, prompts: Sequence[Sequence[int]], words: Sequence[str], labels: Sequence[Sequence[int]]
    ) -> list[int]:
        """The label that a logits processor leaves to greedy decoding, as its place in ``words``."""
        written = generate_ids(
            self.model, self.prompt, prompts, max_new_tokens=1, batch_size=self._batch_size, labels=labels
        )
        places = {tuple(label): place for place, label in enumerate(labels)}
        return [places[tuple(_before_stop(ids, self.prompt.stop_ids))] for ids in written]

    def likelihoods(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the whole labels, (N, L)."""
        return label_likelihoods(self.model, prompts, labels, batch_tokens=self._batch_tokens)


def _before_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    return list(ids[: next((place for place, token in enumerate(ids) if token in stops), len(ids))])
