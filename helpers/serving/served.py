"""The names under which models are served, each with the prompt object that belongs to it."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.paths import repository_path, short_path
from helpers.instruct.adapters import need_adapter_for
from helpers.instruct.prompts import PROMPT_FILE, Prompt
from helpers.serving.errors import ApiError
from helpers.serving.settings import ServingSettings

TUNED = "tuned"
"""The name of lesson 07's adapter, with the base model's name before it."""


@dataclass(frozen=True)
class Served:
    """One name: the base model, or the base model with an adapter."""

    name: str
    prompt: Prompt
    adapter: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))


def find_served(served: dict[str, Served], name: str) -> Served:
    """The model of this name. Raises :class:`ApiError` (404) with the names that there are."""
    if name not in served:
        names = ", ".join(served)
        raise ApiError(404, "there is no such model", allowed=names, param="model", code="model_not_found")
    return served[name]


def with_tuned_adapter(settings: ServingSettings) -> ServingSettings:
    """The settings with lesson 07's adapter of their model among the adapters, where it is wanted.

    The small model's is made where it is missing; another model's must be there, or :class:`InputError` is raised.
    """
    name = f"{settings.name}-{TUNED}"
    if not settings.tuned or name in settings.adapters:
        return settings
    from helpers.instruct.tuning import tuned_adapter

    return settings.changed(adapters=settings.adapters | {name: Path(tuned_adapter(base=settings.model))})


def load_served(settings: ServingSettings) -> dict[str, Served]:
    """Every served name; the base model first.

    Raises :class:`InputError` where the model is none, or an adapter is none, or another model's.
    """
    from helpers.instruct.models import load_tokenizer

    folder = repository_path(settings.model)
    try:
        tokenizer = load_tokenizer(str(folder) if folder.is_dir() else settings.model)
    except (OSError, ValueError) as error:
        raise _no_model(settings, error) from error
    if (folder / PROMPT_FILE).is_file():
        base = Prompt.load(folder, tokenizer)
    else:
        base = Prompt.for_tokenizer(tokenizer, settings.template)
    served = {settings.name: Served(settings.name, base)}
    for name, path in settings.adapters.items():
        need_adapter_for(path, settings.model)
        served[name] = Served(name, Prompt.load(path), adapter=name)
    return served


def context_length(settings: ServingSettings) -> int:
    """How many tokens of prompt and answer together the model can hold, at most what the settings ask for."""
    wanted = settings.max_prompt_tokens + settings.max_tokens
    folder = repository_path(settings.model)
    if not folder.is_dir():
        return wanted
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_model(settings, error) from error
    longest = config.get("max_position_embeddings", wanted)
    if wanted > longest:
        raise InputError(
            "prompt and answer together are longer than this model can hold",
            file=short_path(settings.config) if settings.config else None,
            place="max_prompt_tokens + max_tokens",
            given=wanted,
            allowed=f"at most {longest}",
        )
    return wanted


def _no_model(settings: ServingSettings, error: Exception) -> InputError:
    return InputError(
        "there is no language model here that can be read",
        file=short_path(settings.config) if settings.config else None,
        place="model",
        given=settings.model,
        allowed="a folder with a model, or a name on the Hugging Face hub",
        hint=str(error).splitlines()[0],
    )
