"""The rows that an adapter was trained on, kept beside it: without them nobody can tell what it has seen."""

from collections.abc import Sequence
from pathlib import Path

from helpers.course.jsonl import read_jsonl, write_jsonl
from helpers.instruct.rows import Row

TRAINED_ON = "trained_on.jsonl.gz"


def write_trained_rows(output_dir: Path, rows: Sequence[Row]) -> Path:
    """Write the rows of a run to ``output_dir/trained_on.jsonl.gz``, whole or not at all, and return the path."""
    return write_jsonl(Path(output_dir) / TRAINED_ON, rows)


def read_trained_rows(adapter: Path) -> list[Row] | None:
    """The rows that lie in an adapter's folder or in the one above it, its run's; None where it left none.

    Raises :class:`helpers.course.errors.InputError` where the file is damaged.
    """
    for folder in (Path(adapter), Path(adapter).parent):
        if (folder / TRAINED_ON).is_file():
            return [Row(row) for row in read_jsonl(folder / TRAINED_ON)]
    return None
