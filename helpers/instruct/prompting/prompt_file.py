"""``prompt.json``: the prompt's facts beside the weights, with a checksum, so that an altered file is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from helpers.course.atomic import atomic_write, read_text
from helpers.course.errors import InputError
from helpers.course.paths import short_path

PROMPT_FILE = "prompt.json"
KEYS = {"template", "turn", "system", "bos_id", "eos_id", "pad_id", "stop_ids", "probe"}
AGAIN = "export or train the model again; to change the template, make a new Prompt and save that"


def write_prompt_file(folder: str | Path, facts: dict[str, Any]) -> Path:
    """Write the facts and their checksum to ``folder/prompt.json``, atomically; return its path."""
    path = Path(folder) / PROMPT_FILE
    with atomic_write(path) as file:
        json.dump(facts | {"sha256": _checksum(facts)}, file, ensure_ascii=False, indent=2)
        file.write("\n")
    return path


def read_prompt_file(folder: str | Path) -> dict[str, Any]:
    """The facts that stand in ``folder/prompt.json``. Raises :class:`InputError` where it is missing or altered."""
    path = Path(folder) / PROMPT_FILE
    if not path.is_file():
        raise InputError(
            "this model has no prompt.json: how it was asked in training is not known",
            file=short_path(path),
            hint="Prompt.for_tokenizer(tokenizer, template).save(folder) writes one, with the template of its training",
        )
    try:
        facts = json.loads(read_text(path)[0])
        checksum = facts.pop("sha256")
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise InputError("this prompt.json is damaged", file=short_path(path), hint=AGAIN) from error
    if set(facts) != KEYS or checksum != _checksum(facts):
        raise InputError(
            "this prompt.json was altered after training: its checksum does not match",
            file=short_path(path),
            hint=AGAIN,
        )
    return facts


def _checksum(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, ensure_ascii=False, sort_keys=True).encode()).hexdigest()
