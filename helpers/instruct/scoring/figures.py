"""The lesson's figures: scores with their intervals and the two bars to clear, and what a model answers to nothing."""

from collections.abc import Mapping

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from helpers.course.plots import PALETTE


def interval_figure(scores: pd.DataFrame, title: str) -> Figure:
    """``scores``: columns ``task``, ``which`` (a series each), ``macro_f1``, ``low``, ``high``, and the bars ``majority_f1``
    and ``chance_f1``."""
    figure, axes = plt.subplots()
    tasks, series = list(dict.fromkeys(scores["task"])), list(dict.fromkeys(scores["which"]))
    for number, name in enumerate(series):
        part = scores[scores["which"] == name].set_index("task").loc[tasks]
        across = [place + 0.6 * (number + 0.5) / len(series) - 0.3 for place in range(len(tasks))]
        down, up = part["macro_f1"] - part["low"], part["high"] - part["macro_f1"]
        error = [down.clip(lower=0), up.clip(lower=0)]  # a percentile interval need not hold the score itself
        axes.errorbar(across, part["macro_f1"], yerr=error, fmt="o", capsize=4, label=name, color=PALETTE[number])
    bars = scores.drop_duplicates("task").set_index("task").loc[tasks]
    ends = [p - 0.4 for p in range(len(tasks))], [p + 0.4 for p in range(len(tasks))]
    axes.hlines(bars["majority_f1"], *ends, color=PALETTE[5], label="always the most frequent class")
    axes.hlines(bars["chance_f1"], *ends, color=PALETTE[5], linestyles="dashed", label="labels drawn by lot")
    axes.set(title=title, ylabel="macro F1", ylim=(0, 1))
    axes.set_xticks(range(len(tasks)), tasks)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", ncols=2)
    plt.close(figure)  # returned: the notebook shows it once, as the value of its cell
    return figure


def habit_figure(habits: Mapping[str, Mapping[str, float]], title: str) -> Figure:
    """``habits``: by task, each label word with its probability among the task's labels. One colour a task."""
    figure, axes = plt.subplots()
    place, ticks = 0, []
    for number, (task, shares) in enumerate(habits.items()):
        places = range(place, place + len(shares))
        bars = axes.bar(places, list(shares.values()), width=0.7, color=PALETTE[number], label=task)
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.hlines(1 / len(shares), places[0] - 0.5, places[-1] + 0.5, color=PALETTE[5], linestyles="dashed")
        ticks += zip(places, shares, strict=True)
        place += len(shares) + 1
    axes.set(title=title, ylabel="probability among the labels", ylim=(0, 1.35))
    axes.set_xticks(*zip(*ticks, strict=True))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.grid(axis="x", visible=False)
    axes.legend(loc="upper left", ncols=2)
    plt.close(figure)
    return figure
