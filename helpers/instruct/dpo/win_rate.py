"""How often the chosen answer wins, with an interval; and how much of that is length."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.course.errors import InputError


@dataclass(frozen=True)
class WinRate:
    """A share of pairs won, 0 to 1, with its 95% bootstrap interval."""

    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2f} [{self.low:.2f}, {self.high:.2f}]"


def wins(values: Tensor) -> Tensor:
    """Which pairs the chosen answer wins, (N,), of values (N, 2): 1, 0, or ½ for a tie.

    Raises :class:`InputError` for a value that is NaN: it would pass for a tie.
    """
    if values.isnan().any():
        bad = int(values.isnan().any(1).nonzero()[0])
        raise InputError("a value of a pair is not a number (NaN)", place=f"pair {bad}", hint="did the model overflow?")
    return (torch.sign(values[:, 0] - values[:, 1]) + 1) / 2


def win_rate(values: Tensor, draws: int = 2000, seed: int = 13) -> WinRate:
    """The share of pairs whose chosen answer has the larger value; values (N, 2)."""
    return _rate(wins(values), torch.zeros(len(values), dtype=torch.long), draws, seed)


def length_matched_win_rate(values: Tensor, lengths: Tensor, draws: int = 2000, seed: int = 13) -> WinRate:
    """The mean of two shares: among pairs whose chosen answer is longer, and among those whose is shorter.

    Both count the same however many pairs they have, so a judge that looks at nothing but length gets exactly ½,
    whichever length it likes. Pairs of equal length are left out. ``lengths`` (N, 2). Raises :class:`InputError` where
    one of the two groups is empty.
    """
    sign = torch.sign(lengths[:, 0] - lengths[:, 1])
    kept = sign != 0
    if not (sign > 0).any() or not (sign < 0).any():
        raise InputError(
            "a length-matched win rate needs pairs whose chosen answer is longer and pairs whose is shorter",
            place="test pairs",
            given=f"{int((sign > 0).sum())} longer, {int((sign < 0).sum())} shorter",
        )
    return _rate(wins(values[kept]), (sign[kept] > 0).long(), draws, seed)


def _rate(won: Tensor, groups: Tensor, draws: int, seed: int) -> WinRate:
    """Mean over groups of the share won in each, drawn anew with replacement inside each group (``draws`` times)."""
    generator = torch.Generator().manual_seed(seed)
    parts = [won[groups == group].double() for group in groups.unique()]
    drawn = torch.stack(
        [part[torch.randint(len(part), (draws, len(part)), generator=generator)].mean(-1) for part in parts]
    ).mean(0)
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return WinRate(torch.stack([part.mean() for part in parts]).mean().item(), low, high)


def longer_preferred(values: Tensor, lengths: Tensor, draws: int = 2000, seed: int = 13) -> WinRate:
    """In which share of the pairs of unequal length the longer answer has the larger value; ties count ½.

    Raises :class:`InputError` where no two lengths differ.
    """
    kept = lengths[:, 0] != lengths[:, 1]
    chosen_longer = lengths[kept, 0] > lengths[kept, 1]
    won = wins(values[kept])
    if not kept.any():
        raise InputError("no pair has answers of unequal length", place="test pairs", given=f"{len(lengths)} pairs")
    return _rate(torch.where(chosen_longer, won, 1 - won), torch.zeros(len(won), dtype=torch.long), draws, seed)


def value_of_a_token(values: Tensor, lengths: Tensor) -> float:
    """By how much a pair's difference in value grows with each token of difference in length: the slope of the line.

    Ordinary least squares with an intercept, in the unit of ``values`` a token; 0 where length earns nothing. Raises
    :class:`InputError` where all pairs differ by the same number of tokens.
    """
    difference = (values[:, 0] - values[:, 1]).double()
    tokens = (lengths[:, 0] - lengths[:, 1]).double()
    tokens = tokens - tokens.mean()
    if not tokens.any():
        raise InputError("all pairs differ by the same length: nothing can be said of it", place="test pairs")
    return ((tokens * difference).sum() / (tokens**2).sum()).item()
