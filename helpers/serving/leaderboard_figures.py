"""The leaderboard's figures: bars for two models over data sets, and a radar of their metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from helpers.course.plots import GRID, INK, PALETTE

FONT = "Noto Sans KR, Apple SD Gothic Neo, Malgun Gothic, NanumGothic, sans-serif"


def bars(table: pd.DataFrame, models: Mapping[str, Sequence[bool]], metric: str) -> go.Figure:
    """Groups of two bars, one group a data set; ``table`` as :func:`~helpers.serving.comparison.side_by_side` gives it.

    models  the two names, and for each line of the table whether that model's figure is published: then it is hatched
    """
    figure = go.Figure()
    for colour, (model, published) in zip(PALETTE, models.items(), strict=False):
        texts = [f"{value:.3f}{' published' * told}" for value, told in zip(table[model], published, strict=True)]
        marker = {"color": colour, "pattern": {"shape": ["/" if told else "" for told in published]}}
        figure.add_bar(x=table.index, y=table[model], name=model, marker=marker, text=texts, textposition="outside")
    figure.update_yaxes(title=metric, range=[min(0.0, table[list(models)].min().min()), 1.05], gridcolor=GRID)
    return _styled(figure, barmode="group", bargap=0.35)


def radar(first: Mapping[str, float], second: Mapping[str, float], names: tuple[str, str]) -> go.Figure:
    """A closed line for each model; the axes are the metrics that both have, from 0 in the middle to 1."""
    axes = [metric for metric in first if metric in second]
    figure = go.Figure()
    for colour, name, values in zip(PALETTE, names, (first, second), strict=False):
        around = [values[metric] for metric in axes]
        figure.add_scatterpolar(
            r=[*around, *around[:1]], theta=[*axes, *axes[:1]], name=name, line_color=colour, fill="toself", opacity=0.6
        )
    figure.update_polars(radialaxis={"range": [0, 1], "gridcolor": GRID}, bgcolor="white")
    return _styled(figure)


def _styled(figure: go.Figure, **layout: object) -> go.Figure:
    return figure.update_layout(
        font={"family": FONT, "color": INK, "size": 14},
        plot_bgcolor="white",
        paper_bgcolor="white",
        margin={"l": 40, "r": 40, "t": 30, "b": 40},
        legend={"orientation": "h", "y": -0.15},
        height=420,
        **layout,
    )
