"""A tuned adapter on disk: its weights, the tokenizer, the prompt, and which base model it belongs to."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.course.atomic import atomic_write
from helpers.course.checksums import verify_where_listed, weights_fingerprint
from helpers.course.errors import InputError
from helpers.course.paths import repository_path, short_path, shown_model
from helpers.instruct.prompts import Prompt
from helpers.instruct.unsloth_first import fast_language_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CARD_FILE = "course_adapter.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def save_adapter(model: PeftModel, prompt: Prompt, folder: str | Path, *, base: str) -> Path:
    """Write ``adapter_model.safetensors``, ``adapter_config.json``, the tokenizer, ``prompt.json`` and a card of the base.

    ``base``: the folder or hub name of the model under the adapter. Returns ``folder``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = shown_model(base)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    _name_base(folder, name)  # of the repository: the folder may be moved or given away
    prompt.tokenizer.save_pretrained(str(folder))
    prompt.save(folder)
    card = {"base": name, "base_fingerprint": weights_fingerprint(base)}
    with atomic_write(folder / CARD_FILE) as file:
        json.dump(card, file, ensure_ascii=False, indent=2)
        file.write("\n")
    return folder


def base_of(folder: str | Path) -> str:
    """The base of an adapter, as one loads it: a folder's path on this machine, or a name of the hub."""
    return _findable(json.loads((Path(folder) / CARD_FILE).read_text(encoding="utf-8"))["base"])


def with_adapters(
    model: PreTrainedModel, folders: Mapping[str, str | Path], **told: Any
) -> PreTrainedModel | PeftModel:
    """``model`` under the adapters in ``folders``, by the names that peft will call them; without any, itself.

    Each is verified where SHA256SUMS lies beside it (:class:`InputError`), and held in the precision of the model's own
    matrices, unless ``told`` (of peft's ``from_pretrained``) has ``autocast_adapter_dtype=True``: then in float32.
    """
    from peft import PeftModel

    told = {"autocast_adapter_dtype": False} | told
    for name, folder in folders.items():
        verify_where_listed(folder)
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), name, **told)
        else:
            model = PeftModel.from_pretrained(model, str(folder), name, **told)
    return model


def by_peft(model: PreTrainedModel, base: str, folder: str | Path) -> PeftModel:
    """The adapter over ``model``, which is ``base``, as peft loads it, ready to learn on (in float32)."""
    adapted = with_adapters(model, {"default": folder}, is_trainable=True, autocast_adapter_dtype=True)
    for config in adapted.peft_config.values():
        config.base_model_name_or_path = _findable(base)  # peft reads the base's settings at every checkpoint
    return adapted


def by_unsloth(base: str, folder: str | Path, **told: Any) -> PeftModel:
    """The adapter over ``base`` as Unsloth loads it, ready to learn on; ``told``: of its ``from_pretrained``.

    Unsloth takes the base from the adapter's settings and looks for a relative path in the working folder. So it gets a
    copy of the adapter that names the base in full.
    """
    unsloth = fast_language_model()
    for part in (repository_path(base), folder):
        verify_where_listed(part)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):  # a banner at every load
        copy = Path(shutil.copytree(folder, Path(place) / "adapter"))
        _name_base(copy, _findable(base))
        model, _ = unsloth.from_pretrained(str(copy), **told)
    return model


def _findable(base: str) -> str:
    """A base's name as libraries find it from any working folder."""
    local = repository_path(base)
    return str(local) if local.is_dir() else base


def _name_base(folder: Path, base: str) -> None:
    """Write the base's name into the adapter's settings."""
    settings = json.loads((folder / CONFIG).read_text(encoding="utf-8")) | {"base_model_name_or_path": base}
    with atomic_write(folder / CONFIG) as file:
        json.dump(settings, file, ensure_ascii=False, indent=2)


def is_whole(folder: str | Path) -> bool:
    """Whether ``folder`` holds all files of an adapter: weights, settings, prompt and card."""
    return all((Path(folder) / name).is_file() for name in (WEIGHTS, CONFIG, "prompt.json", CARD_FILE))


def belongs_to(folder: str | Path, base: str) -> bool:
    """Whether ``folder`` holds a whole adapter that was trained on this base (these weights, not only this name)."""
    folder = Path(folder)
    if not is_whole(folder):
        return False
    card = json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return card.get("base_fingerprint") == weights_fingerprint(base)


def need_adapter_for(folder: str | Path, base: str) -> None:
    """Raise :class:`InputError` where ``folder`` holds no whole adapter or one that was trained on another base."""
    if belongs_to(folder, base):
        return
    whole = is_whole(folder)
    raise InputError(
        "this adapter was trained on another base model" if whole else "this folder holds no whole adapter",
        file=short_path(Path(folder)),
        given=base if whole else None,
        hint="its corrections fit other weights: train it again (lesson 07)" if whole else "lesson 07 makes one",
    )
