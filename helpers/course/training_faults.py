"""What stops a training that would run on and teach nothing: numbers that are not finite, adapters that do not move."""

import math

from helpers.course.errors import InputError


class Diverged(InputError):
    """Training ran into numbers that are not finite: nothing that follows could be learned."""


class LoraDidNotMove(RuntimeError):
    """An adapter took part in a step and came out of it unchanged: training would teach it nothing."""


def refuse_not_finite(what: str, value: float, step: int, lr: float) -> None:
    """Raise :class:`Diverged` where a loss or a score is NaN or infinite."""
    if not math.isfinite(value):
        hint = f"the training has diverged: lower the learning rate (it is {lr:g})"
        raise Diverged(f"the {what} is not a finite number", place=f"step {step}", given=value, hint=hint)
