"""Rows that could not be used: kept beside the output, with the reason, and counted."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from helpers.course.jsonl import write_jsonl
from helpers.course.paths import short_path


class Rejects:
    """Collects rejected rows; :meth:`save` writes them to ``<output>.rejected.jsonl``, so that nothing is lost.

    >>> rejects = Rejects("outputs/triplets.jsonl")
    >>> rejects.add({"name": ""}, file="products.csv", line=17, reason="the description is empty")
    >>> rejects.counts
    Counter({'the description is empty': 1})
    """

    def __init__(self, output_path: str | Path) -> None:
        output = Path(output_path)
        self.path = output.with_name(f"{output.name}.rejected.jsonl")
        self.rows: list[dict[str, object]] = []

    def add(self, row: object, file: str | Path | None, line: int | None, reason: str) -> None:
        """Keep one row (a dict, a list of fields or the raw text) with where it stood and why it was refused.

        ``file``: a path, kept in short; a text (a path that is short already, a name of the hub) is kept as it is.
        """
        kept = dict(row) if isinstance(row, Mapping) else list(row) if isinstance(row, tuple) else row
        named = short_path(file) if isinstance(file, Path) else file
        self.rows.append({"reason": reason, "file": named, "line": line, "row": kept})

    @property
    def counts(self) -> Counter[str]:
        """How many rows were refused for each reason, most frequent first when iterated by ``most_common``."""
        return Counter(str(row["reason"]) for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def save(self) -> Path | None:
        """Write the rejects atomically and return their path.

        With nothing to write, a file left by an earlier run is removed (it would lie) and ``None`` is returned.
        """
        if not self.rows:
            if os.path.exists(self.path):  # a name that cannot be is refused, in words, where the output is written
                self.path.unlink()
            return None
        write_jsonl(self.path, self.rows)
        return self.path

    def summary(self) -> str:
        """One line for a notebook: how many rows were refused, and why."""
        if not self.rows:
            return "no rows rejected"
        reasons = "; ".join(f"{count} x {reason}" for reason, count in self.counts.most_common())
        return f"{len(self.rows)} rows rejected ({reasons}), kept in {self.path.name}"
