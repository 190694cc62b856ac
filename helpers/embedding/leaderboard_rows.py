"""The leaderboard's file: one row a model and data set, with all that is needed to judge or repeat it.

``rows.jsonl`` holds the rows, ``queries/<key>.jsonl`` beside it what happened to every single query of a measured row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, short_path, write_jsonl
from helpers.course.machine import detect_machine

KINDS = ("measured", "published")
ROWS_FILE = "rows.jsonl"
FOUND = 5
"""Documents kept of each query's ranking, to be read by people."""


@dataclass(frozen=True)
class Row:
    """A model's scores on one data set.

    kind      ``measured`` here, or ``published`` by the ``source``
    metrics   names as :mod:`~helpers.embedding.retrieval_metrics` gives them, or ``spearman``; shares of 1
    settings  what the score depends on beside model and data: prompts, length, k of a fusion
    date      of the measurement, UTC, ISO 8601
    """

    model: str
    dataset: str
    kind: str
    metrics: dict[str, float]
    split: str | None = None
    queries: int | None = None
    documents: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    hardware: str | None = None
    date: str | None = None
    source: str | None = None

    @property
    def key(self) -> str:
        """Twelve hex digits for model, data, split, settings and seed: a row that is measured again replaces itself."""
        identity = [self.model, self.dataset, self.kind, self.split, self.settings, self.seed]
        return hashlib.sha256(json.dumps(identity, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class QueryResult:
    """One query: its metrics, the texts that are relevant, and the first texts found, best first."""

    query: str
    text: str
    metrics: dict[str, float]
    relevant: list[str]
    found: list[str]


def measured_row(model: str, dataset: str, metrics: Mapping[str, float], **facts: Any) -> Row:
    """A row measured on this machine, now. ``facts``: split, queries, documents, settings, seed."""
    machine = detect_machine()
    hardware = machine.gpu or f"{machine.cpu}, {machine.cores} cores"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return _checked(Row(model, dataset, "measured", dict(metrics), hardware=hardware, date=now, **facts))


def query_results(
    each: Mapping[str, Mapping[str, float]],
    rankings: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
) -> list[QueryResult]:
    """What a leaderboard shows of every query: ``each`` from ``metrics_by_query``, ``rankings`` best document first."""
    return [
        QueryResult(
            query,
            queries[query],
            dict(scores),
            [documents[document] for document, grade in qrels[query].items() if grade > 0],
            [documents[document] for document in rankings[query][:FOUND]],
        )
        for query, scores in each.items()
    ]


def save_row(folder: str | Path, row: Row, results: Iterable[QueryResult] = ()) -> Path:
    """Put a row (and its queries) into the leaderboard in ``folder``; one with the same key is replaced. Atomic."""
    folder = Path(folder)
    path = folder / ROWS_FILE
    others = [other for other in read_rows(path) if other.key != row.key] if path.exists() else []
    written = [asdict(result) for result in results]
    if written:
        write_jsonl(folder / "queries" / f"{row.key}.jsonl", written)
    return write_jsonl(path, [asdict(each) for each in [*others, _checked(row)]])


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a leaderboard file. Raises InputError with the row's number for what is missing or no score."""
    known = {each.name for each in fields(Row)}
    rows = []
    for number, values in enumerate(read_jsonl(path), 1):
        place = f"row {number}"
        if missing := {"model", "dataset", "kind", "metrics"} - set(values):
            raise InputError("a row of the leaderboard lacks a key", file=short_path(path), place=place, given=missing)
        if odd := sorted(set(values) - known):
            raise InputError(
                "a row of the leaderboard has an unknown key",
                file=short_path(path),
                place=place,
                given=", ".join(odd),
                allowed=sorted(known),
            )
        rows.append(_checked(Row(**values), short_path(path), place))
    return rows


def read_query_results(folder: str | Path, row: Row) -> list[QueryResult]:
    """The queries of a measured row; an empty list where none were kept (published rows, STS)."""
    path = Path(folder) / "queries" / f"{row.key}.jsonl"
    return [QueryResult(**values) for values in read_jsonl(path)] if path.exists() else []


def _checked(row: Row, file: str | None = None, place: str | None = None) -> Row:
    why, given = None, None
    if row.kind not in KINDS:
        why, given = f"a row is {' or '.join(KINDS)}", row.kind
    elif row.kind == "published" and not row.source:
        why, given = "a published row must name its source", row.model
    elif not row.model or not row.dataset:
        why, given = "a row names a model and a data set", f"{row.model!r}, {row.dataset!r}"
    elif not row.metrics:
        why, given = "a row has at least one metric", row.model
    else:
        for name, value in row.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                why, given = f"the metric {name} is no finite number", str(value)
            elif not -1 <= value <= 1:
                why, given = f"the metric {name} is no share of 1 (75.68 % is 0.7568)", value
    if why:
        raise InputError(why, file=file, place=place, given=given)
    return row
