"""Safe files by one door: paths, atomic writes, JSON lines and tables.

The parts live in ``paths.py``, ``atomic.py``, ``encodings.py``, ``jsonl.py`` and ``tables.py``; import them from here.
"""

from helpers.course.atomic import atomic_write, read_bytes, read_text
from helpers.course.encodings import ENCODINGS
from helpers.course.jsonl import read_jsonl, write_jsonl
from helpers.course.paths import REPOSITORY, course_data_dir, repository_path, sample_data, short_path
from helpers.course.tables import read_table, row_lines, write_table

__all__ = [
    "ENCODINGS",
    "REPOSITORY",
    "atomic_write",
    "course_data_dir",
    "read_bytes",
    "read_jsonl",
    "read_table",
    "read_text",
    "repository_path",
    "row_lines",
    "sample_data",
    "short_path",
    "write_jsonl",
    "write_table",
]
