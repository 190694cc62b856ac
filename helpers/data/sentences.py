"""Normal sets: lists of sentences, read from every format that people keep them in.

.txt (one sentence a line), .csv, .tsv, .jsonl, all also with .gz, .parquet, and .pkl through the safe reader. Every
text comes out in the normal form of :func:`helpers.data.text.normalise`.
"""

import random
from pathlib import Path

import pandas as pd

from helpers.course.errors import InputError
from helpers.course.files import read_table, short_path
from helpers.course.pickles import read_pickle
from helpers.course.rejects import Rejects
from helpers.course.tables import ending_of
from helpers.data.places import RowLines, refuse
from helpers.data.text import normalise


def read_sentences(
    path: str | Path,
    most: int | None = None,
    seed: int = 13,
    *,
    column: str | None = None,
    distinct: bool = True,
    rejects: Rejects | None = None,
) -> list[str]:
    """The sentences of a normal set in the order of the file, each once (``distinct=False``: as often as they come).

    A table gives its column ``column``, or else ``text``, ``sentence`` or its only column. ``most``: so many of them,
    drawn by ``seed``, in that order too. Raises :class:`InputError` for an empty text, or keeps it in ``rejects`` where
    that is given.
    """
    path = Path(path)
    if most is not None and most < 1:
        raise InputError("too few sentences are asked for", place="most", given=most, allowed="1 or more")
    before = len(rejects or ())
    if ending_of(path) == ".pkl":
        content = read_pickle(path)
        if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
            raise InputError(
                "this pickle is no normal set",
                file=short_path(path),
                allowed="a list of strings",
                hint="for pairs of sentences use read_pairs",
            )
        texts = content
    else:
        table = read_table(path, rejects=rejects)
        texts = table[_text_column(table, column, path)].tolist()
    lines = RowLines(path, rejects=rejects, since=before)
    sentences = []
    for row, text in enumerate(texts):
        clean = normalise(text)
        if clean:
            sentences.append(clean)
        else:
            refuse("the text is empty", {"text": text}, path, lines, row, rejects)
    sentences = list(dict.fromkeys(sentences)) if distinct else sentences
    if not sentences:
        raise InputError("there is no sentence in this file", file=short_path(path))
    if most is None or most >= len(sentences):
        return sentences
    return [sentences[row] for row in sorted(random.Random(seed).sample(range(len(sentences)), most))]


def _text_column(table: pd.DataFrame, column: str | None, path: Path) -> str:
    names = list(table.columns)
    likely = [column] if column else [name for name in ("text", "sentence") if name in names] or names
    if likely[0] not in names or (column is None and len(likely) > 1 and likely == names):
        raise InputError(
            "which column holds the sentences?",
            file=short_path(path),
            given=column,
            allowed=names,
            hint="name it: column=…",
        )
    return likely[0]
