"""JSON lines: one object a line, UTF-8, read strictly and written atomically."""

import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.course.atomic import atomic_write, read_bytes
from helpers.course.encodings import decode_text
from helpers.course.errors import InputError
from helpers.course.paths import short_path

if TYPE_CHECKING:
    from helpers.course.rejects import Rejects


def read_jsonl(path: str | Path, *, rejects: "Rejects | None" = None) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file (UTF-8; ``.gz`` too), blank lines skipped.

    A line that is no JSON object, names a key twice, or holds NaN, a number beyond all bounds (1e999) or half a
    character raises :class:`InputError` that names it; with ``rejects`` given, such lines are kept there and the others
    returned.
    """
    return [row for _, row in numbered_objects(path, rejects)]


def numbered_objects(path: str | Path, rejects: "Rejects | None" = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """As :func:`read_jsonl`, each object with the number of its line (1 is the first)."""
    path = Path(path)
    text, _ = decode_text(read_bytes(path), short_path(path), "utf-8", ["utf-8"])
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, _json_object(line, short_path(path), number)
        except InputError as error:
            if rejects is None:
                raise
            rejects.add(line, path, number, error.what)


def _json_object(line: str, file: str, number: int) -> dict[str, Any]:
    place = f"line {number}"
    try:
        value = json.loads(line, object_pairs_hook=unique_keys, parse_constant=_no_constant, parse_float=_finite)
        line.encode("utf-8") if "\\u" not in line else json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise InputError(
            "this line is no valid JSON",
            file=file,
            place=f"{place}, column {error.colno}",
            given=line,
            allowed='one JSON object a line, like {"query": "…", "document": "…"}',
            hint=f"the parser says: {error.msg}",
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(
            "this line holds half a character (a lone surrogate)", file=file, place=place, given=line
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"this line cannot be used: {error}", file=file, place=place, given=line) from error
    if not isinstance(value, dict):
        raise InputError(
            f"this line is JSON, but a {type(value).__name__}",
            file=file,
            place=place,
            given=line,
            allowed="one JSON object a line",
        )
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` for :mod:`json`: raises :class:`ValueError` for a key that stands twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits} is too large")
    return number


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write one JSON object a line, atomically, Korean unescaped; packed when the name ends in ``.gz``.

    The same rows give the same bytes (a ``.gz`` carries no time). Raises :class:`InputError` for a row that JSON lines
    cannot hold (NaN, a lone surrogate, an object of another type); then no file is written.
    """
    path = Path(path)
    with atomic_write(path, "wb") as file:
        if path.suffix == ".gz":
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                packed.writelines(_encoded(rows, path))
        else:
            file.writelines(_encoded(rows, path))
    return path


def _encoded(rows: Iterable[Mapping[str, Any]], path: Path) -> Iterator[bytes]:
    for number, row in enumerate(rows, 1):
        try:
            yield json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        except (ValueError, TypeError) as error:  # UnicodeEncodeError is a ValueError
            raise InputError(
                f"this row cannot be written as JSON: {error}",
                file=short_path(path),
                place=f"row {number}",
                given=ascii(row),
            ) from error
