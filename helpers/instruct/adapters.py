"""A tuned adapter on disk: its weights, the tokenizer, the prompt, and which base model it belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.course.atomic import atomic_write
from helpers.course.checksums import sha256
from helpers.course.errors import InputError
from helpers.course.paths import repository_path, short_path
from helpers.instruct.prompts import Prompt

if TYPE_CHECKING:
    from peft import PeftModel

CARD_FILE = "course_adapter.json"
WEIGHTS = "adapter_model.safetensors"


def save_adapter(model: PeftModel, prompt: Prompt, folder: str | Path, *, base: str) -> Path:
    """Write ``adapter_model.safetensors``, ``adapter_config.json``, the tokenizer, ``prompt.json`` and a card of the base.

    ``base``: the folder or hub name of the model under the adapter. Returns ``folder``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    local = repository_path(base)
    for config in model.peft_config.values():
        config.base_model_name_or_path = str(local) if local.is_dir() else base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    prompt.tokenizer.save_pretrained(str(folder))
    prompt.save(folder)
    card = {"base": short_path(local) if local.is_dir() else base, "base_fingerprint": base_fingerprint(base)}
    with atomic_write(folder / CARD_FILE) as file:
        json.dump(card, file, ensure_ascii=False, indent=2)
        file.write("\n")
    return folder


def base_fingerprint(base: str) -> str:
    """What tells two base models apart: a checksum of the weights in a local folder, the name of a model of the hub."""
    folder = repository_path(base)
    if not folder.is_dir():
        return base
    return "-".join(sha256(path)[:16] for path in sorted(folder.glob("*.safetensors")))


def belongs_to(folder: str | Path, base: str) -> bool:
    """Whether ``folder`` holds a whole adapter that was trained on this base (these weights, not only this name)."""
    folder = Path(folder)
    if not all((folder / name).is_file() for name in (WEIGHTS, "adapter_config.json", "prompt.json", CARD_FILE)):
        return False
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card.get("base_fingerprint") == base_fingerprint(base)


def need_adapter_for(folder: str | Path, base: str) -> None:
    """Raise :class:`InputError` where ``folder`` holds no whole adapter or one that was trained on another base."""
    if belongs_to(folder, base):
        return
    whole = (Path(folder) / CARD_FILE).is_file()
    raise InputError(
        "this adapter was trained on another base model" if whole else "this folder holds no whole adapter",
        file=short_path(Path(folder)),
        given=base if whole else None,
        hint="its corrections fit other weights: train it again (lesson 07)" if whole else "lesson 07 makes one",
    )
