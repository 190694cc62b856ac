"""The four sets through ``datasets``, where the model hub can be reached; otherwise read their files."""

from collections.abc import Sequence

import pandas as pd

from helpers.course.errors import InputError
from helpers.data.benchmarks import Benchmark, benchmark_named

PARQUET = "refs/convert/parquet"
"""The hub's own conversion: two of the sets are scripts, which ``datasets`` 4 no longer runs."""
MIRRORS = {"sentence1": "premise", "sentence2": "hypothesis", "comments": "comment", "document": "text"}


def read_hub(name: str, /, **load_arguments: object) -> pd.DataFrame:
    """One of the four sets in the form of ``read_benchmark``; ``line`` counts rows from 1.

    ``load_arguments`` go to ``datasets.load_dataset`` and replace the set's own path, name, split and revision (for a
    mirror, or a folder of parquet files). Raises :class:`InputError` where columns or labels are not those of the set.
    """
    import datasets

    benchmark = benchmark_named(name)
    path, configuration, split = benchmark.hub
    given = {"path": path, "name": configuration, "split": split, "revision": PARQUET} | load_arguments
    data = datasets.load_dataset(**given)
    label = next((column for column in (benchmark.label_column, "label") if column in data.column_names), None)
    if label is None:
        raise InputError("this data set has no label column", file=str(path), given=", ".join(data.column_names))
    texts = dict(zip(benchmark.text_columns, _texts(benchmark, data.column_names), strict=True))
    name_of = getattr(data.features[label], "int2str", str)
    known = dict(benchmark.labels) | {each: each for each in benchmark.classes}
    values = [name_of(value) for value in data[label]]
    if unknown := sorted(set(values) - set(known)):
        raise InputError("this label does not exist", file=str(path), given=unknown[0], allowed=list(known))
    table = pd.DataFrame({column: list(data[source]) for column, source in texts.items()})
    return table.assign(label=[known[value] for value in values], line=range(1, len(table) + 1))


def _texts(benchmark: Benchmark, columns: Sequence[str]) -> list[str]:
    """The text columns on the hub: under the set's own names, or under those of common mirrors."""
    found = [name if name in columns else MIRRORS.get(name, name) for name in benchmark.text_columns]
    if missing := [name for name in found if name not in columns]:
        raise InputError(
            f"this data set lacks the column {', '.join(missing)}",
            file=benchmark.hub[0],
            given=", ".join(columns),
            allowed=list(benchmark.text_columns),
        )
    return found
