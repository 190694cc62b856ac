"""Two pictures of training in several processes: what a loss sees, and whether gradients agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from helpers.course.plots import INK, PALETTE

PARTS = ("not seen", "its document", "negative, same process", "negative, another process")
COLOURS = ("#f1efe9", PALETTE[0], PALETTE[1], PALETTE[2])


def seen_by_loss(processes: int, rows: int, *, gathered: bool) -> np.ndarray:
    """Which candidate each query of all processes meets: (W * B, W * B) of numbers of PARTS."""
    owner = np.repeat(np.arange(processes), rows)
    same = owner[:, None] == owner[None, :]
    seen = np.where(same, 2, 3 if gathered else 0)
    np.fill_diagonal(seen, 1)
    return seen


def seen_figure(processes: int, rows: int) -> Figure:
    """Queries of all processes against documents of all processes, without and with gathering."""
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 4.0), sharey=True)
    for axes, gathered in zip(panels, (False, True), strict=True):
        seen = seen_by_loss(processes, rows, gathered=gathered)
        axes.imshow(seen, cmap=ListedColormap(COLOURS), vmin=0, vmax=3)
        axes.set_title("gathered" if gathered else "nothing gathered")
        axes.set_xlabel("documents")
        names = [f"process {number}" for number in range(processes)]
        middles = np.arange(processes) * rows + (rows - 1) / 2
        axes.set_xticks(middles, names)
        axes.set_yticks(middles, names, rotation=90, va="center")
        axes.set_xticks(np.arange(1, processes * rows) - 0.5, minor=True)
        axes.set_yticks(np.arange(1, processes * rows) - 0.5, minor=True)
        axes.grid(which="major", visible=False)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="both", length=0)
        for edge in np.arange(1, processes) * rows - 0.5:
            axes.axhline(edge, color=INK, linewidth=1)
            axes.axvline(edge, color=INK, linewidth=1)
    panels[0].set_ylabel("queries")
    patches = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, PARTS, strict=True)]
    figure.legend(handles=patches, loc="outside lower center", ncols=2)
    plt.close(figure)
    return figure


def agreement_figure(one: Sequence[float], several: Mapping[str, Sequence[float]]) -> Figure:
    """Gradients on the same weights: from one process across, from several processes up; on the line they agree."""
    figure, panels = plt.subplots(1, len(several), figsize=(2.5 * len(several), 3.0), sharex=True, sharey=True)
    limit = 1.1 * max(np.abs(one).max(), *(np.abs(values).max() for values in several.values()))
    for number, (axes, (name, values)) in enumerate(zip(np.atleast_1d(panels), several.items(), strict=True)):
        axes.plot([-limit, limit], [-limit, limit], color=INK, linewidth=0.8)
        axes.scatter(one, values, s=9, color=PALETTE[number % len(PALETTE)])
        axes.set_title(name, fontsize=9)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        axes.ticklabel_format(style="plain")  # the power of ten would stand in the title
    figure.supxlabel("gradient from one process", fontsize=10)
    figure.supylabel("from several", fontsize=10)
    plt.close(figure)
    return figure
