"""Unsloth, imported before transformers, trl and peft, as it wants to be; nothing of it written into the working folder."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from helpers.course.machine import detect_machine
from helpers.course.paths import REPOSITORY

if TYPE_CHECKING:
    import torch


def fast_language_model() -> Any:
    """``unsloth.FastLanguageModel``. Call it before anything imports transformers: Unsloth patches them on import.

    On a machine without a GPU Unsloth trains on the CPU; importing it takes some ten seconds.
    """
    late = sorted({"transformers", "trl", "peft"} & set(sys.modules)) if "unsloth" not in sys.modules else []
    if late:
        print(f"Unsloth comes after {', '.join(late)}: it works, but some of its speed-ups do not. Import it first.")
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(REPOSITORY / "outputs/unsloth_compiled_cache"))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # it would ask the network
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from unsloth import FastLanguageModel
    from helpers.course.quiet import quiet

    quiet()
    return FastLanguageModel


def chosen_dtype(name: str) -> torch.dtype:
    """``float32``, ``bfloat16``, ``float16`` as torch's; ``auto``: what this machine computes in hardware."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if detect_machine().bf16:
        return torch.bfloat16
    return torch.float16 if torch.cuda.is_available() else torch.float32
