"""Attention over grouped keys and values (GQA, arXiv 2305.13245) as they are, without a copy of them for every query head.

Beside a mask, transformers repeats keys and values, because a GPU's fused kernel takes no groups there. A CPU's does, to
the same bits, and the copies of a batch of 16 answers are a tenth of its time.
"""

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_grouped"
"""What transformers calls this attention: a value of ``attn_implementation``."""


def grouped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, **told: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """query (B, heads, L, D), key and value (B, groups, K, D), mask (B, 1, L, K) or None -> (B, L, heads, D).

    Without a mask, or with biases for positions beside it, transformers' own.
    """
    if attention_mask is None or told.get("position_bias") is not None:
        told |= {"dropout": dropout, "scaling": scaling}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **told)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None


def group_heads(model: PreTrainedModel) -> None:
    """Let a model on a CPU that uses torch's attention use it this way; any other stays as it is."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, grouped_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)
