"""vLLM as the one who answers: the same three ways, by its own structured outputs and prompt log-probabilities.

Lesson 09 explains the engine. Its numbers differ from transformers' a little: other kernels, usually bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vllm import LLM

    from helpers.instruct.prompts import Prompt


class VllmBackend:
    """A running ``vllm.LLM``, with an adapter at request time or without; ``number``: from 1, another for each adapter."""

    def __init__(self, engine: LLM, prompt: Prompt, *, name: str, adapter: Path | None = None, number: int = 1) -> None:
        self.prompt, self._engine, self._adapter = prompt, engine, None
        if adapter is not None:
            from vllm.lora.request import LoRARequest

            self._adapter = LoRARequest(f"adapter {number}", number, str(adapter))
        config = engine.llm_engine.vllm_config
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
        done = self._run(prompts, max_tokens=max_new_tokens)
        return [self.prompt.answer_text(each.outputs[0].token_ids) for each in done]

    def choose(
        self, prompts: Sequence[Sequence[int]], words: Sequence[str], labels: Sequence[Sequence[int]]
    ) -> list[int]:
        """``StructuredOutputsParams(choice=words)``: any tokens that spell a word are allowed, also an unusual cut."""
        from vllm.sampling_params import StructuredOutputsParams

        choice = StructuredOutputsParams(choice=list(words))
        done = self._run(prompts, max_tokens=4 * max(map(len, labels)) + 4, structured_outputs=choice)
        return [list(words).index(self.prompt.answer_text(each.outputs[0].token_ids)) for each in done]

    def likelihoods(self, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> Tensor:
        """Log-probabilities of the whole labels, (N, L), from vLLM's log-probabilities of the prompt's tokens."""
        whole = [[*prompt, *label] for prompt in prompts for label in labels]
        done = self._run(whole, max_tokens=1, prompt_logprobs=0)
        sums = []
        for number, (ids, each) in enumerate(zip(whole, done, strict=True)):
            own = len(labels[number % len(labels)])
            sums.append(
                sum(each.prompt_logprobs[place][ids[place]].logprob for place in range(len(ids) - own, len(ids)))
            )
        return torch.tensor(sums).view(len(prompts), len(labels))

    def _run(self, prompts: Sequence[Sequence[int]], **sampling: Any) -> list[Any]:
        from vllm import SamplingParams

        told = SamplingParams(temperature=0.0, stop_token_ids=list(self.prompt.stop_ids), **sampling)
        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        return self._engine.generate(given, told, lora_request=self._adapter, use_tqdm=False)
