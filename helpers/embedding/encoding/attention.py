"""Attention with dropout that keeps no (L, L) matrix for the backward pass: on a CPU in half the memory, and faster.

With dropout, torch's attention on a CPU keeps of every layer the weights of all pairs of tokens and their mask: most of the
memory of a batch of long texts. Here only queries, keys and values are kept, with the seed of the mask; weights and mask
are made again in the backward pass, a few texts at a time, as FlashAttention does on a GPU (Dao et al., arXiv 2205.14135).
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from helpers.embedding.encoding.dropout import keep_mask
from helpers.embedding.losses import at_least_float32

NAME = "recomputed"
"""What transformers calls this attention: a value of ``attn_implementation``."""
PAIRS = 2**18
"""Pairs of tokens, counted for each head, whose weights exist at one time; at the least those of one text."""


class RecomputedAttention(torch.autograd.Function):
    """softmax(scale q k'), dropped with probability p, times v; of the pairs of tokens nothing is kept."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, p: float) -> Tensor:
        """q, k, v (B, heads, L, D) of one float type; allowed (B, 1, L, L) bool, True where a query may look -> as q."""
        seed = int(torch.empty((), dtype=torch.int64).random_())  # torch's own state says what is dropped
        q, k, v = (q * scale).contiguous(), k.contiguous(), v.contiguous()
        blocks = _blocks(q, k, allowed, p, seed)
        output = torch.cat([(weights * kept).to(v.dtype) @ v[part] for part, weights, kept in blocks])
        ctx.save_for_backward(q, k, v, allowed, output)
        ctx.scale, ctx.p, ctx.seed = scale, p, seed
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, allowed, output = ctx.saved_tensors
        gradient = gradient.contiguous()
        shared = at_least_float32(gradient * output).sum(-1, keepdim=True)  # (B, heads, L, 1): the softmax's own part
        found = []
        for part, weights, kept in _blocks(q, k, allowed, ctx.p, ctx.seed):
            of_weights = at_least_float32(gradient[part] @ v[part].mT).mul_(kept)
            of_scores = of_weights.sub_(shared[part]).mul_(weights).to(q.dtype)
            of_v = weights.mul_(kept).to(v.dtype).mT @ gradient[part]
            found.append((of_scores @ k[part] * ctx.scale, of_scores.mT @ q[part], of_v))
        return *map(torch.cat, zip(*found, strict=True)), None, None, None


def _blocks(
    q: Tensor, k: Tensor, allowed: Tensor | None, p: float, seed: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """For some texts at a time: which, their attention weights, and what dropout multiplies those by."""
    draws = torch.Generator().manual_seed(seed)
    texts = max(1, PAIRS // (q.shape[1] * q.shape[2] * k.shape[2]))
    for first in range(0, len(q), texts):
        part = slice(first, first + texts)
        scores = at_least_float32(q[part] @ k[part].mT)
        if allowed is not None:
            scores += (~allowed[part]).to(scores.dtype) * torch.finfo(scores.dtype).min
        weights = scores.softmax(-1)
        yield part, weights, keep_mask(weights.shape, p, weights.dtype, draws)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    dropout: float = 0.0, scaling: float | None = None, **others: object,
) -> tuple[Tensor, None]:  # fmt: skip
    """What transformers calls in every layer. Without dropout, on a GPU, and where it would not do, it is torch's attention."""
    bidirectional = attention_mask is not None or not getattr(module, "is_causal", True)
    known = (attention_mask is None or attention_mask.dtype == torch.bool) and others.get("position_bias") is None
    if dropout and query.device.type == "cpu" and bidirectional and known and key.shape[1] == query.shape[1]:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        allowed = None if attention_mask is None else attention_mask.expand(len(query), -1, -1, -1)
        output = RecomputedAttention.apply(query, key, value, allowed, scale, dropout)
        return output.transpose(1, 2).contiguous(), None
    told = {"dropout": dropout, "scaling": scaling, **others}
    return sdpa_attention_forward(module, query, key, value, attention_mask, **told)


def use_recomputed_attention(model: nn.Module) -> None:
    """Let the transformers models in here attend this way while they train, where their attention is torch's."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and part.config._attn_implementation == "sdpa":
            part.set_attn_implementation(NAME)
