"""The four sets through ``datasets``, where the model hub can be reached; otherwise read their files."""

from collections.abc import Sequence

import pandas as pd

from helpers.course.errors import InputError
from helpers.course.rejects import Rejects
from helpers.data.benchmarks import Benchmark, benchmark_named

PARQUET = "refs/convert/parquet"
"""The hub's own conversion: two of the sets are scripts, which ``datasets`` 4 no longer runs."""
MIRRORS = {"sentence1": "premise", "sentence2": "hypothesis", "comments": "comment", "document": "text"}


def read_hub(name: str, rejects: Rejects | None = None, /, **load_arguments: object) -> pd.DataFrame:
    """One of the four sets in the form of ``read_benchmark``; ``line`` counts rows from 1.

    ``load_arguments`` go to ``datasets.load_dataset`` and replace the set's own path, name, split and revision (for a
    mirror, or a folder of parquet files). Raises :class:`InputError` where the hub cannot be reached, where columns or
    labels are not those of the set, where no row is left, and for a row without text, which goes to ``rejects`` where
    they are given.
    """
    import datasets

    benchmark = benchmark_named(name)
    given = dict(zip(("path", "name", "split"), benchmark.hub, strict=True)) | {"revision": PARQUET} | load_arguments
    path = str(given["path"])
    try:
        data = datasets.load_dataset(**given)
    except OSError as error:  # no connection, or no such set
        raise InputError(
            f"the model hub gives no {benchmark.title}",
            file=path,
            hint=f"download it from {benchmark.source} and name its folder as data_dir; "
            f"it says: {str(error).strip().splitlines()[0]}",
        ) from error
    label = next((column for column in (benchmark.label_column, "label") if column in data.column_names), None)
    if label is None:
        raise InputError("this data set has no label column", file=path, given=", ".join(data.column_names))
    texts = dict(zip(benchmark.text_columns, _texts(benchmark, data.column_names, path), strict=True))
    names = dict(enumerate(getattr(data.features[label], "names", ())))  # -1, no label, has none
    known = dict(benchmark.labels) | {each: each for each in benchmark.classes}
    values = [names.get(value, str(value)) for value in data[label]]
    if unknown := sorted(set(values) - set(known)):
        raise InputError("this label does not exist", file=path, given=unknown[0], allowed=list(known))
    table = pd.DataFrame({column: list(data[source]) for column, source in texts.items()}).fillna("")
    table = table.assign(label=[known[value] for value in values], line=range(1, len(table) + 1))
    empty = ~table[list(texts)].apply(lambda column: column.str.strip()).all(axis=1)
    for row in table[empty].to_dict("records"):
        if rejects is None:
            raise InputError("a text is empty", file=path, place=f"row {row['line']}")
        rejects.add(row, path, row["line"], "a text is empty")
    if empty.all():
        raise InputError(
            f"this split of {benchmark.title} holds no row to ask about",
            file=path,
            given=rejects.summary() if rejects else None,
        )
    return table[~empty].reset_index(drop=True)


def _texts(benchmark: Benchmark, columns: Sequence[str], path: str) -> list[str]:
    """The text columns on the hub: under the set's own names, or under those of common mirrors."""
    found = [name if name in columns else MIRRORS.get(name, name) for name in benchmark.text_columns]
    if missing := [name for name in found if name not in columns]:
        raise InputError(
            f"this data set lacks the column {', '.join(missing)}",
            file=path,
            given=", ".join(columns),
            allowed=list(benchmark.text_columns),
        )
    return found
