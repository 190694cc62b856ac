"""Freed memory that the C library keeps, and giving it back: glibc on Linux; elsewhere nothing is done.

Work in chunks of many sizes frees blocks of many sizes, and the next chunk's do not quite fit into them: what a process holds
grows by every chunk, though no more is in use.
"""

import ctypes
import os
from pathlib import Path

SLACK = 2**25
"""Bytes by which what is held may grow before freed memory is given back: the system then has to hand it out anew."""
STATM = Path("/proc/self/statm")
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if STATM.is_file() else None


def give_back() -> None:
    """Give all freed memory back to the system."""
    if TRIM:
        TRIM(0)


class Held:
    """What the process holds between chunks: :meth:`settle` keeps it within ``SLACK`` of what the first call finds."""

    def __init__(self) -> None:
        self._most: int | None = None

    def settle(self) -> None:
        """To be called between chunks, the largest first."""
        if TRIM is None:
            return
        held = int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self._most = self._most or held + SLACK
        if held > self._most:
            give_back()
