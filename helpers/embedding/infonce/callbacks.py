"""What is done beside the steps of a long contrastive run: checkpoints by the clock, a line of progress, a look at adapters."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from tqdm import tqdm
from transformers import TrainerCallback

from helpers.course.atomic import atomic_write
from helpers.embedding.encoding.adapters import LoraWatch
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


def history_files() -> list[str]:
    """The files of a checkpoint that are written last, one a process: with all of them it is whole."""
    return [f"history-{rank}.json" for rank in range(world()[1])]


class Checkpoints(TrainerCallback):
    """The Trainer's own checkpoint every `SAVE_SECONDS`, and the history beside it, which is written last."""

    def __init__(self, history: ContrastiveHistory) -> None:
        self._history = history

    def load(self, checkpoint: Path) -> None:
        """The history as it was at that checkpoint, for this process."""
        file = checkpoint / history_files()[world()[0]]
        vars(self._history).update(json.loads(file.read_text(encoding="utf-8")))

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
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        with atomic_write(folder / history_files()[world()[0]]) as opened:
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


class EveryAdapterMoves(TrainerCallback):
    """After the first step that was taken, with a rate above 0, every lora_B must have moved: raises LoraDidNotMove."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._watch = model, LoraWatch(model)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        rate = max(group["lr"] for group in optimizer.param_groups)
        if self._watch and rate > 0 and not optimizer.step_was_skipped:  # in fp16 the first ones may overflow
            self._watch.check(self._model, rate)
            self._watch = None
