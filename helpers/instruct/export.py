"""Two ways out of the notebook: one merged model in 16 bits, or the adapter alone."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from helpers.course.atomic import atomic_write
from helpers.course.checksums import sha256, weights_fingerprint
from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY, short_path, shown_model
from helpers.instruct.adapters import CARD_FILE, WEIGHTS, need_adapter_for, with_adapters
from helpers.instruct.models import free_memory, load_language_model
from helpers.instruct.prompts import PROMPT_FILE, Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from helpers.instruct.exporting.gate import Agreement, ExportGate

SAVE_METHODS = ("merged_16bit", "lora")
"""Unsloth's names for the two exports."""
REPORT_FILE = "export_report.json"
ADAPTER_FILES = (WEIGHTS, "adapter_config.json", PROMPT_FILE, CARD_FILE)
TOKENIZER_FILES = ("*token*", "chat_template*")


def adapted_model(base: str, adapter: str | Path, dtype: torch.dtype = torch.float32) -> tuple[PeftModel, Prompt]:
    """The base under its adapter, not merged: what was trained and what every export is held against.

    Raises :class:`InputError` where the adapter belongs to another base.
    """
    need_adapter_for(adapter, base)
    _, model = load_language_model(base, dtype)
    return with_adapters(model, {"default": adapter}), Prompt.load(adapter)


def save_merged(base: str, adapter: str | Path, folder: str | Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Write one model with the adapter's corrections in its weights: what every other tool can load.

    The base is read as its files hold it. The sum W + (alpha / r) B A is taken in float32, one matrix after the other, and
    rounded once, to ``dtype``: a merge of the whole model in float32 would need twice the memory. Tokenizer
    and prompt.json lie beside the weights. Returns ``folder``; raises :class:`InputError` where the adapter is another
    base's or a weight does not fit ``dtype``.
    """
    from peft.tuners.lora import LoraLayer

    need_adapter_for(adapter, base)
    _, model = load_language_model(base, "stored")
    adapted = with_adapters(model, {"default": adapter}, autocast_adapter_dtype=True)
    for layer in adapted.modules():
        if isinstance(layer, LoraLayer):
            layer.float()
            layer.merge(safe_merge=True)
            layer.to(dtype)
    return save_whole(adapted.unload(), Prompt.load(adapter), folder, dtype)


def save_whole(model: PreTrainedModel, prompt: Prompt, folder: str | Path, dtype: torch.dtype) -> Path:
    """Write a model of transformers in ``dtype`` with its tokenizer and its prompt, stop ids and PAD in its settings.

    The base's own temperature and penalties are left behind: the gate admits the export without them, `vllm serve` would
    sample by them, and transformers refuses to write some that it has read.

    Raises :class:`InputError` where a weight is no number in ``dtype`` (float16 ends at 65,504).
    """
    folder = Path(folder)
    model = model.to(dtype)
    if lost := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise InputError(
            "these weights do not fit into 16 bits", place=lost[0], given=str(dtype).removeprefix("torch."),
            hint="take bfloat16: it has the range of float32",
        )  # fmt: skip
    model.config.pad_token_id = prompt.pad_id
    model.generation_config = GenerationConfig(
        bos_token_id=prompt.bos_id, eos_token_id=list(prompt.stop_ids), pad_token_id=prompt.pad_id
    )
    model.save_pretrained(str(folder))
    prompt.tokenizer.save_pretrained(str(folder))
    prompt.save(folder)
    return folder


def save_lora(adapter: str | Path, folder: str | Path) -> Path:
    """Copy the adapter alone: a few megabytes, of use only together with the base model that it was trained on."""
    adapter, folder = Path(adapter), Path(folder)
    if missing := [name for name in ADAPTER_FILES if not (adapter / name).is_file()]:
        raise InputError("this folder holds no whole adapter", file=short_path(adapter), place=", ".join(missing))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = [path.name for pattern in TOKENIZER_FILES for path in adapter.glob(pattern)]
    for name in [*ADAPTER_FILES, *tokenizer]:
        shutil.copy2(adapter / name, folder / name)
    return folder


def save_by_unsloth(adapter: str | Path, folder: str | Path, methods: tuple[str, ...] = SAVE_METHODS) -> Path:
    """Unsloth's ``save_pretrained_merged`` on the same adapter, each method into a folder of its name below ``folder``.

    In a process of its own: Unsloth patches transformers and peft when it is imported, and this process also measures
    the unpatched ones. It gets the GPU's memory that this one no longer uses. Unsloth knows nothing of prompt.json and of
    the adapter's card, so they are put beside the weights afterwards. Returns ``folder``.
    """
    if wrong := set(methods) - set(SAVE_METHODS):
        raise InputError("there is no such export", place="save_method", given=sorted(wrong)[0], allowed=SAVE_METHODS)
    command = [sys.executable, "-m", "helpers.instruct.unsloth_export", str(adapter), str(folder), *methods]
    free_memory()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise InputError("Unsloth could not export this adapter", file=short_path(adapter), hint=done.stderr[-600:])
    if "lora" in methods:
        shutil.copy2(Path(adapter) / CARD_FILE, Path(folder) / "lora")
    return Path(folder)


def write_report(
    folder: str | Path,
    gate: ExportGate,
    found: Mapping[str, Agreement],
    *,
    base: str,
    adapter: str | Path,
    weights: str,
) -> Path:
    """``export_report.json`` beside the weights: from what they were made and what the gate found.

    ``found``: how far the export was from the adapter model, by the name of who ran it; one that the gate refuses makes
    it a refused export. Call it before the gate's own refusal is raised. Returns the file's path.
    """
    facts = {
        "admitted": bool(found) and not any(agreement.reasons(gate.tolerance) for agreement in found.values()),
        "base": shown_model(base),
        "base_fingerprint": weights_fingerprint(base),
        "adapter": short_path(adapter),
        "adapter_sha256": sha256(Path(adapter) / WEIGHTS),
        "weights": weights,
        "probes": len(gate.questions),
        "tolerance": gate.tolerance,
        "found": {name: asdict(each) | {"refused_for": each.reasons(gate.tolerance)} for name, each in found.items()},
    }
    with atomic_write(Path(folder) / REPORT_FILE) as file:
        json.dump(_finite(facts), file, ensure_ascii=False, indent=2, allow_nan=False)
        file.write("\n")
    return Path(folder) / REPORT_FILE


def _finite(value: Any) -> Any:
    """The same with NaN and infinity as texts: JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
