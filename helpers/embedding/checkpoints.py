"""What a long contrastive run leaves while it lasts: a line of progress, and checkpoints from which a killed run goes on."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import TrainerCallback

from helpers.course.atomic import atomic_write
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.contrastive_settings import InfoNCESettings
from helpers.embedding.encoder import Encoder
from helpers.embedding.gather import world

SAVE_SECONDS = 300.0
"""From one checkpoint to the next: what a kill costs at most, and the step that was under way."""
QUIET_SECONDS = 10.0
"""A shorter run shows no line; a longer one renews it so often."""


@dataclass
class ContrastiveHistory:
    """What a run left: one loss and one masked share a batch, its steps and seconds, and rows that no batch took."""

    losses: list[float] = field(default_factory=list)
    masked: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    left_over: int = 0


def run_name(
    encoder: Encoder, rows: ContrastiveRows, settings: InfoNCESettings, groups: Sequence[Hashable] | None
) -> str:
    """Twelve hex digits for all that the weights of a run rest on: start, rows, settings, groups, number of processes."""
    told = {name: str(value) for name, value in settings if name not in ("output_dir", "config")}
    relevant = sorted((query, sorted(found)) for query, found in rows.relevant.items())
    given = [world()[1], told, rows.queries, rows.documents, rows.negatives, relevant, groups and [*map(str, groups)]]
    digest = hashlib.sha256(json.dumps(given).encode())
    for name, weight in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint that every process wrote to its end; None where there is none."""
    whole = [path for path in folder.glob("checkpoint-*") if all(each.exists() for each in _histories(path))]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class Checkpoints(TrainerCallback):
    """The Trainer's own checkpoint every `SAVE_SECONDS`, and the history beside it, which is written last."""

    def __init__(self, history: ContrastiveHistory) -> None:
        self._history = history

    def load(self, checkpoint: Path) -> None:
        """The history as it was at that checkpoint, for this process."""
        vars(self._history).update(json.loads(_histories(checkpoint)[world()[0]].read_text(encoding="utf-8")))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._start = self._saved = time.perf_counter()
        self._before = self._history.seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self._history.steps, self._history.seconds = state.global_step, self._before + now - self._start
        due = [now - self._saved >= SAVE_SECONDS and state.global_step < state.max_steps]
        if world()[1] > 1:
            dist.broadcast_object_list(due)  # all save or none: the clock of the first process decides
        control.should_save |= due[0]

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        file = _histories(Path(args.output_dir) / f"checkpoint-{state.global_step}")[world()[0]]
        with atomic_write(file) as opened:
            json.dump(vars(self._history), opened)
        self._saved = time.perf_counter()


class Progress(TrainerCallback):
    """One line: steps, time left, the loss of the last batch. Gone at the end."""

    def __init__(self, history: ContrastiveHistory) -> None:
        self._history = history

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        often = {"mininterval": QUIET_SECONDS, "delay": QUIET_SECONDS}
        steps = {"total": state.max_steps, "initial": state.global_step, "unit": "step"}
        self._bar = tqdm(file=sys.stdout, leave=False, **steps, **often)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.set_postfix(loss=f"{self._history.losses[-1]:.3f}", refresh=False)
        self._bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


def _histories(checkpoint: Path) -> list[Path]:
    """One file a process."""
    return [checkpoint / f"history-{rank}.json" for rank in range(world()[1])]
