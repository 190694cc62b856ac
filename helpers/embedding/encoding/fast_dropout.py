"""Dropout that costs a CPU less time and memory, for a model that is to be trained; nothing else of the model changes."""

from torch import nn

from helpers.embedding.encoding.attention import use_recomputed_attention
from helpers.embedding.encoding.dropout import Dropout16


def use_fast_dropout(model: nn.Module) -> None:
    """Put a :class:`Dropout16` in the place of every ``nn.Dropout``, and the dropout of attention into its recomputing."""
    use_recomputed_attention(model)
    for parent in model.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout16(child.p))
