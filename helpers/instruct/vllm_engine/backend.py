"""vLLM as the one who answers: the same three ways, by its own structured outputs and prompt log-probabilities.

Lesson 09 explains the engine. Its numbers differ from transformers' a little: other kernels, usually bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from helpers.instruct.prompts import Prompt
    from helpers.instruct.vllm_engine.engine import Engine


class VllmBackend:
    """A running engine; ``adapter``: the name by which it knows the adapter that speaks here (None: the base does)."""

    def __init__(self, engine: Engine, prompt: Prompt, *, name: str, adapter: str | None = None) -> None:
        self.prompt, self._engine, self._adapter = prompt, engine, adapter
        self.room = engine.context - 1  # the engine always writes a token behind what it reads
        config = engine.llm.llm_engine.vllm_config
        self.facts = {
            "model": name,
            "backend": "vllm",
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "batch_size": config.scheduler_config.max_num_seqs,
            "batch_tokens": config.scheduler_config.max_num_batched_tokens,
            "template": prompt.template,
        }

    def free(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[str]:
        """Greedy answers as text, cut at the first stop token or after ``max_new_tokens``."""
        return self._texts(prompts, max_tokens=max_new_tokens)

    def choose(
        self, prompts: Sequence[Sequence[int]], words: Sequence[str], labels: Sequence[Sequence[int]]
    ) -> list[int]:
        """``StructuredOutputsParams(choice=...)``: any tokens that spell a word are allowed, also an unusual cut."""
        from vllm.sampling_params import StructuredOutputsParams

        choice = StructuredOutputsParams(choice=[self.prompt.spelled(word) for word in words])
        texts = self._texts(prompts, max_tokens=4 * max(map(len, labels)) + 4, structured_outputs=choice)
        return [list(words).index(text) for text in texts]

    def likelihoods(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the whole labels, (N, L), from vLLM's log-probabilities of the prompt's tokens."""
        each, label = [ids for ids in prompts for _ in labels], [*labels] * len(prompts)
        sums = list(map(sum, self._engine.log_probs(each, label, self._adapter)))
        return torch.tensor(sums).view(len(prompts), len(labels))

    def _texts(self, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[str]:
        stops = list(self.prompt.stop_ids)
        done = self._engine.ask(prompts, self._adapter, stop_token_ids=stops, **sampling)
        return [self.prompt.answer_text(answer.ids) for answer in done]
