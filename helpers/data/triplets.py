"""From a table to training sets of triplets: the command, and the door to the functions behind it.

    python -m helpers.data.triplets basic --data_path sample_data/products/products.csv \\
        --desc_col description --category_col category --positive_cols name features question \\
        --output_unsupervised outputs/texts.csv --output_supervised outputs/triplets.csv

basic       one pair for each positive column, each with one negative
domainwise  the same, a file for each domain                            (--domain_col, --output_dir)
fused       all positives in one string, several negatives, one row for each anchor       (--num_negatives)

The ending of an output's name chooses the format: .csv, .tsv, .jsonl or .parquet. Rows that could not be used stand with
their reason in ``<output>.rejected.jsonl``. The methods themselves are in ``triplet_methods.py``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.machine import measure
from helpers.data.columns import read_source
from helpers.data.triplet_files import Written, file_names, write_set
from helpers.data.triplet_methods import basic, domainwise, fused
from helpers.data.triplet_sets import Columns, TripletSet, by_domain

__all__ = ["Columns", "TripletSet", "Written", "basic", "by_domain", "domainwise", "fused", "main", "write_set"]

METHODS = {
    "basic": "one pair for each positive column, each with one negative",
    "domainwise": "the same, a file for each domain",
    "fused": "all positives in one string, several negatives, one row for each anchor",
}


def main(arguments: Sequence[str] | None = None) -> list[Written]:
    """Run the command; returns what was written. Raises :class:`InputError` for input that does not fit."""
    told = _parser().parse_args(arguments)
    positives = tuple(name.strip() for part in told.positive_cols for name in part.split(",") if name.strip())
    columns = Columns(told.desc_col, told.category_col, positives, told.domain_col)
    targets = _targets(told)
    with measure() as measured:
        source = read_source(told.data_path, told.encoding)
        columns.check(source.table, str(told.data_path))
        options = {"seed": told.seed, "widen": told.widen, "negatives_from": told.negatives_from}
        if told.method == "basic":
            sets = {"": basic(source.table, columns, **options)}
        elif told.method == "domainwise":
            sets = domainwise(source.table, columns, **options)
        else:
            made = fused(source.table, columns, num_negatives=told.num_negatives, **options)
            sets = by_domain(made) if columns.domain and told.output_dir else {"all": made}
        names = file_names(sets)
        written = [
            write_set(made, source, *(targets or _in_folder(told, names[domain]))) for domain, made in sets.items()
        ]
    print(_report(told, source, sets, written))
