"""What vLLM's engine needs to start: Linux, room for its adapters, and a file for what it and its processes print."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from helpers.course.atomic import read_text
from helpers.course.errors import InputError
from helpers.course.machine import detect_machine

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The LoRA ranks that vLLM has kernels for; an adapter runs at the next one."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}


def need_vllm() -> None:
    """Raise one clear :class:`InputError` where vLLM cannot be had on this system or is not installed."""
    hint = "on macOS and Windows: WSL2, a Linux container or Colab; on Linux: `make env` installs it"
    if sys.platform != "linux" or find_spec("vllm") is None:
        raise InputError(
            "vLLM is not to be had here: this lesson needs Linux", given=platform.system(), allowed="Linux", hint=hint
        )


def is_on_cpu() -> bool:
    """Whether the engine runs on the CPU: there compiling takes minutes and saves little (``enforce_eager``)."""
    return detect_machine().gpu_class == "none"


def lora_options(folders: Sequence[Path]) -> dict[str, Any]:
    """The engine's arguments for these adapters; none where there are none.

    On a CPU one slot more than adapters: vLLM's CPU kernels take slot -1, the last, where a request has no adapter. Left
    empty, it adds nothing; with an adapter in it, that one would speak in requests that asked for none (vllm pull request
    48421). A GPU's kernels skip such a request, and an empty slot would only cost memory.
    """
    if not folders:
        return {}
    ranks = [json.loads(read_text(Path(folder) / "adapter_config.json")[0])["r"] for folder in folders]
    largest = next((allowed for allowed in RANKS if allowed >= max(ranks)), max(ranks))
    return {"enable_lora": True, "max_loras": len(ranks) + is_on_cpu(), "max_lora_rank": largest}


def engine_processes(before: set[psutil.Process]) -> list[psutil.Process]:
    """The processes below this one that were not there ``before``: the engine's.

    Without Python's own resource tracker, which is started with the first child and lives as long as this process.
    """
    found = []
    for process in set(psutil.Process().children(recursive=True)) - before:
        with suppress(psutil.NoSuchProcess):  # it ended since the list was made, or is a zombie: nothing to wait for
            if not any("resource_tracker" in part for part in process.cmdline()):
                found.append(process)
    return found


def last_error(log: Path, since: int = 0) -> str:
    """The last line of a log that speaks of an error, at most 300 characters; ``none`` where no line does.

    ``since``: bytes of the log that were there before.
    """
    text = log.read_bytes()[since:].decode(errors="replace")
    lines = [line for line in text.splitlines() if "Error" in line]
    return (lines or ["none"])[-1][-300:]


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Send what is written to descriptors 1 and 2, also by the processes that start meanwhile, to a file.

    In a notebook ``print`` writes elsewhere and is still seen there.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)
