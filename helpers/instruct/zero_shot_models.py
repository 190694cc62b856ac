"""The models that are asked, by the backend that the settings name: the base, the tuned one, and the one taught to choose."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from pathlib import Path

from helpers.course.checksums import verify_where_listed
from helpers.course.paths import repository_path, short_path, shown_model
from helpers.instruct.adapters import belongs_to, is_whole, need_adapter_for
from helpers.instruct.models import load_tokenizer
from helpers.instruct.product_rows import product_rows
from helpers.instruct.prompts import Prompt
from helpers.instruct.rows import Row
from helpers.instruct.scoring.backends import Backend, TransformersBackend
from helpers.instruct.sft.trained_rows import read_trained_rows
from helpers.instruct.smallest import BATCH, SEED, STEPS
from helpers.instruct.tuning import SHARED_ADAPTER, tuned_adapter
from helpers.instruct.zero_shot import ZeroShotSettings


def adapters_to_ask(settings: ZeroShotSettings) -> dict[str, Path]:
    """``{"tuned": ..., "chooser": ...}``; the last is left out, and said, where it fits another base model.

    Without ``settings.adapter`` the tuned model's adapter is lesson 07's, or one made now. Raises :class:`InputError`
    where the one named was trained on another base model.
    """
    adapters = {"tuned": settings.adapter or tuned_adapter(base=settings.model)}
    need_adapter_for(adapters["tuned"], settings.model)
    if settings.chooser and (chooser := _fitting(settings.chooser, settings.model)):
        adapters["chooser"] = chooser
    return adapters


def learned_rows(adapter: Path) -> list[Row] | None:
    """The rows that an adapter was trained on: those it left, those of the shared smallest one made again; None: unknown."""
    if (rows := read_trained_rows(adapter)) is not None:
        return rows
    smallest = Path(adapter).resolve() == repository_path(SHARED_ADAPTER).resolve()
    return [Row(row) for row in product_rows(STEPS * BATCH, SEED)] if smallest else None


def models_to_ask(settings: ZeroShotSettings, adapters: Mapping[str, Path] | None = None) -> dict[str, Backend]:
    """``{"base": ..., "tuned": ..., "chooser": ...}``, with the adapters given or else :func:`adapters_to_ask`.

    The base model is in memory once: an adapter is switched on where it is asked, with vLLM at request time.
    """
    adapters = adapters_to_ask(settings) if adapters is None else dict(adapters)
    if settings.backend == "vllm":
        return _by_vllm(settings, adapters)
    told = {"dtype": settings.dtype, "batch_size": settings.batch_size, "batch_tokens": settings.batch_tokens}
    told |= {"load_in_4bit": settings.load_in_4bit}
    return TransformersBackend.load(settings.model, adapters, template=settings.template, **told)


def _fitting(adapter: Path, base: str) -> Path | None:
    """The adapter, its files verified; None where it was trained on another base. Raises InputError where it is not whole."""
    if is_whole(adapter) and not belongs_to(adapter, base):
        print(f"{short_path(adapter)} is left out: it was trained on another base model")
        return None
    need_adapter_for(adapter, base)
    verify_where_listed(adapter)
    return adapter


def _by_vllm(settings: ZeroShotSettings, adapters: Mapping[str, Path]) -> dict[str, Backend]:
    from helpers.instruct.vllm_engine.backend import VllmBackend
    from helpers.instruct.vllm_engine.engine import Engine

    prompt = Prompt.for_tokenizer(load_tokenizer(settings.model), settings.template)
    engine = Engine(
        settings.model,
        prompt=prompt,
        adapters=adapters,
        dtype=settings.dtype,
        context=settings.context,
        at_once=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        memory_share=settings.memory_share,
        seed=settings.seed,
        log=settings.output_dir / "engine.log",
    )
    atexit.register(engine.close)
    name = shown_model(settings.model)
    own = {
        which: VllmBackend(engine, Prompt.load(adapter), name=f"{name} + {short_path(adapter)}", adapter=which)
        for which, adapter in adapters.items()
    }
    return {"base": VllmBackend(engine, prompt, name=name), **own}
