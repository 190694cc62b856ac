"""The leaderboard's file: one row a model and data set, with all that is needed to judge or repeat it.

``rows.jsonl`` holds the rows, ``queries/<key>.jsonl`` beside it what happened to every single query of a measured row.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from helpers.course.errors import InputError
from helpers.course.files import short_path, write_jsonl
from helpers.course.jsonl import numbered_objects
from helpers.embedding.training_record import check_training, hardware_and_date

KINDS = ("measured", "published")
TEXT, MAYBE_TEXT, MAYBE_NUMBER = (str, "text"), (str | None, "text or null"), (int | None, "a whole number or null")
OBJECT, LIST = (dict, "an object"), (list, "a list of texts")
ROW_TYPES = (
    dict.fromkeys(("model", "dataset", "kind"), TEXT)
    | dict.fromkeys(("metrics", "settings"), OBJECT)
    | dict.fromkeys(("split", "hardware", "date", "source"), MAYBE_TEXT)
    | dict.fromkeys(("queries", "documents", "seed"), MAYBE_NUMBER)
    | {"training": (dict | None, "an object or null")}
)
QUERY_TYPES = {"query": TEXT, "text": TEXT, "metrics": OBJECT, "relevant": LIST, "found": LIST}
ROWS_FILE = "rows.jsonl"
FOUND = 5
"""Documents kept of each query's ranking, to be read by people."""


@dataclass(frozen=True)
class Row:
    """A model's scores on one data set.

    kind      ``measured`` here, or ``published`` by the ``source``
    metrics   names as :mod:`~helpers.embedding.retrieval_metrics` gives them, or ``spearman``; shares of 1
    settings  what the score depends on beside the names: the model's path, prompts, length, k of a fusion
    seed      of the evaluation's draws
    date      of the measurement, UTC, ISO 8601
    training  how the model was trained, as :mod:`~helpers.embedding.training_record` says it; None where that is not known
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
    training: dict[str, Any] | None = None

    @property
    def test(self) -> str:
        """The data set with split and sizes, where they are known: scores compare within it only."""
        sizes = {"queries": self.queries, "documents": self.documents}
        told = [f"{size} {name}" for name, size in sizes.items() if size is not None]
        return ", ".join(part for part in (self.dataset, self.split, *told) if part)

    @property
    def key(self) -> str:
        """Twelve hex digits for all but scores, machine and date: a row that is measured again replaces itself.

        Training is left out: a model that is trained anew has other weights, and their checksum stands in ``settings``.
        """
        identity = [
            self.model,
            self.dataset,
            self.kind,
            self.split,
            self.queries,
            self.documents,
            self.settings,
            self.seed,
        ]
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
    """A row measured on this machine, now. ``facts``: split, queries, documents, settings, seed, training."""
    return _checked(Row(model, dataset, "measured", dict(metrics), **hardware_and_date(), **facts))


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
    """Put a row (and its queries) into the leaderboard in ``folder``; one with the same key is replaced. Atomic.

    A row that is refused leaves the queries of the earlier one.
    """
    _checked(row)
    folder = Path(folder)
    path = folder / ROWS_FILE
    others = [other for other in read_rows(path) if other.key != row.key] if path.exists() else []
    written, queries = [asdict(result) for result in results], folder / "queries" / f"{row.key}.jsonl"
    if written:
        write_jsonl(queries, written)
    else:
        queries.unlink(missing_ok=True)  # those of an earlier measurement would pass for this one's
    return write_jsonl(path, [asdict(each) for each in [*others, row]])


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a leaderboard file. Raises InputError with the line for what is missing, no row or no score."""
    rows = []
    for line, values in numbered_objects(path):
        place = f"line {line}"
        _refuse_keys(values, Row, {"model", "dataset", "kind", "metrics"}, short_path(path), place)
        rows.append(_checked(Row(**values), short_path(path), place))
    return rows


def read_query_results(folder: str | Path, row: Row) -> list[QueryResult]:
    """The queries of a measured row; an empty list where none were kept (published rows, STS).

    Raises InputError with the line for what is no result of a query.
    """
    path = Path(folder) / "queries" / f"{row.key}.jsonl"
    results = []
    for line, values in numbered_objects(path) if path.exists() else ():
        place, names = f"line {line}", {each.name for each in fields(QueryResult)}
        _refuse_keys(values, QueryResult, names, short_path(path), place)
        result = QueryResult(**values)
        why, given = _wrong_type(result, QUERY_TYPES) or _wrong_metric(result.metrics) or (None, None)
        if why:
            raise InputError(why, file=short_path(path), place=place, given=given)
        results.append(result)
    return results


def _refuse_keys(values: Mapping[str, Any], kind: type, needed: set[str], file: str, place: str) -> None:
    known = {each.name for each in fields(kind)}
    if missing := sorted(needed - set(values)):
        what, given, allowed = "a row of the leaderboard lacks a key", ", ".join(missing), None
    elif odd := sorted(set(values) - known):
        what, given, allowed = "a row of the leaderboard has an unknown key", ", ".join(odd), sorted(known)
    else:
        return
    raise InputError(what, file=file, place=place, given=given, allowed=allowed)


def _checked(row: Row, file: str | None = None, place: str | None = None) -> Row:
    why, given = _wrong_type(row, ROW_TYPES) or (None, None)
    if why is None and row.kind not in KINDS:
        why, given = f"a row is {' or '.join(KINDS)}", row.kind
    elif why is None and row.kind == "published" and not row.source:
        why, given = "a published row must name its source", row.model
    elif why is None and not (row.model and row.dataset):
        why, given = "a row names a model and a data set", f"{row.model!r}, {row.dataset!r}"
    elif why is None and not row.metrics:
        why, given = "a row has at least one metric", row.model
    elif why is None:
        why, given = _wrong_metric(row.metrics) or (None, None)
    if why:
        raise InputError(why, file=file, place=place, given=given)
    if row.training is not None:
        check_training(row.training, file, f"{place}, key training." if place else "key training.")
    return row


def _wrong_type(part: Row | QueryResult, types: Mapping[str, tuple[type, str]]) -> tuple[str, object] | None:
    """Why a value is none of its kind, and the value; None where all are."""
    for name, (kind, words) in types.items():
        value = getattr(part, name)
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if wrong or (kind is list and not all(isinstance(text, str) for text in value)):
            return f"{name} must be {words}", repr(value)
    return None


def _wrong_metric(metrics: Mapping[str, object]) -> tuple[str, object] | None:
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value < math.inf:
            return f"the metric {name} is no finite number", str(value)
        if not -1 <= value <= 1:
            return f"the metric {name} is no share of 1 (75.68 % is 0.7568)", value
    return None
