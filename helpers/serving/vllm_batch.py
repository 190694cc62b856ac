"""vLLM's engine as a batch: the same engine that `vllm serve` runs, stepped by our worker, ids in and ids out."""

from pathlib import Path

from helpers.course.checksums import verify_where_listed
from helpers.course.paths import repository_path
from helpers.instruct.vllm_engine.start import is_on_cpu, lora_options
from helpers.serving.jobs import Job, Tokens, Unfinished
from helpers.serving.sampling import GREEDY_BELOW


class VllmBatch:
    """Jobs over one vLLM engine, in this process. Adapters are loaded when they are first asked for."""

    def __init__(
        self, model: str, *, size: int, context: int, dtype: str, adapters: dict[str, Path], memory_share: float, seed: int
    ) -> None:  # fmt: skip
        from vllm import EngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.llm_engine import LLMEngine

        for part in (repository_path(model), *adapters.values()):
            verify_where_listed(part)
        arguments = EngineArgs(
            model=model, tokenizer=model, dtype=dtype, max_model_len=context, max_num_seqs=size, enforce_eager=is_on_cpu(),
            gpu_memory_utilization=memory_share, seed=seed, disable_log_stats=True, **lora_options(list(adapters.values())),
        )  # fmt: skip
        self.engine = LLMEngine.from_engine_args(arguments)
        self.adapters = {
            name: LoRARequest(name, number, str(folder)) for number, (name, folder) in enumerate(adapters.items(), 1)
        }
        self._names: dict[int, str] = {}

    @property
    def busy(self) -> bool:
        return self.engine.has_unfinished_requests()

    def add(self, job: Job) -> None:
        from vllm.exceptions import VLLMClientError

        if job.adapter is not None and job.adapter not in self.adapters:
            raise ValueError(f"there is no adapter {job.adapter}")
        try:
            self._add(job)
        except VLLMClientError as error:  # no ValueError: unturned it would end the engine, and everybody's answer
            raise ValueError(str(error)) from error

    def _add(self, job: Job) -> None:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        rules = job.sampling
        temperature = 0.0 if rules.temperature < GREEDY_BELOW else rules.temperature  # vLLM would raise it, and draw
        params = SamplingParams(
            temperature=temperature, top_p=rules.top_p, top_k=rules.top_k, seed=rules.seed,
            repetition_penalty=rules.repetition_penalty, presence_penalty=rules.presence_penalty,
            frequency_penalty=rules.frequency_penalty, max_tokens=job.max_tokens, stop_token_ids=list(job.stop_ids),
            ignore_eos=not job.stop_ids,
            detokenize=False, output_kind=RequestOutputKind.DELTA,
        )  # fmt: skip
        self._names[job.id] = self.engine.add_request(
            str(job.id), TokensPrompt(prompt_token_ids=list(job.ids)), params,
            lora_request=self.adapters.get(job.adapter),
        )  # fmt: skip

    def stop(self, job: int) -> None:
        name = self._names.pop(job, None)
        if name is not None:
            self.engine.abort_request([name], internal=True)

    def step(self) -> list[Tokens | Unfinished]:
        tokens: list[Tokens | Unfinished] = []
        for output in self.engine.step():
            job, [answer] = int(output.request_id), output.outputs
            finish = None if not output.finished else "length" if answer.finish_reason == "length" else "stop"
            if finish:
                self._names.pop(job, None)
            if answer.finish_reason in ("abort", "error"):
                tokens.append(Unfinished(job, f"vLLM ended its answer early ({answer.finish_reason})"))
            else:
                tokens.append(Tokens(job, tuple(answer.token_ids), finish))
        return tokens
