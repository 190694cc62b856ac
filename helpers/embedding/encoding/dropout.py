"""Dropout that costs a CPU half: its masks are drawn 16 random bits an element, four elements a draw.

torch draws every element of a mask for itself and then divides the mask. With LoRA a layer has six dropouts more, and a fifth
of lesson 02's training step went into all of them (``benchmarks/README.md``).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

STEPS = 2**16
"""A probability is rounded to a multiple of 1 / STEPS; what is kept is scaled by the rounded one, so means stay true."""


def keep_mask(shape: Sequence[int], p: float, dtype: torch.dtype, draws: torch.Generator | None = None) -> Tensor:
    """What dropout multiplies by on a CPU: 0 with probability ``p``, which is below 1, else 1 / (1 - ``p``)."""
    dropped, size = round(p * STEPS), math.prod(shape)
    bits = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None, generator=draws)  # all 64 bits
    bits = bits.view(torch.int16)[:size].view(shape)  # -32,768 to 32,767, all alike
    return (bits >= dropped - STEPS // 2).to(dtype).mul_(STEPS / (STEPS - dropped))


class Dropout16(nn.Dropout):
    """``nn.Dropout`` with masks from 16 bits an element, drawn from torch's CPU generator; on a GPU it is ``nn.Dropout``."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, each element 0 with probability ``p``, the others divided by 1 - ``p``, while training."""
        if not self.training or x.device.type != "cpu" or not 0 < round(self.p * STEPS) < STEPS:
            return super().forward(x)
        return x * keep_mask(x.shape, self.p, x.dtype)
