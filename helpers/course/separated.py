"""csv and tsv text as a table: a fast reader for sound files, a careful one that knows lines for the others."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv

from helpers.course.errors import InputError
from helpers.course.paths import short_path

if TYPE_CHECKING:
    from helpers.course.rejects import Rejects

LONGEST_FIELD = 10_000_000
"""Characters. Python's csv module stops at 131,072 by itself, which a long document exceeds."""


def read_separated(text: str, path: Path, separator: str, quoted: bool, rejects: "Rejects | None") -> pd.DataFrame:
    """csv or tsv: the fast reader where every row is sound, the careful one (which knows lines) where it stumbles."""
    header = _header(text, path, separator, quoted)
    data = text.encode()
    if not quoted or sound_quotes(data, separator):
        frame = _fast(data, header, separator, quoted)
        if frame is not None:
            return frame
    rows = list(_sound_rows(text, path, separator, quoted, len(header), rejects))
    return pd.DataFrame(rows, columns=header, dtype="str")


def _fast(data: bytes, header: list[str], separator: str, quoted: bool) -> pd.DataFrame | None:
    """The table by Arrow's reader; None when a row is malformed (its errors do not know lines)."""
    parse = arrow_csv.ParseOptions(
        delimiter=separator, quote_char='"' if quoted else False, newlines_in_values=quoted, ignore_empty_lines=True
    )
    convert = arrow_csv.ConvertOptions(strings_can_be_null=False, column_types={name: pa.string() for name in header})
    try:
        table = arrow_csv.read_csv(pa.BufferReader(data), parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid:
        return None
    if table.column_names != header:  # names that it reads otherwise have no type told: it would guess numbers
        return None
    return table.to_pandas()


def sound_quotes(data: bytes, separator: str) -> bool:
    """True when every quotation mark in a UTF-8 csv opens or closes a whole field, or stands doubled inside one.

    Otherwise a fast reader would misread without a word: ``"x"y`` becomes xy, and a mark never closed swallows rows.
    Before a mark that opens and after one that closes there is the edge of a field, or the other mark of a double.
    """
    signs = np.frombuffer(data, dtype=np.uint8)
    marks = np.flatnonzero(signs == ord('"'))
    if len(marks) % 2:
        return False
    edges = np.frombuffer(f'{separator}\r\n"'.encode(), dtype=np.uint8)
    before = signs[marks[::2][marks[::2] > 0] - 1]
    after = signs[marks[1::2][marks[1::2] < len(signs) - 1] + 1]
    return bool(np.isin(before, edges).all() and np.isin(after, edges).all())


def _header(text: str, path: Path, separator: str, quoted: bool) -> list[str]:
    header = next((fields for _, fields in csv_rows(text, path, separator, quoted)), None)
    if header is None:
        raise InputError(
            "this table is empty", file=short_path(path), allowed="a first line with the names of the columns"
        )
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise InputError(
                "a column has no name",
                file=short_path(path),
                place=f"line 1, column {number}",
                given=separator.join(header),
                hint="pandas writes one for the index: to_csv(..., index=False)",
            )
        if header.count(name) > 1:
            raise InputError("two columns have the same name", file=short_path(path), place="line 1", given=name)
    return header


def _sound_rows(
    text: str, path: Path, separator: str, quoted: bool, width: int, rejects: "Rejects | None"
) -> Iterator[list[str]]:
    rows = csv_rows(text, path, separator, quoted)
    next(rows)
    for line, fields in rows:
        if len(fields) == width:
            yield fields
            continue
        what = f"this row has {len(fields)} fields, the first line names {width} columns"
        if rejects is None:
            raise InputError(
                what,
                file=short_path(path),
                place=f"line {line}",
                given=separator.join(fields),
                allowed=f"{width} fields",
                hint="a text that holds the separator must stand in double quotes",
            )
        rejects.add(fields, path, line, what)


def csv_rows(text: str, path: Path, separator: str, quoted: bool) -> Iterator[tuple[int, list[str]]]:
    """(line on which the row starts, its fields), blank lines left out. A lone ``\\r`` ends a line too."""
    csv.field_size_limit(LONGEST_FIELD)
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=quoted)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        what = "a quotation mark is never closed, or closed before its field ends"
        if "field limit" in str(error):
            what = f"a field has more than {LONGEST_FIELD:,} characters, or a quotation mark is never closed"
        raise InputError(
            what,
            file=short_path(path),
            place=f"line {start}",
            given="".join(io.StringIO(text, newline="").readlines()[start - 1 : start]).rstrip("\r\n"),
            hint=f'a quotation mark inside a quoted text is written twice: ""; the parser says: {error}',
        ) from error
