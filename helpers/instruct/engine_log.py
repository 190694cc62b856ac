"""Where a running engine writes to: everything it and its processes print goes into a file, not into the notebook."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def last_error(log: Path) -> str:
    """The last line of a log that speaks of an error, at most 300 characters; ``none`` where no line does."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if "Error" in line]
    return (lines or ["none"])[-1][-300:]


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Let everything that this process and those it starts write to their two outputs go to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)
