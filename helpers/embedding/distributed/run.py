"""The gradient of one batch from several processes, each way of `scaling.WAYS` measured against that of one process.

    torchrun --nproc_per_node 2 -m helpers.embedding.distributed.run --reference one.pt --output two.json

Every process takes its share of the same rows. The first one writes a JSON list with one entry a way: loss, relative error,
cosine and length against the reference, the largest difference between the processes, and the end of the gradient.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from helpers.course.atomic import atomic_write
from helpers.course.command_line import add_settings, settings_of
from helpers.course.launch import torchrun
from helpers.course.paths import repository_path
from helpers.course.settings import LessonSettings
from helpers.embedding.distributed.scaling import (
    CACHED,
    WAYS,
    WRAPPED,
    ScalingSettings,
    compared,
    gradient,
    share_of,
    spread,
)
from helpers.embedding.gather import end_group, world

PIECE = 200
"""Weights at the end whose gradients are written out, for a figure (they belong to the last layer's norm)."""


def several_processes(settings: ScalingSettings, reference: torch.Tensor) -> list[dict[str, object]]:
    """Start `settings.processes` processes that measure every way against `reference` (P,), the gradient of one."""
    arguments = as_arguments(settings)
    one, several = settings.output_dir / "one_process.pt", settings.output_dir / "several_processes.json"
    torch.save(reference, one)
    several.unlink(missing_ok=True)
    try:
        told = ["--reference", str(one), "--output", str(several)]
        torchrun(settings.processes, "helpers.embedding.distributed.run", [*told, *arguments])
    finally:
        one.unlink()
    return json.loads(several.read_text(encoding="utf-8"))


def as_arguments(settings: LessonSettings, kind: type[LessonSettings] | None = None) -> list[str]:
    """Write the settings to a file in their output_dir; returns the arguments that make a started process read it.

    kind  leave out what these settings do not know (the command of lesson 03 has fewer than lesson A2)
    """
    names = set((kind or type(settings)).model_fields) - {"config", "smoke"}
    file = settings.output_dir / "settings.json"
    with atomic_write(file) as opened:
        json.dump(settings.model_dump(mode="json", include=names), opened, ensure_ascii=False, indent=2)
    return ["--config_path", str(file), "-p", "output_dir", str(settings.output_dir)]


def main(arguments: Sequence[str] | None = None) -> int:
    """One of the processes."""
    parser = argparse.ArgumentParser(prog="torchrun --nproc_per_node 2 -m helpers.embedding.distributed.run")
    parser.add_argument("--reference", type=Path, required=True, help="gradient of one process, written by torch.save")
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the figures")
    add_settings(parser, ScalingSettings)
    told = parser.parse_args(arguments)
    dist.init_process_group("gloo")
    try:
        rank, processes = world()
        settings = settings_of(ScalingSettings, told, processes=processes)
        rows = share_of(settings.shared_rows(), rank, processes)
        encoder, reference = settings.exact_encoder(), torch.load(told.reference, weights_only=True)
        found = []
        for way in (*WAYS, CACHED, WRAPPED):
            flat, loss = gradient(encoder, rows, settings, way)
            row = {"way": way, "loss": loss, "spread": spread(flat), **compared(flat, reference)}
            found.append(row | {"piece": flat[-PIECE:].tolist()})
        if rank == 0:
            with atomic_write(repository_path(told.output)) as file:
                json.dump(found, file)
    finally:
        end_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
