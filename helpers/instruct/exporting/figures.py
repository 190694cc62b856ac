"""The figure of the export gate: how far every export is from the adapter model, and where the gate closes."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from helpers.course.plots import INK, PALETTE
from helpers.instruct.exporting.gate import Agreement


def gate_figure(found: Mapping[str, Agreement], tolerance: float) -> Figure:
    """One bar an export, its largest difference in nats on a logarithmic axis: green where admitted, red where refused.

    A difference below a ten-thousandth of a nat is drawn there, one without end (an export that says NaN) at the widest.
    """
    floor = 1e-4
    figure, axes = plt.subplots(figsize=(6.8, 0.34 * len(found) + 1.3))
    names = list(found)[::-1]
    differences = [found[name].difference for name in names]
    widest = max([10 * tolerance, *filter(isfinite, differences)])
    sizes = [min(max(each, floor), widest) for each in differences]
    colours = [PALETTE[3] if found[name].reasons(tolerance) else PALETTE[2] for name in names]
    bars = axes.barh(names, [size - floor / 2 for size in sizes], left=floor / 2, color=colours, height=0.6)
    axes.bar_label(bars, [f"{each:.2g}" for each in differences], padding=3)
    axes.axvline(tolerance, color=INK, linestyle="--", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")  # the usual one writes powers with a minus sign that the Korean font lacks
    axes.set_xlim(floor / 2, max(*sizes, tolerance) * 6)
    axes.grid(axis="y", visible=False)
    axes.set(title="Admitted (green) and refused (red); dashed: tolerance", xlabel="largest difference, nats")
    plt.close(figure)
    return figure
