"""One weight a piece for a weighted mean: frequent pieces count less, and training moves the weights on.

Start: smooth inverse frequency, a / (a + share), of Arora et al. (2017, "A Simple but Tough-to-Beat Baseline for Sentence
Embeddings"). On disk: the module WordWeights of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from helpers.course.errors import InputError
from helpers.embedding.losses import at_least_float32

LEAST = 1e-6  # of a weight, so that it has a logarithm


class PieceWeights(nn.Module):
    """Weights (V,), one for every id of a tokenizer, trained on a logarithmic scale: they stay above zero.

    What is stored is log(weight) / SCALE. Adam moves a number by about its rate a step, whatever its size: at the rates that
    suit the layers, a logarithm itself would hardly move within an epoch.
    """

    SCALE = 50.0

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.scaled_log = nn.Parameter(weights.float().clamp(min=LEAST).log() / self.SCALE)

    @classmethod
    def smooth_inverse_frequency(cls, tokens: Iterable[Sequence[int]], size: int, a: float = 1e-3) -> Self:
        """a / (a + share of the piece) from token lists; `size` is the number of ids. Raises InputError without tokens."""
        counts = torch.bincount(torch.tensor([*chain.from_iterable(tokens)], dtype=torch.long), minlength=size)
        if not counts.any():
            raise InputError("pieces cannot be counted without a text", place="tokens", allowed="at least one text")
        return cls(a / (a + counts / counts.sum()))

    @classmethod
    def of_word_weights(cls, config: dict | None, size: int, file: str) -> Self:
        """From the config.json of sentence-transformers' module WordWeights; `size` ids, `file` for messages.

        Raises InputError where there is none, or it does not fit.
        """
        if config is None:
            hint = "load it with its own pooling, then call weigh_pieces(tokens)"
            raise InputError("this model has no weights for its pieces", file=file, given="pooling weighted", hint=hint)
        vocabulary, known = config["vocab"], config["word_weights"]
        unknown = config.get("unknown_word_weight", 1)
        if len(vocabulary) != size:
            raise InputError(
                "these piece weights belong to another tokenizer",
                file=file,
                given=f"{len(vocabulary):,} pieces",
                allowed=f"{size:,}, as many as the tokenizer has",
            )
        weights = torch.tensor([known.get(piece, known.get(piece.lower(), unknown)) for piece in vocabulary])
        if (weights < 0).any():
            raise InputError(
                "a piece's weight is below zero", file=file, given=float(weights.min()), allowed="0 or more"
            )
        return cls(weights)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L) weights, in float32 or more."""
        return self.values()[input_ids]

    def values(self) -> Tensor:
        """The weights (V,) themselves."""
        return torch.exp(self.SCALE * at_least_float32(self.scaled_log))

    def word_weights(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
        """The config.json of WordWeights, for the tokenizer whose ids these weights belong to."""
        pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        weights = dict(zip(pieces, self.values().tolist(), strict=True))
        return {"vocab": pieces, "word_weights": weights, "unknown_word_weight": 1.0}


def weighted_mean(hidden: Tensor, weights: Tensor) -> Tensor:
    """hidden (B, L, H), weights (B, L), 0 on padding -> (B, H); zeros for a text without any weight."""
    weights = weights.to(hidden.dtype)
    total = weights.sum(1, keepdim=True)
    return (hidden * weights[:, :, None]).sum(1) / torch.where(total > 0, total, 1)
