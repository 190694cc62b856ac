"""The command line of instruction tuning: ``python -m helpers.instruct.tuning --config_path config/mistral.yaml``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from helpers.course.atomic import atomic_write
from helpers.course.command_line import add_settings, settings_of
from helpers.course.errors import InputError
from helpers.course.machine import detect_machine, measure
from helpers.course.paths import short_path
from helpers.instruct.adapters import save_adapter
from helpers.instruct.sft.course_rows import prepared
from helpers.instruct.sft.settings import InstructionSettings
from helpers.instruct.sft.trained_rows import write_trained_rows
from helpers.instruct.tuning import deepened, load_for_tuning, tune


def main(arguments: Sequence[str] | None = None) -> int:
    """Train by a settings file; leave adapter, its rows and ``metrics.json`` in its output_dir. Exit status 2: wrong input."""
    parser = argparse.ArgumentParser(prog="python -m helpers.instruct.tuning", description="LoRA instruction tuning")
    add_settings(parser, InstructionSettings)
    parser.set_defaults(profile=detect_machine().profile)
    parser.add_argument("--smoke", action="store_true", help="a few steps that show that all works")
    told = parser.parse_args(arguments)
    try:
        run(settings_of(InstructionSettings, told))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(settings: InstructionSettings) -> dict[str, object]:
    """The whole way from rows to adapter; returns what it wrote to ``metrics.json``."""
    print(settings.table().to_string(index=False))
    settings = deepened(settings)
    model, prompt = load_for_tuning(settings)
    from helpers.instruct.sft.loss import response_loss

    rows = prepared(settings, prompt)
    print(rows.summary())
    before = response_loss(model, prompt, rows.validation, settings.eval_batch_size)
    with measure() as taken:
        history = tune(model, prompt, rows.train, rows.validation, settings)
    after = response_loss(model, prompt, rows.validation, settings.eval_batch_size)
    folder = save_adapter(model, prompt, settings.output_dir / "adapter", base=settings.model)
    write_trained_rows(settings.output_dir, [*rows.train_rows, *rows.validation_rows])
    metrics = {
        "steps": history.steps,
        "resumed_from": history.resumed_from,
        "best_step": history.best_step,
        "validation_loss_before": before,
        "validation_loss_after": after,
        "minutes": round(taken.seconds / 60, 2),
        "peak_mb": round(taken.peak_mb),
        "gpu_peak_mb": taken.gpu_peak_mb,
    }
    with atomic_write(settings.output_dir / "metrics.json") as file:
        json.dump(metrics, file, indent=2)
    print(f"nats a learned token: {before:.3f} before, {after:.3f} after {history.steps} steps; {short_path(folder)}")
    return metrics
