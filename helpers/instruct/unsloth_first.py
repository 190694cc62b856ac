"""Unsloth, imported before transformers, trl and peft, as it wants to be; nothing of it written into the working folder."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from typing import Any

from helpers.course.machine import torch_device
from helpers.course.paths import REPOSITORY


def fast_language_model() -> Any:
    """``unsloth.FastLanguageModel``. Call it before anything imports transformers: Unsloth patches them on import.

    Where :func:`torch_device` is the CPU, Unsloth trains on it, too; importing it takes some ten seconds.
    """
    late = sorted({"transformers", "trl", "peft"} & set(sys.modules)) if "unsloth" not in sys.modules else []
    if late:
        print(f"Unsloth comes after {', '.join(late)}: it works, but some of its speed-ups do not. Import it first.")
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(REPOSITORY / "outputs/unsloth_compiled_cache"))
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # it would ask the network
    if torch_device().type == "cpu":  # it would take any GPU, however small
        os.environ["UNSLOTH_FORCE_CPU"] = "1"
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from unsloth import FastLanguageModel
    from helpers.course.quiet import quiet

    quiet()
    return FastLanguageModel
