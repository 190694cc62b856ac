"""What a triplet method is told and what it gives back: columns, triplets, and what could not be made."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from helpers.course.errors import InputError
from helpers.data.text import normalise

NO_ANCHOR = "the anchor is empty"
NO_CATEGORY = "the category is empty"
NO_DOMAIN = "the domain is empty"
NO_POSITIVE = "the positive is empty"
SAME = "the positive is the anchor itself"
TOO_SMALL = "the category has no other text left for a negative"
REASONS = ("", NO_ANCHOR, NO_DOMAIN, NO_POSITIVE, SAME, NO_CATEGORY, TOO_SMALL)
"""Why a pair was not made; the first stands for: it was made."""


@dataclass(frozen=True)
class Columns:
    """Which column of a table plays which part."""

    anchor: str
    category: str
    positives: tuple[str, ...]
    domain: str | None = None

    def __post_init__(self) -> None:
        """Names in the normal form, as those of the table are."""
        normal = {"anchor": normalise(self.anchor), "category": normalise(self.category)}
        normal |= {"positives": tuple(map(normalise, self.positives)), "domain": self.domain and normalise(self.domain)}
        for name, value in normal.items():
            object.__setattr__(self, name, value)

    def check(self, table: pl.DataFrame, file: str | None = None) -> None:
        """Raise :class:`InputError` for a column that is missing, named twice, or empty in every row; for no row."""
        for name in [self.anchor, self.category, *self.positives, *([self.domain] if self.domain else [])]:
            if name not in table.columns:
                raise InputError("the table has no such column", file=file, given=name, allowed=table.columns)
            if table.height and not (table[name] != "").any():
                raise InputError("this column is empty in every row", file=file, place=f"column {name}")
        if not table.height:
            raise InputError("this table has no row", file=file)
        if not self.positives or len(set(self.positives)) < len(self.positives) or self.anchor in self.positives:
            raise InputError(
                "these positive columns do not fit",
                file=file,
                given=", ".join(self.positives) or "none",
                allowed=f"one or more columns, each once, without the anchor column {self.anchor!r}",
            )

    def domain_column(self) -> str:
        """The name of the domain column. Raises :class:`InputError` where none was named."""
        if self.domain is None:
            raise InputError("a column of domains is needed here", place="domain_col", given="none")
        return self.domain


@dataclass(frozen=True)
class TripletSet:
    """What one method made of a table.

    table        the rows that were read, in the normal form
    rows         (N,) their numbers in the table that was given
    supervised   anchor, positive, negative (fused: negative_1 .. negative_n)
    rejected     row (number in ``table``), column, reason: one line for each pair (fused: each row) that was not made
    sources      (lines of supervised,) the row of ``table`` that each line belongs to
    widened      negatives that came from the domain or the file because the category had none left (of the whole table)
    changed      cells that came in another form than :func:`helpers.data.text.normalise` gives (of the whole table)

    ``supervised.height + rejected.height`` is always rows times positive columns (fused: rows).
    """

    table: pl.DataFrame
    rows: np.ndarray
    supervised: pl.DataFrame
    rejected: pl.DataFrame
    sources: np.ndarray
    columns: Columns
    widened: int = 0
    changed: int = 0

    def texts(self, size: int = 100_000) -> Iterator[pl.DataFrame]:
        """The unsupervised texts, column ``text``: every non-empty cell of a row as ``column: value, ...``."""
        for start in range(0, max(self.table.height, 1), size):
            part = self.table.slice(start, size)
            yield part.select(joined(part, part.columns).alias("text")).filter(pl.col("text") != "")

    def of_rows(self, inside: np.ndarray) -> "TripletSet":
        """The part that belongs to some rows of the table, (rows,) bool."""
        number = np.cumsum(inside) - 1
        lines = inside[self.sources]
        rejected = self.rejected.filter(inside[self.rejected["row"].to_numpy()])
        return replace(
            self,
            table=self.table.filter(inside),
            rows=self.rows[inside],
            supervised=self.supervised.filter(lines),
            sources=number[self.sources[lines]],
            rejected=rejected.with_columns(row=number[rejected["row"].to_numpy()]),
        )

    def reasons(self) -> pl.DataFrame:
        """reason, column, count: why pairs were not made, most frequent first."""
        counts = self.rejected.group_by("reason", "column").agg(count=pl.len())
        return counts.sort(["count", "reason", "column"], descending=[True, False, False])

    def small_categories(self) -> pl.DataFrame:
        """(domain,) category, rows, missing: categories that could not supply every negative, most missing first."""
        names = list(
            dict.fromkeys(filter(None, (self.columns.domain, self.columns.category)))
        )  # they may be one column
        short = self.rejected.filter(pl.col("reason") == TOO_SMALL)
        missing = self.table[short["row"]].group_by(names).agg(missing=pl.len())
        rows = self.table.group_by(names).agg(rows=pl.len())
        sized = missing.join(rows, on=names).select(*names, "rows", "missing")
        return sized.sort(["missing", *names], descending=[True] + [False] * len(names))


def joined(table: pl.DataFrame, names: Iterable[str]) -> pl.Expr:
    """``name: value, name: value`` of the cells that are not empty, for a table without nulls."""
    parts = []
    for name in names:
        part = pl.concat_str(pl.lit(f"{name}: "), pl.col(name))
        parts.append(part if (table[name] != "").all() else pl.when(pl.col(name) != "").then(part))
    return pl.concat_str(parts, separator=", ", ignore_nulls=True)


def by_domain(made: TripletSet) -> dict[str, TripletSet]:
    """Split a set by the domain column: ``{domain: set}`` in order of appearance."""
    domains = made.table[made.columns.domain_column()]
    return {domain: made.of_rows((domains == domain).to_numpy()) for domain in domains.unique(maintain_order=True)}
