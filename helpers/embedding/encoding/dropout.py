"""Dropout that costs a CPU half: its masks are drawn 16 random bits an element, four elements a draw.

torch draws every element of a mask for itself and then divides the mask. With LoRA a layer has six dropouts more, and a fifth
of lesson 02's training step went into all of them (``benchmarks/README.md``).
"""

import torch
from torch import Tensor, nn

STEPS = 2**16
"""A probability is rounded to a multiple of 1 / STEPS; what is kept is scaled by the rounded one, so means stay true."""


class Dropout16(nn.Dropout):
    """``nn.Dropout`` with masks from 16 bits an element, drawn from torch's CPU generator; on a GPU it is ``nn.Dropout``."""

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape, each element 0 with probability ``p``, the others divided by 1 - ``p``, while training."""
        dropped = round(self.p * STEPS)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < STEPS:
            return super().forward(x)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        bits = bits.view(torch.int16)[: x.numel()].view(x.shape)  # -32,768 to 32,767, all alike
        kept = (bits >= dropped - STEPS // 2).to(x.dtype)
        return x * kept.mul_(STEPS / (STEPS - dropped))


def use_fast_dropout(model: nn.Module) -> None:
    """Put a :class:`Dropout16` in the place of every ``nn.Dropout`` of the model."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout16(child.p))
