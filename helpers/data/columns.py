"""Tables of a million rows: read as polars text columns, written slice by slice."""

import codecs
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import polars as pl
import pyarrow.parquet as parquet

from helpers.course.errors import InputError
from helpers.course.files import atomic_write, read_bytes, read_table, short_path
from helpers.course.rejects import Rejects
from helpers.course.separated import sound_quotes
from helpers.course.tables import SEPARATORS, WRITABLE
from helpers.data.places import RowLines
from helpers.data.text import normalise

UTF_8 = (None, "utf-8", "utf8", "utf-8-sig")
SLICE = 100_000
"""Rows held as finished text at one time while a file is written."""


@dataclass(frozen=True)
class Source:
    """A table that was read: text columns only, an empty cell is ``""``; malformed rows are in ``rejects``."""

    path: Path
    table: pl.DataFrame
    encoding: str
    rejects: Rejects

    @cached_property
    def line(self) -> RowLines:
        """``source.line(row)``: the line of the file on which a row (counted from 0) starts; None in parquet."""
        return RowLines(self.path, self.encoding, rejects=self.rejects)


def read_source(path: str | Path, encoding: str | None = None) -> Source:
    """Read csv, tsv, jsonl or parquet (see :func:`helpers.course.tables.read_table`).

    The table is held whole in memory. A sound csv in UTF-8 takes a fast way (about four times the speed); anything
    doubtful takes the careful one, which finds the encoding, names lines and keeps malformed rows.
    """
    path = Path(path)
    utf_8 = (encoding and encoding.lower().replace("_", "-")) in UTF_8
    source = _fast(path) if path.suffix.lower() in SEPARATORS and utf_8 else None
    if source is None:
        rejects = Rejects(path)
        frame = read_table(path, encoding, rejects=rejects)
        source = Source(path, pl.from_pandas(frame), frame.attrs["encoding"], rejects)
    if source.table.height == 0:
        first = next(iter(source.rejects.rows), None)
        raise InputError(
            "this table has columns but no row" + (" that can be used" if first else ""),
            file=short_path(path),
            place=f"line {first['line']}" if first else None,
            hint=f"{len(source.rejects)} rows were refused, the first because: {first['reason']}" if first else None,
        )
    return replace(source, table=normal_names(source.table, short_path(path)))


def normal_names(table: pl.DataFrame, file: str | None = None) -> pl.DataFrame:
    """The table with its columns' names in the normal form: 설명 in NFD looks like 설명 in NFC, and is not equal.

    Raises InputError where two columns then have one name.
    """
    names = [normalise(name) for name in table.columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError("two columns have names that look the same", file=file, given=", ".join(twice))
    return table.rename(dict(zip(table.columns, names, strict=True)))


def _fast(path: Path) -> Source | None:
    """None where the file is not plainly sound: the careful reader then says what is wrong."""
    data = read_bytes(path)
    separator = SEPARATORS[path.suffix.lower()]
    bare_returns = data.count(b"\r") > data.count(b"\r\n")  # the end of a row elsewhere, a character in polars
    cut = data.endswith(separator.encode())  # polars drops an empty field too many at the end of the file
    if b"\0" in data or bare_returns or cut or not sound_quotes(data, separator):
        return None
    try:
        table = pl.read_csv(data, separator=separator, infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError):
        return None
    names = table.columns
    if table.height == 0 or any(not name.strip() or "_duplicated_" in name or '"' in name for name in names):
        return None
    if table[names[-1]].null_count():  # an empty last cell, or a row that is too short: polars does not tell them apart
        return None
    marked = data.startswith(codecs.BOM_UTF8)
    return Source(path, table.fill_null(""), "utf-8-sig" if marked else "utf-8", Rejects(path))


def write_frames(path: str | Path, frames: Iterable[pl.DataFrame]) -> int:
    """Write frames with the same columns one after the other into one file, atomically; returns the number of rows.

    The ending chooses the format: ``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``. Only one frame is needed at a time.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in WRITABLE:
        raise InputError("no table can be written under this name", file=short_path(path), allowed=WRITABLE)
    rows = 0
    writer: parquet.ParquetWriter | None = None
    with atomic_write(path, "wb") as file:
        for number, frame in enumerate(frames):
            rows += frame.height
            if ending in SEPARATORS:
                frame.write_csv(file, include_header=number == 0, separator=SEPARATORS[ending])
            elif ending == ".jsonl":
                frame.write_ndjson(file)
            else:
                arrow = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
                writer = writer or parquet.ParquetWriter(file, arrow.schema)
                writer.write_table(arrow)
        if writer is not None:
            writer.close()
    return rows


def slices(table: pl.DataFrame, size: int = SLICE) -> Iterable[pl.DataFrame]:
    """A table in pieces of ``size`` rows; an empty table is one empty piece (so that its header gets written)."""
    for start in range(0, max(table.height, 1), size):
        yield table.slice(start, size)
