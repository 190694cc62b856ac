"""Lesson 03's training from the command line, in one process or in several.

    python -m helpers.embedding.infonce.command --config_path config/infonce.yaml -p batch_size 256
    torchrun --nproc_per_node 2 -m helpers.embedding.infonce.command -p batch_size 128
    accelerate launch --config_file config/accelerate/one_machine.yaml -m helpers.embedding.infonce.command --profile a100

Settings of the lesson that training does not read (its test set, `compare_batches`, `true_batch`) are refused here, as is
`group_size`: these rows belong to no groups. `batch_size` is the rows of one process: two processes with 128 each have one
loss over 256.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import torch.distributed as dist

from helpers.course.atomic import atomic_write
from helpers.course.command_line import add_settings, parse_parameters, settings_of
from helpers.course.errors import InputError
from helpers.course.machine import detect_machine, peak_memory_mb, set_seed
from helpers.course.paths import short_path
from helpers.embedding.gather import end_group, world
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.infonce.trainer import negatives_per_query, train_contrastive
from helpers.embedding.mining import mine_rows
from helpers.embedding.training_record import record_training

NOT_READ = ("test_set", "test_split", "max_queries", "compare_batches", "true_batch", "group_size")
"""Settings that a file may hold, for the lesson and for callers that have groups, but that change nothing here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; the first process leaves the model and `metrics.json` in output_dir. Exit status 2: wrong input."""
    parser = argparse.ArgumentParser(prog="python -m helpers.embedding.infonce.command", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_settings(parser, InfoNCESettings)
    parser.set_defaults(profile=detect_machine().profile)
    parser.add_argument("--smoke", action="store_true", help="a few steps that show that all works")
    told = parser.parse_args(arguments)
    try:
        given = parse_parameters(told.parameters)
        for name in NOT_READ:
            if name in given:
                hint = "it is for the lesson and for callers that have groups: leave it out"
                raise InputError(
                    "training does not read this setting", place=f"-p {name}", given=given[name], hint=hint
                )
        run(settings_of(InfoNCESettings, told))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        end_group()
    return 0


def run(settings: InfoNCESettings) -> dict[str, object]:
    """Train by the settings; returns what the first process wrote to `metrics.json`. Losses are means over processes."""
    set_seed(settings.seed)
    rows, encoder = settings.training_rows(), settings.encoder()
    if settings.negatives_from == "mined":
        rows, _ = mine_rows(encoder, rows, [], per_query=settings.hard_negatives, **settings.mining())
    history = train_contrastive(encoder, rows, settings)
    rank, processes = world()  # the Trainer has made the group
    losses = [history.losses]
    if processes > 1:
        losses = [None] * processes
        dist.all_gather_object(losses, history.losses)
    metrics = {
        "processes": processes,
        "steps": history.steps,
        "losses": [sum(each) / processes for each in zip(*losses, strict=True)],
        "masked_share": sum(history.masked) / len(history.masked),  # of all candidates: the same in every process
        "left_over": history.left_over,  # rows that sat out the first epoch
        "seconds": round(history.seconds, 1),
        "peak_mb": round(peak_memory_mb()),
    }
    if rank == 0:
        print(f"each query met {negatives_per_query(rows, settings)}")
        folder = encoder.save(settings.output_dir / "model")
        recipe = f"contrastive_command: negatives from {settings.negatives_from}"
        record_training(folder, settings, recipe, [settings.data_dir / settings.train_set, *settings.e5_files])
        with atomic_write(settings.output_dir / "metrics.json") as file:
            json.dump(metrics, file, indent=2)
        print(f"{history.steps} steps in {metrics['seconds']} s; model in {short_path(folder)}")
    return metrics


if __name__ == "__main__":
    sys.exit(main())
