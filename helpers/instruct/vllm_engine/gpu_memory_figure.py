"""A picture of what fits where: weights, cache and the rest of each GPU's memory."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from helpers.course.plots import INK, PALETTE
from helpers.instruct.vllm_engine.gpu_memory import GPUS, SHARE, ModelShape, fit

TOO_MUCH = "weights that do not fit"
COLOURS = {"weights": PALETTE[0], TOO_MUCH: PALETTE[3], "working memory (assumed)": PALETTE[5], "KV cache": PALETTE[2]}


def memory_figure(model: ModelShape, places: Sequence[tuple[str, int]], *, working_gb: float = 1.5) -> Figure:
    """One bar a place (name in GPUS, tensor_parallel_size), in GiB of one of its GPUs; red where weights do not fit."""
    named: set[str] = set()
    figure, axes = plt.subplots(figsize=(6.8, 0.55 * len(places) + 1.5))
    for row, (gpu, count) in enumerate(places):
        found = fit(model, GPUS[gpu], count, working_gb=working_gb)
        fits = found.tokens > 0
        weights = "weights" if fits else TOO_MUCH
        parts = {weights: found.weights, "working memory (assumed)": working_gb, "KV cache": found.cache}
        left = 0.0
        for name, width in parts.items():
            axes.barh(row, width, left=left, color=COLOURS[name], height=0.6, label=None if name in named else name)
            named.add(name)
            left += width
        axes.plot([GPUS[gpu]] * 2, [row - 0.4, row + 0.4], color=INK, linewidth=2)
        axes.plot([SHARE * GPUS[gpu]] * 2, [row - 0.4, row + 0.4], color=INK, linestyle=":")
        told = f"{found.tokens:,} tokens" if fits else "does not fit"
        axes.text(max(left, GPUS[gpu]) + 0.6, row, told, va="center", fontsize=9)
    axes.set_yticks(range(len(places)), [f"{count} x {gpu}" for gpu, count in places])
    axes.set_xlim(0, 1.25 * max(GPUS[gpu] for gpu, _ in places))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(
        title=f"{model.name}, 16 bits: memory of each GPU",
        xlabel=f"GiB (line: what the GPU has; dotted: the {SHARE:.0%} that vLLM takes)",
    )
    figure.legend(loc="outside lower center", ncols=2)
    plt.close(figure)
    return figure
