"""From label likelihoods to classes: as they are, by length, or against what the model says of a text that says nothing."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from helpers.course.errors import InputError

Rule = Literal["sum", "token", "character", "calibrated"]
RULES = ("sum", "token", "character", "calibrated")


def decide(
    likelihoods: Tensor, rule: Rule = "sum", *, lengths: Sequence[int] = (), free: Tensor | None = None
) -> Tensor:
    """The column of the label that wins in each row, (N,); on a tie the first.

    ``likelihoods`` (N, L): log-probabilities of whole label words, in nats. ``sum`` takes them as they are, so a label cut
    into many tokens pays for each; ``token`` and ``character`` divide by ``lengths``, the number of tokens or characters of
    each label (lm-evaluation-harness: ``acc`` is ``sum``, ``acc_norm`` is ``character``). ``calibrated`` subtracts what
    ``free`` (M, L), likelihoods after M content-free prompts, says the model prefers anyway.
    """
    return scored(likelihoods, rule, lengths=lengths, free=free).argmax(-1)


def scored(likelihoods: Tensor, rule: Rule, *, lengths: Sequence[int] = (), free: Tensor | None = None) -> Tensor:
    """What :func:`decide` compares, (N, L); larger is better.

    Raises :class:`InputError` where the rule lacks its part, and for NaN, of which one would pass for the largest.
    """
    for name, values in (("likelihoods", likelihoods), ("free", free)):
        if values is not None and values.isnan().any():
            row = int(values.isnan().any(1).nonzero()[0])
            raise InputError(
                "a likelihood is not a number (NaN)", place=f"{name}, row {row}", hint="did the model overflow?"
            )
    if rule == "sum":
        return likelihoods
    if rule in ("token", "character"):
        if len(lengths) != likelihoods.shape[1]:
            raise InputError(f"the rule {rule} needs the length of every label", place="lengths", given=list(lengths))
        return likelihoods / torch.tensor(lengths, dtype=likelihoods.dtype)
    if rule == "calibrated":
        if free is None:
            raise InputError("the rule calibrated needs likelihoods after content-free prompts", place="free")
        return likelihoods - content_free_bias(free)
    raise InputError("there is no such rule", place="rule", given=rule, allowed=RULES)


def content_free_bias(free: Tensor) -> Tensor:
    """log of the mean probability of each label after M content-free prompts, (L,), each prompt's labels summing to 1.

    Zhao et al. 2021 (arXiv 2102.09690) divide by these probabilities; among log-probabilities that is a subtraction.
    """
    return free.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(free))).log()
