"""Figures in one style: Korean glyphs, one palette, small pictures. Helper figures that several lessons share."""

import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.course.fonts import FONT, korean_fonts

PALETTE = ("#2f6f8f", "#d9822b", "#5b8c5a", "#b1495b", "#7a6aa8", "#8a8478")
"""Blue, orange, green, red, violet, grey: told apart by most colour-blind readers, in this order."""
INK, GRID = "#2b2b2b", "#e4e1da"
DPI = 88


def use_course_style() -> None:
    """Set matplotlib to the course's style: a font with Korean glyphs, one palette, figures of 600 x 330 pixels."""
    for font in korean_fonts():
        font_manager.fontManager.addfont(font)
    matplotlib.rcParams.update(
        {
            "font.family": [FONT, "DejaVu Sans"],
            "axes.unicode_minus": False,
            "font.size": 10,
            "text.color": INK,
            "figure.figsize": (6.8, 3.8),
            "figure.dpi": DPI,
            "savefig.dpi": DPI,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.edgecolor": GRID,
            "axes.labelcolor": INK,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "image.cmap": "YlGnBu",
        }
    )


def line_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, x: str, y: str, *, log_x: bool = False
) -> Figure:
    """Lines by name, each (x values, y values): losses over steps, scores over batch sizes."""
    figure, axes = plt.subplots()
    for name, (across, up) in lines.items():
        axes.plot(across, up, label=name, marker="o" if len(across) <= 12 else None, markersize=4)
    values = sorted({value for across, _ in lines.values() for value in across})
    if log_x:
        axes.set_xscale("log", base=2)
        if len(values) <= 10:
            axes.set_xticks(values, [f"{value:g}" for value in values])
    elif not any(isinstance(value, str) or value % 1 for value in values):
        axes.xaxis.get_major_locator().set_params(integer=True)  # there is no step 1.5
    return _finish(figure, axes, title, x, y, legend=len(lines) > 1)


def bar_figure(
    values: Mapping[str, float],
    title: str,
    y: str,
    *,
    errors: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
) -> Figure:
    """One bar a name with its value above it (before and after, model beside model); ``errors``: half-widths.

    ``groups``: what each bar belongs to; a group has one colour and stands in the legend. Without them all have one colour.
    """
    figure, axes = plt.subplots()
    kinds = list(dict.fromkeys(groups or []))
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(values)} bars need as many groups, not {len(groups)}")
    colours = [PALETTE[kinds.index(group) % len(PALETTE)] for group in groups or []] or PALETTE[0]
    bars = axes.bar(range(len(values)), list(values.values()), color=colours, width=0.6, yerr=errors, capsize=4)
    for kind in kinds:
        bars[list(groups).index(kind)].set_label(kind)
    width = max(8, 64 // len(values))  # letters that fit below a bar
    axes.set_xticks(range(len(values)), [_wrapped(name, width) for name in values])
    axes.bar_label(bars, fmt=_label, padding=3)
    axes.margins(y=0.15)
    axes.grid(axis="x", visible=False)
    return _finish(figure, axes, title, "", y, legend=bool(kinds))


def histogram_figure(
    values: Mapping[str, Sequence[float]], title: str, x: str, *, bins: int = 30, outlines: bool = False
) -> Figure:
    """Histograms laid over one another on common bins: lengths, similarities, margins.

    ``outlines``: lines instead of areas, and each mean in the legend, where three and more would hide one another.
    """
    figure, axes = plt.subplots()
    edges = np.histogram_bin_edges(
        np.concatenate([np.asarray(part, dtype=float) for part in values.values()]), bins=bins
    )
    for name, part in values.items():
        if outlines:
            axes.hist(part, bins=edges, histtype="step", linewidth=1.8, label=f"{name}, mean {np.mean(part):+.3f}")
        else:
            axes.hist(part, bins=edges, alpha=0.6, label=name)
    return _finish(figure, axes, title, x, "count", legend=len(values) > 1)


def similarity_figure(
    matrix: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str, x: str = "", y: str = ""
) -> Figure:
    """A matrix of similarities or shares, shape (len(rows), len(columns)), with its numbers written in."""
    figure, axes = plt.subplots(figsize=(6.8, max(2.4, 0.5 * len(rows) + 1.6)))
    axes.imshow(matrix, aspect="auto", vmin=min(0.0, float(np.min(matrix))), vmax=max(1.0, float(np.max(matrix))))
    axes.set_xticks(range(len(columns)), columns, rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(visible=False)
    for (row, column), value in np.ndenumerate(matrix):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else INK)
    return _finish(figure, axes, title, x, y)


def _label(value: float) -> str:
    """Three decimals below 10 (0.635), one below 100 (42.1), none from there on (1,044)."""
    return f"{value:,.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3}f}"


def _wrapped(name: str, width: int) -> str:
    """The name in lines of about `width` letters, broken behind spaces and underscores."""
    lines = [""]
    for part in re.findall(r"[^_ ]*[_ ]?", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _finish(figure: Figure, axes: Axes, title: str, x: str, y: str, legend: bool = False) -> Figure:
    axes.set(title=title, xlabel=x, ylabel=y)
    if legend:
        axes.legend()
    plt.close(figure)  # the figure is returned: the notebook shows it once, as the value of its cell
    return figure
