"""Tables of text: csv, tsv, txt, jsonl and parquet in columns of str, each bad row named or kept as a reject."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from helpers.course.atomic import atomic_write, read_bytes, read_text
from helpers.course.errors import InputError
from helpers.course.jsonl import numbered_objects, write_jsonl
from helpers.course.paths import short_path
from helpers.course.separated import csv_rows, read_separated

if TYPE_CHECKING:
    from helpers.course.rejects import Rejects

SEPARATORS = {".csv": ",", ".tsv": "\t"}
ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
WRITABLE = (".csv", ".tsv", ".jsonl", ".parquet")
NO_TEXT = (
    pa.types.is_nested,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
"""Kinds of parquet columns that are neither text nor numbers."""


def read_table(
    path: str | Path, encoding: str | None = None, *, quoted: bool = True, rejects: "Rejects | None" = None
) -> pd.DataFrame:
    """A table with columns of str (an empty cell is ``""``), rows in the order of the file, index 0, 1, 2 ...

    ``.csv`` and ``.tsv`` (first line: column names), ``.txt`` (one text a line, column ``text``), ``.jsonl`` and
    ``.parquet``; all but parquet also with ``.gz``. ``df.attrs["encoding"]`` says which encoding was found: utf-8,
    utf-8-sig, euc-kr or cp949 (see :mod:`helpers.course.encodings`). ``quoted=False`` takes quotation marks in csv and
    tsv as plain characters (KorNLI and KorSTS need that). A malformed row raises :class:`InputError` with its line;
    with ``rejects`` given it is kept there and the rest returned.
    """
    path = Path(path)
    ending = _ending(path)
    if ending == ".parquet":
        return _parquet(path)
    if ending == ".jsonl":
        return _table_of_objects(path, rejects)
    text, found = read_text(path, encoding)
    if ending == ".txt":
        frame = pd.DataFrame({"text": [line for line in _lines(text) if line.strip()]}, dtype="str")
    else:
        frame = read_separated(text, path, SEPARATORS[ending], quoted, rejects)
    frame.attrs["encoding"] = found
    return frame


def write_table(path: str | Path, table: pd.DataFrame, encoding: str = "utf-8") -> Path:
    """Write a table atomically; the ending of the name chooses the format, as in :func:`read_table` (no ``.gz``).

    Raises :class:`InputError` where a character cannot be written in ``encoding``, with its line.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".jsonl":
        return write_jsonl(path, table.to_dict("records"))
    if ending == ".parquet":
        with atomic_write(path, "wb") as file:
            table.to_parquet(file, index=False)
        return path
    if ending not in SEPARATORS:
        raise InputError("no table can be written under this name", file=short_path(path), allowed=WRITABLE)
    text = table.to_csv(sep=SEPARATORS[ending], index=False, lineterminator="\n")
    if "\r" in text:  # the csv writer leaves a lone carriage return bare, and readers take it for the end of a row
        text = table.to_csv(sep=SEPARATORS[ending], index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    try:
        data = text.encode(encoding)
    except UnicodeEncodeError as error:
        raise InputError(
            f"this character does not exist in {encoding}",
            file=short_path(path),
            place=f"line {text.count(chr(10), 0, error.start) + 1}",
            given=text[error.start],
            hint="write utf-8 instead",
        ) from error
    with atomic_write(path, "wb") as file:
        file.write(data)
    return path


def row_lines(path: str | Path, encoding: str | None = None, *, quoted: bool = True) -> list[int]:
    """The line on which each row of a csv, tsv, txt or jsonl file starts; blank lines are no rows."""
    path = Path(path)
    text, _ = read_text(path, encoding)
    ending = _ending(path)
    if ending in SEPARATORS:
        rows = csv_rows(text, path, SEPARATORS[ending], quoted)
        return [line for line, _ in rows][1:]
    lines = text.split("\n") if ending == ".jsonl" else _lines(text)
    return [number for number, line in enumerate(lines, 1) if line.strip()]


def ending_of(path: Path) -> str:
    """The ending that tells the format, in small letters, ``.gz`` set aside: ``.tsv`` of STS.TSV and of sts.tsv.gz."""
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower()


def _ending(path: Path) -> str:
    ending = ending_of(path)
    if ending not in ENDINGS or (ending == ".parquet" and path.suffix == ".gz"):
        raise InputError(
            "this is no table that can be read", file=short_path(path), given=ending or "no ending", allowed=ENDINGS
        )
    return ending


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _table_of_objects(path: Path, rejects: "Rejects | None") -> pd.DataFrame:
    """jsonl: every object must have the keys of the first one; numbers become text, null becomes ``""``."""
    keys: list[str] = []
    rows = []
    before = len(rejects or ())
    for line, row in numbered_objects(path, rejects):
        keys = keys or list(row)
        what, given = _no_row(row, keys)
        if what is None:
            rows.append([_cell(row[key]) for key in keys])
        elif rejects is None:
            raise InputError(what, file=short_path(path), place=f"line {line}", given=given, allowed=keys)
        else:
            rejects.add(row, path, line, what)
    if not keys:
        refused = rejects.rows[before:] if rejects is not None else []
        raise InputError(
            "no line of this table can be used" if refused else "this table is empty",
            file=short_path(path),
            place=f"line {refused[0]['line']}" if refused else None,
            allowed="one JSON object a line",
            hint=f"{len(refused)} lines were refused, the first because: {refused[0]['reason']}" if refused else None,
        )
    frame = pd.DataFrame(rows, columns=keys, dtype="str")
    frame.attrs["encoding"] = "utf-8"
    return frame


def _no_row(row: dict[str, object], keys: list[str]) -> tuple[str | None, object]:
    """Why an object is no row of a table with these columns (None when it is one), and the value to blame."""
    if not row:
        return "this object has no key", None
    odd = sorted(set(row) ^ set(keys))
    if odd:
        return f"the keys of this object differ from those of the first one: {', '.join(odd)}", None
    for key, value in row.items():
        if isinstance(value, list | dict):
            return f"the value of {key!r} is a {type(value).__name__}, not text or a number", value
    return None, None


def _cell(value: object) -> str:
    empty = value is None or value != value  # NaN
    return "" if empty else str(value).lower() if isinstance(value, bool) else str(value)


def _parquet(path: Path) -> pd.DataFrame:
    data = read_bytes(path)
    try:
        names = arrow_parquet.read_schema(pa.BufferReader(data)).names
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError("two columns have the same name", file=short_path(path), given=twice[0])
        table = arrow_parquet.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            "this is no readable parquet file: damaged, cut short, or of another format",
            file=short_path(path),
            hint=f"the parser says: {str(error).split('. ')[0]}",
        ) from error
    for field in table.schema:
        if any(is_kind(field.type) for is_kind in NO_TEXT):
            raise InputError(
                f"this column holds {field.type}, not text or numbers",
                file=short_path(path),
                place=f"column {field.name}",
                allowed="columns of text or numbers",
            )
    columns = {field.name: [_cell(value) for value in table[field.name].to_pylist()] for field in table.schema}
    frame = pd.DataFrame(columns, dtype="str")
    frame.attrs["encoding"] = "utf-8"
    return frame
