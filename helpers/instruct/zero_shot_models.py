"""Base and tuned model side by side, by the backend that the settings name."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.course.machine import detect_machine
from helpers.course.paths import short_path
from helpers.instruct.backends import Backend, TransformersBackend
from helpers.instruct.prompts import Prompt
from helpers.instruct.tuning import tuned_adapter
from helpers.instruct.zero_shot import ZeroShotSettings

VLLM_MAX_LENGTH = 1024


def base_and_tuned(settings: ZeroShotSettings) -> dict[str, Backend]:
    """``{"base": ..., "tuned": ...}``. Without ``settings.adapter`` the adapter is lesson 07's, or one made now.

    With vLLM one engine serves both: the adapter is named at request time.
    """
    adapter = settings.adapter or tuned_adapter(base=settings.model)
    if settings.backend == "vllm":
        return _by_vllm(settings, adapter)
    told = {"dtype": settings.dtype, "batch_size": settings.batch_size, "batch_tokens": settings.batch_tokens}
    return {
        "base": TransformersBackend.load(settings.model, template=settings.template, **told),
        "tuned": TransformersBackend.load(settings.model, adapter, **told),
    }


def _by_vllm(settings: ZeroShotSettings, adapter: Path) -> dict[str, Backend]:
    from transformers import AutoTokenizer
    from vllm import LLM

    from helpers.instruct.vllm_backend import VllmBackend

    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    on_cpu = detect_machine().gpu_class == "none"
    engine = LLM(
        model=settings.model,
        dtype=settings.dtype,
        max_model_len=VLLM_MAX_LENGTH,
        enable_lora=True,
        max_lora_rank=max(8, rank),
        seed=settings.seed,
        gpu_memory_utilization=0.1 if on_cpu else 0.85,  # on a CPU it is a share of the machine's memory
        enforce_eager=on_cpu,
    )
    name = short_path(Path(settings.model)) if Path(settings.model).is_dir() else settings.model
    prompt = Prompt.for_tokenizer(AutoTokenizer.from_pretrained(settings.model), settings.template)
    tuned = VllmBackend(engine, Prompt.load(adapter), name=f"{name} + {short_path(adapter)}", adapter=adapter)
    return {"base": VllmBackend(engine, prompt, name=name), "tuned": tuned}
