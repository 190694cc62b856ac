"""Where a model comes from, why it could not be loaded, and what texts it can read, and how much of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

from helpers.course.errors import InputError
from helpers.course.files import repository_path, short_path

LEAST_ROOM = 3
"""Pieces of a text that a prompt and the special tokens must leave: with fewer, all texts get nearly one vector."""


def resolve_model(model: str | Path) -> str:
    """A model folder as an absolute path (relative ones lie below the repository's root), or a hub name as it is."""
    folder = repository_path(model)
    if folder.is_dir():
        return str(folder)
    near = get_close_matches(folder.name, os.listdir(folder.parent), 1) if folder.parent.is_dir() else []
    if isinstance(model, Path) or str(model).count("/") != 1 or str(model).startswith((".", "~")):
        raise InputError(
            "this model folder does not exist",
            place="model",
            given=str(model),
            allowed="a folder, or the name of a model on the Hugging Face hub like intfloat/multilingual-e5-large",
            hint=f"did you mean {Path(model).with_name(near[0])}?" if near else None,
        )
    return str(model)


def cannot_load(model: str | Path, error: Exception, hint: str | None = None) -> InputError:
    """What to raise where a library could not load `model`; `hint` is for a model of the hub."""
    says = f"transformers says: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if Path(name := resolve_model(model)).is_dir():
        return InputError("this folder holds no model that can be loaded", file=short_path(name), hint=says)
    what = "this model is neither a folder here nor to be had from the Hugging Face hub"
    if not isinstance(error, OSError):
        what = "this model of the Hugging Face hub cannot be loaded"
    return InputError(what, place="model", given=str(model), hint=f"{hint}; {says}" if hint else says)


def read_json(path: Path) -> dict | list:
    """A JSON file beside a model, with or without a byte order mark. Raises InputError with its path where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise InputError(
            "this file beside a model is no valid JSON", file=short_path(path), hint=f"the parser says: {error}"
        ) from error


def longest(config: PretrainedConfig, tokenizer_limit: int | None = None) -> int | None:
    """Most tokens that positions and tokenizer allow, None without a limit; RoBERTa's positions begin after its padding."""
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    positions = getattr(config, "max_position_embeddings", None)
    limits = [limit for limit in (positions and positions - offset, tokenizer_limit) if limit]
    return int(min(limits)) if limits and min(limits) < VERY_LARGE_INTEGER else None


def check_max_length(max_length: int, most: int | None, name: str) -> None:
    """Raise InputError where a model is to read more tokens than it has positions for."""
    if most is not None and max_length > most:
        raise InputError(
            f"{name or 'this model'} cannot read that many tokens",
            place="max_length",
            given=max_length,
            allowed=f"at most {most}",
        )


def check_texts(texts: Sequence[str]) -> None:
    """Raise InputError for one text where a list is needed (it would be read letter by letter), and for what is no text."""
    if isinstance(texts, str):
        raise InputError("a list of texts is needed, this is one text", given=texts, hint="put it in brackets: [text]")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError("a text must be a string", place=f"item {number}", given=text)


def check_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str, max_length: int) -> None:
    """Raise InputError where a prompt leaves hardly a piece of the texts behind it."""
    pieces = len(tokenizer(prompt)["input_ids"])
    if prompt and max_length < pieces + LEAST_ROOM:
        raise InputError(
            "the prompt leaves no room for the texts",
            place="max_length",
            given=f"max_length {max_length}; the prompt {prompt!r} and the special tokens take {pieces} pieces",
            allowed=f"at least {pieces + LEAST_ROOM}",
        )
