"""The next token of each row of a batch, each row by its own rules and its own random numbers."""

from collections.abc import Sequence

import torch

from helpers.serving.jobs import Sampling

GREEDY_BELOW = 1e-5
"""Temperatures below it are greedy, with either engine: logits divided by less leave float32. Others that are
below 0.01 vLLM raises to 0.01."""


class Sampler:
    """Draws for one job. Its own generator makes a seeded answer independent of what else is in the batch."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int], vocabulary: int, device: torch.device) -> None:
        self.rules = sampling
        self._random = torch.Generator(device)
        if sampling.seed is not None:
            self._random.manual_seed(sampling.seed)
        self._counts = self._read = None
        if sampling.penalized:
            self._counts = torch.zeros(vocabulary, device=device)  # (V,) how often each token was generated
            self._read = torch.zeros(vocabulary, dtype=torch.bool, device=device)  # (V,) stands in the prompt
            self._read[torch.tensor(prompt, device=device)] = True

    def draw(self, logits: torch.Tensor) -> int:
        """The next token from float logits (V,)."""
        if self._counts is not None:
            logits = self._penalize(logits)
        greedy = self.rules.temperature < GREEDY_BELOW
        token = int(logits.argmax()) if greedy else self._sample(logits)
        if self._counts is not None:
            self._counts[token] += 1
        return token

    def _penalize(self, logits: torch.Tensor) -> torch.Tensor:
        """Repetition over prompt and answer (CTRL, arXiv 1909.05858), presence and frequency over the answer only."""
        rules, written = self.rules, self._counts > 0
        factor = torch.where(written | self._read, rules.repetition_penalty, 1.0)
        logits = torch.where(logits > 0, logits / factor, logits * factor)
        return logits - rules.frequency_penalty * self._counts - rules.presence_penalty * written

    def _sample(self, logits: torch.Tensor) -> int:
        logits = logits / self.rules.temperature
        if 0 < self.rules.top_k < len(logits):
            logits = logits.masked_fill(logits < logits.topk(self.rules.top_k).values[-1], -torch.inf)
        shares = logits.softmax(-1)
        if self.rules.top_p < 1:
            ordered, tokens = shares.sort(descending=True)
            ordered[1:][ordered.cumsum(0)[:-1] >= self.rules.top_p] = 0  # the first token stays, however small top_p
            return int(tokens[torch.multinomial(ordered, 1, generator=self._random)])
        return int(torch.multinomial(shares, 1, generator=self._random))


def draw_all(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The next token of every row of logits (B, V); plain greedy rows in one call."""
    logits = logits.float()
    tokens = logits.argmax(-1).tolist()
    for row, sampler in enumerate(samplers):
        if sampler.rules.temperature > 0 or sampler.rules.penalized:
            tokens[row] = sampler.draw(logits[row])
    return tokens
