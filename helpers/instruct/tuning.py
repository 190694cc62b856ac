"""Instruction tuning by Unsloth and trl, one code path for CPU and GPU; and the adapter that other lessons start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY, repository_path, short_path
from helpers.instruct.adapters import belongs_to

BASE = "sample_data/models/ko-mini-mistral"
LESSON_ADAPTER = "outputs/07_instruction_lora_unsloth/adapter"
SHARED_ADAPTER = "outputs/shared/adapter"


def tuned_adapter(output_dir: str | Path = SHARED_ADAPTER, *, base: str = BASE) -> Path:
    """A tuned adapter of the small model: the one that lesson 07 left, or one trained now in its smallest form.

    The second goes to ``output_dir`` (a minute of one core, in a process of its own, kept for the next lesson). An
    adapter whose base model has been replaced since is not taken. Prints which one it is. The folder holds
    adapter_model.safetensors, adapter_config.json, the tokenizer and prompt.json.
    """
    for folder in (repository_path(LESSON_ADAPTER), repository_path(output_dir)):
        if belongs_to(folder, base):
            print(f"tuned adapter: {short_path(folder)}")
            return folder
    folder = repository_path(output_dir)
    print(
        f"lesson 07 has left no adapter for this base model: training one in its smallest form to {short_path(folder)}"
    )
    command = [sys.executable, "-m", "helpers.instruct.smallest", "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode or not belongs_to(folder, base):
        raise InputError(
            "the smallest adapter could not be trained", file=short_path(folder), hint=done.stderr.strip()[-600:]
        )
    return folder
