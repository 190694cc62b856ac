"""The leaderboard as a page.

.venv/bin/streamlit run helpers/serving/leaderboard.py -- --results outputs/05_embedding_evaluation/leaderboard
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from helpers.course.errors import InputError
from helpers.course.paths import repository_path, short_path
from helpers.embedding.scoring.leaderboard_rows import ROWS_FILE, QueryResult, Row, read_query_results, read_rows
from helpers.serving.comparison import (
    FACTS,
    compared_on,
    dataset_of,
    facts_table,
    newest,
    published_on,
    query_differences,
    rows_table,
    side_by_side,
    sorted_table,
)
from helpers.serving.leaderboard_figures import bars, radar

RESULTS = "outputs/05_embedding_evaluation/leaderboard"
PUBLISHED = "sample_data/published/koe5.jsonl"
# What is shown to begin with, the first that is there. (Streamlit would put a docstring here on the page.)
MAIN = ("ndcg@10", "ndcg@1", "spearman")
FACT = {"_index": st.column_config.Column("fact", width="medium")}


def page(results: Path, published: Path) -> None:
    """Draw the whole page; Streamlit runs this again after every click."""
    st.set_page_config(page_title="Embedding leaderboard", layout="wide")
    st.title("Embedding leaderboard · 임베딩 순위표")
    measured, others = _read(results / ROWS_FILE), _read(published)
    if not measured:
        st.info(
            f"No results yet in `{short_path(results)}`. Run lesson 05 (`make lesson N=05`), then reload this page.",
            icon="ℹ️",
        )
    else:
        st.caption(f"{len(measured)} rows measured here (`{short_path(results)}`), {len(others)} published by others")
    if measured or others:
        _board(_filtered([*measured, *others]))
        _comparison([*measured, *others], results)


def _read(path: Path) -> list[Row]:
    return _readable(lambda: read_rows(path)) if path.exists() else []


def _readable(read: Callable[[], list]) -> list:
    """What was read; where it is damaged, nothing, and the page says so."""
    try:
        return read()
    except InputError as error:
        st.error(f"This file cannot be shown:\n\n```\n{error}\n```")
        return []


def _filtered(rows: list[Row]) -> list[Row]:
    with st.sidebar:
        st.header("Filter all rows · 거르기")
        kinds = st.multiselect("Measured or published", sorted({row.kind for row in rows}), key="kinds")
        datasets = st.multiselect("Data sets", sorted({dataset_of(row) for row in rows}), key="datasets")
        name = st.text_input("Model name contains", key="name").strip().casefold()
    return [
        row
        for row in rows
        if (not kinds or row.kind in kinds)
        and (not datasets or dataset_of(row) in datasets)
        and name in row.model.casefold()
    ]


def _board(rows: list[Row]) -> None:
    st.subheader("All rows · 전체")
    if not rows:
        st.warning("No row fits the filter.")
        return
    table = rows_table(rows)
    metrics = [column for column in table.columns[2:] if column not in FACTS]
    left, right = st.columns([2, 1])
    by = left.selectbox("Sort by", metrics, index=metrics.index(_main(metrics)), key="sort")
    best = right.radio("Order", ["best first", "worst first"], horizontal=True, key="order") == "best first"
    table = sorted_table(table, by, best_first=best)
    table.insert(3, by, table.pop(by))  # beside the names: far to the right it would not be seen
    style = {name: st.column_config.NumberColumn(format="%.3f") for name in metrics}
    st.dataframe(table, hide_index=True, column_config=style, placeholder="–", key="board")
    st.caption(
        "Rows of kind *published* are figures of others, from the source named; this course did not run those models."
    )
    _one_row({row.key: row for row in rows})


def _one_row(rows: dict[str, Row]) -> None:
    names = {key: " · ".join((row.model, compared_on(row), row.date or row.kind)) for key, row in rows.items()}
    names = _labels(dict(sorted(names.items(), key=lambda item: item[1])))
    chosen = st.selectbox("Open a row", list(names), None, names.get, key="open", placeholder="all that it says")
    if chosen is None:
        return
    row, columns = rows[chosen], st.columns(2)
    facts = facts_table({row.model: row})
    trained = facts.index.str.startswith("training.")
    columns[0].dataframe(facts[~trained], column_config=FACT, key="measured")
    if row.training:
        columns[1].dataframe(facts[trained], column_config=FACT, key="trained")
    else:
        columns[1].caption("It does not say how the model was trained: no record lay beside the weights.")


def _labels(names: dict[str, str]) -> dict[str, str]:
    """The same names, equal ones with their key behind: a selectbox knows its options by what it shows."""
    times = Counter(names.values())
    return {key: name if times[name] == 1 else f"{name} ({key})" for key, name in names.items()}


def _comparison(rows: list[Row], results: Path) -> None:
    st.subheader("Two models · 두 모델 비교")
    measured_first = sorted(rows, key=lambda row: (row.kind, row.model))
    names = list(dict.fromkeys(row.model for row in measured_first))
    if len(names) < 2:
        st.info("There is one model so far: another one must be measured before there is anything to compare.")
        return
    tests = {name: sorted({compared_on(row) for row in rows if row.model == name}) for name in names}
    left, middle, right = st.columns(3)
    first = left.selectbox("First model", names, key="first")
    fits = [place for place, name in enumerate(names) if name != first and set(tests[name]) & set(tests[first])]
    second = middle.selectbox("Second model", names, index=(fits or [1])[0], key="second")
    metrics = list(dict.fromkeys(name for row in rows if row.model in (first, second) for name in row.metrics))
    metrics = [name for name in metrics if not side_by_side(rows, first, second, name).empty] or metrics
    metric = right.selectbox("Metric", metrics, index=metrics.index(_main(metrics)), key="metric")
    if first == second:
        st.info("Choose two different models.")
        return
    table = side_by_side(rows, first, second, metric)
    if table.empty:
        told = "\n".join(f"- **{name}**: {'; '.join(tests[name])}" for name in (first, second))
        st.info(f"These two were not scored on the same test with {metric}, so no figures compare.\n\n{told}")
        return
    published = {model: published_on(rows, model, table.index) for model in (first, second)}
    st.plotly_chart(bars(table, published, metric), key="bars")
    dataset = st.selectbox("Data set", table.index, key="dataset")
    chosen = [newest(rows, model, dataset) for model in (first, second)]
    if len(set(chosen[0].metrics) & set(chosen[1].metrics)) > 2:
        names = tuple(f"{row.model}{' (published)' * (row.kind == 'published')}" for row in chosen)
        st.plotly_chart(radar(chosen[0].metrics, chosen[1].metrics, names), key="radar")
    differing = facts_table(dict(zip((first, second), chosen, strict=True)), differing=True)
    if not differing.empty:
        st.dataframe(differing, column_config=FACT, placeholder="–", key="differences")
        st.caption(
            "Where the two rows differ beside their scores: how they were measured, and how the models were trained, as far "
            "as it was recorded. Of several rows of a model on one test, the last measured is compared."
        )
    each = (_readable(lambda row=row: read_query_results(results, row)) for row in chosen)
    _queries(*each, metric, first, second)


def _queries(one: list[QueryResult], two: list[QueryResult], metric: str, first: str, second: str) -> None:
    st.subheader("Query by query · 질의별 승패")
    if not (one and two):
        st.info("Single queries were not kept for one of these rows (published figures and STS have none).")
        return
    table = query_differences(one, two, metric)
    if len(table) < max(len(one), len(two)):
        st.warning(
            f"Only {len(table)} queries are in both rows ({len(one)} and {len(two)}): the figures above are means over "
            "different queries and do not compare."
        )
    if table.empty:
        return
    counts = table["result"].value_counts()
    for column, (result, label) in zip(
        st.columns(3), (("win", f"{first} wins"), ("loss", f"{second} wins"), ("tie", "equal")), strict=True
    ):
        column.metric(label, int(counts.get(result, 0)))
    kind = st.radio("Show", ["wins", "losses", "all"], horizontal=True, key="show")
    part = table if kind == "all" else table[table["result"] == {"wins": "win", "losses": "loss"}[kind]]
    if part.empty:
        st.info("There is no such query.")
        return
    st.dataframe(
        part.drop(columns="id"), hide_index=True, column_config={"first": first, "second": second}, key="queries"
    )
    texts = _labels(dict(zip(part["id"], part["query"], strict=True)))
    query = st.selectbox("Read one query", list(texts), format_func=texts.get, key="query")
    _texts(query, {first: one, second: two}, metric)


def _texts(query: str, results: dict[str, list[QueryResult]], metric: str) -> None:
    found = {model: next(each for each in part if each.query == query) for model, part in results.items()}
    relevant = next(iter(found.values())).relevant
    st.markdown("**Relevant · 정답**")
    st.table(pd.DataFrame({"text": relevant}))
    for column, (model, result) in zip(st.columns(2), found.items(), strict=True):
        column.markdown(f"**{model}** · {metric} {result.metrics[metric]:.3f}")
        marks = ["✔" if text in relevant else "" for text in result.found]
        column.table(pd.DataFrame({"✔": marks, "found, best first": result.found}, index=range(1, len(marks) + 1)))


def _main(metrics: list[str]) -> str:
    return next((name for name in MAIN if name in metrics), metrics[0])


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and draw the page."""
    parser = argparse.ArgumentParser(description="The leaderboard as a page.")
    parser.add_argument("--results", default=RESULTS, help="folder that lesson 05 left")
    parser.add_argument("--published", default=PUBLISHED, help="rows of others (jsonl)")
    told = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    page(repository_path(told.results), repository_path(told.published))


if __name__ == "__main__":
    main()
