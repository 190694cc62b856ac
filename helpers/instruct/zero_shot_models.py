"""The models that are asked, by the backend that the settings name: the base, the tuned one, and the one taught to choose."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from pathlib import Path

from helpers.course.checksums import SUMS_FILE, verify_checksums
from helpers.course.machine import detect_machine
from helpers.course.paths import short_path
from helpers.instruct.adapters import CARD_FILE, belongs_to, need_adapter_for
from helpers.instruct.backends import Backend, TransformersBackend
from helpers.instruct.prompts import Prompt
from helpers.instruct.tuning import tuned_adapter
from helpers.instruct.zero_shot import ZeroShotSettings

VLLM_MAX_LENGTH, VLLM_AT_ONCE = 1024, 256


def models_to_ask(settings: ZeroShotSettings) -> dict[str, Backend]:
    """``{"base": ..., "tuned": ..., "chooser": ...}``; the last is left out, and said, where it fits another base model.

    Without ``settings.adapter`` the tuned model's adapter is lesson 07's, or one made now. The base model is in memory
    once: an adapter is switched on where it is asked, with vLLM at request time.
    """
    adapters = {"tuned": settings.adapter or tuned_adapter(base=settings.model)}
    if settings.chooser and (chooser := _fitting(settings.chooser, settings.model)):
        adapters["chooser"] = chooser
    if settings.backend == "vllm":
        return _by_vllm(settings, adapters)
    told = {"dtype": settings.dtype, "batch_size": settings.batch_size, "batch_tokens": settings.batch_tokens}
    return TransformersBackend.load(settings.model, adapters, template=settings.template, **told)


def _fitting(adapter: Path, base: str) -> Path | None:
    """The adapter, its files verified; None where it was trained on another base. Raises InputError where it is not whole."""
    if (adapter / CARD_FILE).is_file() and not belongs_to(adapter, base):
        print(f"{short_path(adapter)} is left out: it was trained on another base model")
        return None
    need_adapter_for(adapter, base)
    if (adapter / SUMS_FILE).is_file():
        verify_checksums(adapter)
    return adapter


def _by_vllm(settings: ZeroShotSettings, adapters: Mapping[str, Path]) -> dict[str, Backend]:
    from transformers import AutoTokenizer

    from helpers.instruct.engine import Engine
    from helpers.instruct.vllm_backend import VllmBackend

    on_cpu = detect_machine().gpu_class == "none"
    prompt = Prompt.for_tokenizer(AutoTokenizer.from_pretrained(settings.model), settings.template)
    engine = Engine(
        settings.model,
        prompt=prompt,
        adapters=adapters,
        dtype=settings.dtype,
        context=VLLM_MAX_LENGTH,
        at_once=VLLM_AT_ONCE,
        memory_share=0.1 if on_cpu else 0.85,  # on a CPU it is a share of the machine's memory
        seed=settings.seed,
        log=settings.output_dir / "engine.log",
    )
    atexit.register(engine.close)
    name = short_path(Path(settings.model)) if Path(settings.model).is_dir() else settings.model
    own = {
        which: VllmBackend(engine, Prompt.load(adapter), name=f"{name} + {short_path(adapter)}", adapter=which)
        for which, adapter in adapters.items()
    }
    return {"base": VllmBackend(engine, prompt, name=name), **own}
