"""What looks on while the trainer works: one line of progress, and checks that every adapter learns and no loss is NaN."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback

from helpers.course.training_faults import LoraDidNotMove, refuse_not_finite


class LoraWatch(TrainerCallback):
    """After the first step that was taken, every ``lora_B`` must have moved from where it was.

    Not taken: a step with a learning rate of 0, and one that the scaler of float16 skips because a gradient overflowed
    (its first scale is a guess; transformers calls ``on_optimizer_step`` all the same).
    """

    def __init__(self) -> None:
        self.checked = False
        self._before: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Remember the weights, and why one of them could stay where it is."""
        if self.checked:
            return
        weights = lora_b(given["model"])
        self._before = {name: weight.detach().clone() for name, weight in weights.items()}
        self._without_gradient = {name for name, weight in weights.items() if weight.grad is None}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Compare. Raises :class:`LoraDidNotMove`."""
        optimizer = given["optimizer"]
        rate = max(group["lr"] for group in optimizer.param_groups)
        if self.checked or rate == 0 or getattr(optimizer, "step_was_skipped", False) or overflowed(given["model"]):
            return
        weights = lora_b(given["model"])
        still = [name for name, before in self._before.items() if torch.equal(before, weights[name].detach())]
        if still or not weights:
            cut = [name for name in still if name in self._without_gradient]
            why = "no gradient reached it" if cut else "its gradient is zero, or the optimizer does not hold it"
            what = (
                f"{len(still)} of {len(weights)} lora_B matrices did not move, e.g. {still[0]}"
                if still
                else "no lora_B"
            )
            raise LoraDidNotMove(f"{what}: {why} (frozen, unused, or checkpointing cut the graph)")
        self.checked, self._before = True, {}

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Raise :class:`LoraDidNotMove` where no step was taken."""
        if self._before:
            why = "the learning rate was 0, or a gradient was not finite"
            raise LoraDidNotMove(f"{why}, in all of the {state.global_step} steps: nothing could move")


def lora_b(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Every second half of an adapter by name; they start at zero, so a value says that something was learned."""
    return {name: weight for name, weight in model.named_parameters() if ".lora_B." in name}


def overflowed(model: torch.nn.Module) -> bool:
    """Whether a gradient of what learns is infinite or not a number."""
    weights = (weight for _, weight in model.named_parameters() if weight.requires_grad)
    gradients = (weight.grad for weight in weights if weight.grad is not None)
    return not all(bool(gradient.isfinite().all()) for gradient in gradients)


class DivergenceWatch(TrainerCallback):
    """Stops a run at the first loss, or at the end a weight, that is NaN or infinite. Raises :class:`Diverged`."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Look at the newest losses."""
        for name, key in (("loss", "loss"), ("validation loss", "eval_loss")):
            if logs and key in logs:
                refuse_not_finite(name, float(logs[key]), state.global_step, args.learning_rate)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """No loss follows the last step: look at what it left."""
        for name, weight in given["model"].named_parameters():
            if weight.requires_grad:
                largest = float(weight.detach().abs().max())
                refuse_not_finite(f"largest value of {name}", largest, state.global_step, args.learning_rate)


class Progress(TrainerCallback):
    """One line: step, loss, validation loss, tokens a second (without PAD), time left."""

    def __init__(self, tokens_a_step: float) -> None:
        self._tokens_a_step = tokens_a_step
        self._shown: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar; a resumed run starts where it stopped."""
        self._start, self._first = time.perf_counter(), state.global_step
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, file=sys.stdout, unit="step", mininterval=10)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        tokens = (state.global_step - self._first) * self._tokens_a_step
        self._shown["tok/s"] = f"{tokens / (time.perf_counter() - self._start):,.0f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Show the newest losses."""
        for name, key in (("loss", "loss"), ("validation", "eval_loss")):
            if logs and key in logs:
                self._shown[name] = f"{float(logs[key]):.3f}"

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self._bar.set_postfix(self._shown)
        self._bar.close()
