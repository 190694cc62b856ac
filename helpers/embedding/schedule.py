"""How the learning rate rises and falls in a run: in straight lines, and no step stands still."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def rate_share(step: int, steps: int, warmup: float) -> float:
    """The share of the highest rate at a step (1 to `steps`): it rises over `warmup` of them, then falls.

    Above 0 from the first step to the last. transformers counts from 0 and rounds the rise up: of three steps the first would
    have a rate of 0 and move nothing.
    """
    return min(1.0, step / max(1, warmup * steps), (steps - step + 1) / max(1, (1 - warmup) * steps))


class MovesFromTheFirstStep:
    """For a Hugging Face Trainer: its schedule is :func:`rate_share`, with `warmup_steps` of its arguments as the share."""

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LambdaLR:
        """One schedule for all rates; the Trainer calls this once."""
        steps, warmup = num_training_steps, self.args.warmup_steps
        self.lr_scheduler = self.lr_scheduler or LambdaLR(
            optimizer or self.optimizer, lambda done: rate_share(min(done + 1, steps), steps, warmup)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler
