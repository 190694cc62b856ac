"""A picture of what fits where: weights, cache and the rest of each GPU's memory."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from helpers.course.plots import INK, PALETTE
from helpers.instruct.gpu_memory import GPUS, ModelShape, fit


def memory_figure(model: ModelShape, places: Sequence[tuple[str, int]], *, working_gb: float = 1.5) -> Figure:
    """One bar a place (name in GPUS, tensor_parallel_size), in GiB of one of its GPUs; red where weights do not fit."""
    figure, axes = plt.subplots(figsize=(6.8, 0.55 * len(places) + 1.5))
    for row, (gpu, count) in enumerate(places):
        found = fit(model, GPUS[gpu], count, working_gb=working_gb)
        fits = found.tokens > 0
        parts = {"weights": found.weights, "working memory (assumed)": working_gb, "KV cache": found.cache}
        left = 0.0
        for (name, width), colour in zip(parts.items(), (PALETTE[0], PALETTE[5], PALETTE[2]), strict=True):
            shown = colour if fits or name != "weights" else PALETTE[3]
            axes.barh(row, width, left=left, color=shown, height=0.6, label=name if row == len(places) - 1 else None)
            left += width
        axes.plot([GPUS[gpu]] * 2, [row - 0.4, row + 0.4], color=INK, linewidth=2)
        told = f"{found.tokens:,} tokens" if fits else "does not fit"
        axes.text(max(left, GPUS[gpu]) + 0.6, row, told, va="center", fontsize=9)
    axes.set_yticks(range(len(places)), [f"{count} x {gpu}" for gpu, count in places])
    axes.set_xlim(0, 1.25 * max(GPUS[gpu] for gpu, _ in places))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(title=f"{model.name}, 16 bits: memory of each GPU", xlabel="GiB (line: what the GPU has)")
    figure.legend(loc="outside lower center", ncols=3)
    plt.close(figure)
    return figure
