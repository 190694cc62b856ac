"""Who answers: transformers here, vLLM in ``helpers/instruct/vllm_engine/backend.py``.

Both take token ids of one prompt object and give the same three things: free text, a choice of labels, label likelihoods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from torch import Tensor

from helpers.course.paths import short_path, shown_model
from helpers.instruct.adapters import with_adapters
from helpers.instruct.generation import generate_ids
from helpers.instruct.models import load_language_model
from helpers.instruct.prompts import Prompt
from helpers.instruct.scoring.likelihood import BATCH_TOKENS, label_likelihoods, room_of

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Backend(Protocol):
    """What the evaluation asks of a model. ``facts`` go into every row of results."""

    prompt: Prompt
    facts: Mapping[str, str | int]
    room: int | None
    """How many tokens of prompt and answer the model can read at once; None: no limit is known."""

    def free(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy answers as text."""

    def choose(
        self, prompts: Sequence[Sequence[int]], words: Sequence[str], labels: Sequence[Sequence[int]]
    ) -> list[int]:
        """The label that greedy decoding writes where it may write nothing else: its place in ``words``."""

    def likelihoods(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the whole labels, (N, L), in nats."""


class TransformersBackend:
    """A model of transformers; or one with several peft adapters, of which ``adapter`` speaks here (None: the base does)."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        prompt: Prompt,
        *,
        name: str,
        batch_size: int,
        batch_tokens: int,
        adapter: str | None = None,
    ) -> None:
        self._model, self.prompt, self._adapter, self.room = model.eval(), prompt, adapter, room_of(model)
        self._batch_size, self._batch_tokens = batch_size, batch_tokens
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self.facts = {
            "model": name,
            "backend": "transformers",
            "dtype": f"4 bits, computed in {dtype}" if getattr(model, "is_loaded_in_4bit", False) else dtype,
            "batch_size": batch_size,
            "batch_tokens": batch_tokens,
            "template": prompt.template,
        }

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The model, this backend's adapter switched on. Others may share it: ask for it anew after one of them spoke."""
        if hasattr(self._model, "peft_config"):
            if self._adapter is None:
                self._model.base_model.disable_adapter_layers()
            else:
                self._model.base_model.enable_adapter_layers()
                self._model.set_adapter(self._adapter, inference_mode=True)
        return self._model

    @classmethod
    def load(
        cls,
        base: str,
        adapters: Mapping[str, Path] | None = None,
        *,
        dtype: str = "float32",
        load_in_4bit: bool = False,
        template: str = "seed",
        batch_size: int = 32,
        batch_tokens: int = BATCH_TOKENS,
    ) -> dict[str, Self]:
        """``{"base": ...}`` and one for each adapter by its name, over the same weights, which are in memory once.

        An adapter is asked by the prompt that lies beside it. ``dtype``, ``load_in_4bit``: see :func:`load_language_model`.
        """
        adapters = adapters or {}
        tokenizer, model = load_language_model(base, dtype, load_in_4bit=load_in_4bit)
        model = with_adapters(model, adapters)
        name = shown_model(base)
        told = {"batch_size": batch_size, "batch_tokens": batch_tokens}
        own = {
            which: cls(model, Prompt.load(adapter), name=f"{name} + {short_path(adapter)}", adapter=which, **told)
            for which, adapter in adapters.items()
        }
        return {"base": cls(model, Prompt.for_tokenizer(tokenizer, template), name=name, **told), **own}

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
        return [places[tuple(ids[:-1])] for ids in written]  # without the stop token

    def likelihoods(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the whole labels, (N, L)."""
        return label_likelihoods(self.model, prompts, labels, batch_tokens=self._batch_tokens)
