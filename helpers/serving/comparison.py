"""What the leaderboard shows, as tables: all rows, two models beside each other, and the queries that tell them apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from helpers.embedding.scoring.leaderboard_rows import QueryResult, Row

ONE_NAME = {"AutoRAGRetrieval": "AutoRAG-benchmark"}
"""Data sets that MTEB calls one way and published tables another."""
FACTS = ("kind", "split", "queries", "documents", "seed", "hardware", "date", "settings", "training", "source")
TIE = 1e-9


def dataset_of(row: Row) -> str:
    """The one name of a row's data set."""
    return ONE_NAME.get(row.dataset, row.dataset)


def compared_on(row: Row) -> str:
    """``Row.test`` under the data set's one name: scores compare within it only."""
    return replace(row, dataset=dataset_of(row)).test


def rows_table(rows: Sequence[Row]) -> pd.DataFrame:
    """One line a row: model, dataset, kind, every metric that any row has (empty where it has none), the other facts."""
    lines = []
    for row in rows:
        facts = {name: getattr(row, name) for name in FACTS}
        told = {key: value for key, value in row.settings.items() if value is not None}
        facts["settings"] = json.dumps(told, ensure_ascii=False) if told else ""
        facts["training"] = row.training["recipe"] if row.training else None
        lines.append({"model": row.model, "dataset": dataset_of(row), **row.metrics, **facts})
    metrics = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return pd.DataFrame(lines, columns=["model", "dataset", FACTS[0], *metrics, *FACTS[1:]])


def facts_table(rows: Mapping[str, Row], *, differing: bool = False) -> pd.DataFrame:
    """All that rows say beside their scores, as text: a line a fact, a column a row; parts of a fact behind a dot.

    ``differing`` leaves out what is the same in all of them. Empty where a row does not say it.
    """
    columns = {name: _told({fact: getattr(row, fact) for fact in FACTS}) for name, row in rows.items()}
    facts = dict.fromkeys(fact for told in columns.values() for fact in told)
    if differing:
        facts = [fact for fact in facts if len({told.get(fact) for told in columns.values()}) > 1]
    return pd.DataFrame({name: [told.get(fact) for fact in facts] for name, told in columns.items()}, index=[*facts])


def _told(values: Mapping[str, Any], before: str = "") -> dict[str, str]:
    told = {}
    for key, value in values.items():
        if isinstance(value, dict):
            told |= _told(value, f"{before}{key}.")
        elif value is not None:
            told[before + key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return told


def sorted_table(table: pd.DataFrame, by: str, *, best_first: bool = True) -> pd.DataFrame:
    """By one column; lines that have no value there come last, equal ones by model and data set."""
    order = table.sort_values(["model", "dataset"], kind="stable")
    return order.sort_values(by, ascending=not best_first, kind="stable", na_position="last", ignore_index=True)


def newest(rows: Sequence[Row], model: str, test: str) -> Row | None:
    """The row of a model on a test (:func:`compared_on`) that was measured last; a published one counts as oldest."""
    own = [row for row in rows if (row.model, compared_on(row)) == (model, test)]
    return max(own, key=lambda row: (row.kind == "measured", row.date or ""), default=None)


def side_by_side(rows: Sequence[Row], first: str, second: str, metric: str) -> pd.DataFrame:
    """A column of ``metric`` for each model, a line for each test (:func:`compared_on`) that both have it for, by name."""
    lines = {}
    for test in sorted({compared_on(row) for row in rows}):
        pair = [newest(rows, model, test) for model in (first, second)]
        if all(row is not None and metric in row.metrics for row in pair):
            lines[test] = [row.metrics[metric] for row in pair]
    return pd.DataFrame.from_dict(lines, orient="index", columns=[first, second])


def published_on(rows: Sequence[Row], model: str, tests: Sequence[str]) -> list[bool]:
    """For each test, whether the model's row there is a figure of others."""
    return [newest(rows, model, test).kind == "published" for test in tests]


def query_differences(first: Sequence[QueryResult], second: Sequence[QueryResult], metric: str) -> pd.DataFrame:
    """id, query, first, second, difference (first less second), result (win, loss or tie of the first); largest gap first.

    Only queries that both models answered and that have the metric; an empty table where there is none.
    """
    others = {result.query: result for result in second}
    lines = [
        {
            "id": result.query,
            "query": result.text,
            "first": result.metrics[metric],
            "second": others[result.query].metrics[metric],
        }
        for result in first
        if result.query in others and metric in result.metrics and metric in others[result.query].metrics
    ]
    table = pd.DataFrame(lines, columns=["id", "query", "first", "second"])
    table["difference"] = (table["first"] - table["second"]).astype(float)
    table["result"] = ["tie" if abs(gap) < TIE else "win" if gap > 0 else "loss" for gap in table["difference"]]
    return table.sort_values(
        ["difference", "id"], key=lambda c: -c.abs() if c.name == "difference" else c, ignore_index=True
    )
