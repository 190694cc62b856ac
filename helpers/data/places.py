"""On which line of a file a row stands, found only when somebody asks, and what to do with a row that is refused."""

from functools import cached_property
from pathlib import Path
from typing import Any

from helpers.course.errors import InputError
from helpers.course.files import row_lines, short_path
from helpers.course.rejects import Rejects
from helpers.course.tables import ending_of

WITHOUT_LINES = (".parquet", ".pkl")


class RowLines:
    """The lines of the rows that ``read_table`` gave: those that it put into ``rejects`` are left out of the count.

    ``since``: how many rows ``rejects`` held before that read; what an earlier read of the file put there counts.
    """

    def __init__(
        self,
        path: Path,
        encoding: str | None = None,
        *,
        quoted: bool = True,
        rejects: Rejects | None = None,
        since: int = 0,
    ) -> None:
        self._path, self._encoding, self._quoted = path, encoding, quoted
        rows = rejects.rows[since:] if rejects is not None else []
        self._refused = {row["line"] for row in rows if row["file"] in (str(path), short_path(path))}

    @cached_property
    def _lines(self) -> list[int]:
        lines = row_lines(self._path, self._encoding, quoted=self._quoted)
        return [line for line in lines if line not in self._refused]

    def __call__(self, row: int) -> int | None:
        """The line on which a row (counted from 0) starts; None for files without lines."""
        return None if ending_of(self._path) in WITHOUT_LINES else self._lines[row]

    def place(self, row: int) -> str:
        """The same in words: ``line 7``, or ``row 6`` where there are no lines."""
        line = self(row)
        return f"row {row + 1}" if line is None else f"line {line}"


def refuse(
    why: str,
    values: dict[str, Any],
    path: Path,
    lines: RowLines,
    row: int,
    rejects: Rejects | None,
    given: object = None,
) -> None:
    """Keep a row in ``rejects``, or raise :class:`InputError` without. ``given``: the part that is wrong."""
    if rejects is None:
        shown = values if given is None else given
        raise InputError(why, file=short_path(path), place=lines.place(row), given=shown)
    rejects.add(values, path, lines(row), why)
