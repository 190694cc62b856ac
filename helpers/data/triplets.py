"""From a table to training sets of triplets: the command, and the door to the functions behind it.

    python -m helpers.data.triplets basic --data_path sample_data/products/products.csv \\
        --desc_col description --category_col category --positive_cols name features question \\
        --output_unsupervised outputs/texts.csv --output_supervised outputs/triplets.csv

basic       one pair for each positive column, each with one negative
domainwise  the same, a file for each domain                            (--domain_col, --output_dir)
fused       all positives in one string, several negatives, one row for each anchor       (--num_negatives)

The ending of an output's name chooses the format: .csv, .tsv, .jsonl or .parquet. Rows that could not be used stand
with their reason in ``<output>.rejected.jsonl``. The methods themselves are in ``triplet_making/methods.py``.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.course.errors import InputError
from helpers.course.files import short_path
from helpers.course.machine import peak_memory_mb
from helpers.course.tables import WRITABLE
from helpers.data.columns import Source, read_source
from helpers.data.triplet_making.files import Written, check_outputs, file_names, report, write_set
from helpers.data.triplet_making.methods import basic, domainwise, fused
from helpers.data.triplet_making.sets import Columns, TripletSet, by_domain

__all__ = ["Columns", "TripletSet", "Written", "basic", "by_domain", "domainwise", "fused", "main", "write_set"]

ALL = " all "
"""The set that is not split by domain; no domain can be this, for cells have no space at their ends."""
METHODS = {
    "basic": "one pair for each positive column, each with one negative",
    "domainwise": "the same, a file for each domain",
    "fused": "all positives in one string, several negatives, one row for each anchor",
}


def main(arguments: Sequence[str] | None = None) -> list[Written]:
    """Run the command and print its report. Raises :class:`InputError` for input that does not fit."""
    told = _parser().parse_args(arguments)
    positives = tuple(name.strip() for part in told.positive_cols for name in part.split(",") if name.strip())
    columns = Columns(told.desc_col, told.category_col, positives, told.domain_col)
    _check_outputs(told)
    start = time.perf_counter()
    source = read_source(told.data_path, told.encoding)
    columns.check(source.table, short_path(told.data_path))
    sets = _made(told, source, columns)
    written = _written(told, source, sets)
    seconds = time.perf_counter() - start
    print(report(source, sets, written))
    speed = source.table.height / seconds
    print(f"time      {seconds:.1f} s, {speed:,.0f} rows/s, peak {peak_memory_mb():,.0f} MB")
    return written


def _made(told: argparse.Namespace, source: Source, columns: Columns) -> dict[str, TripletSet]:
    options = {"seed": told.seed, "widen": told.widen, "negatives_from": told.negatives_from}
    if told.method == "domainwise":
        return domainwise(source.table, columns, **options)
    if told.method == "basic":
        return {ALL: basic(source.table, columns, **options)}
    made = fused(source.table, columns, num_negatives=told.num_negatives, **options)
    return by_domain(made) if columns.domain and told.output_dir else {ALL: made}


def _written(told: argparse.Namespace, source: Source, sets: dict[str, TripletSet]) -> list[Written]:
    if not told.output_dir:
        return [write_set(sets[ALL], source, told.output_unsupervised, told.output_supervised)]
    if source.rejects and ALL not in sets and "" not in sets:
        some = next(iter(sets.values()))
        sets[""] = some.of_rows(np.zeros(some.table.height, dtype=bool))  # malformed rows have no domain either
    outputs = {
        domain: (
            told.output_dir / f"{name}_unsupervised.{told.format}",
            told.output_dir / f"{name}_supervised.{told.format}",
        )
        for domain, name in file_names(sets).items()
    }
    check_outputs(source.path, outputs.values())
    return [write_set(sets[domain], source, *paths, malformed=domain in (ALL, "")) for domain, paths in outputs.items()]


def _check_outputs(told: argparse.Namespace) -> None:
    """Say before any work what is missing or does not go together."""
    files = [path for path in (told.output_unsupervised, told.output_supervised) if path]
    if told.output_dir and files:
        raise InputError("name either files or a folder", given=f"--output_dir {told.output_dir} and {files[0]}")
    if told.method == "domainwise" and not (told.output_dir and told.domain_col):
        raise InputError("domainwise writes a file for each domain", allowed="--domain_col and --output_dir")
    if not told.output_dir and not files:
        raise InputError("no output is named", allowed="--output_unsupervised and --output_supervised, or --output_dir")
    if told.widen == "domain" and not told.domain_col:
        raise InputError("--widen domain needs to know the domain", allowed="--domain_col")
    for path in files:
        if path.suffix.lower() not in WRITABLE:
            raise InputError("no table can be written under this name", file=short_path(path), allowed=WRITABLE)
    if files:
        check_outputs(told.data_path, [(told.output_unsupervised, told.output_supervised)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers.data.triplets",
        description="Training sets of triplets from a table (csv, tsv, jsonl, parquet).",
    )
    methods = parser.add_subparsers(dest="method", required=True, metavar="{basic,domainwise,fused}")
    for name, words in METHODS.items():
        method = methods.add_parser(name, help=words, description=words)
        add = method.add_argument
        add("--data_path", type=Path, required=True, help="the table")
        add("--encoding", help="utf-8, utf-8-sig, cp949 or euc-kr; left out, it is found and said")
        add("--desc_col", required=True, help="column of the anchors")
        add("--category_col", required=True, help="hard negatives come from rows with the same value here")
        add("--positive_cols", required=True, nargs="+", help="columns of positives, parted by spaces or commas")
        add("--domain_col", help="column of domains")
        add("--output_unsupervised", type=Path, help="file for the texts of all rows")
        add("--output_supervised", type=Path, help="file for the triplets")
        add("--output_dir", type=Path, help="folder for <domain>_unsupervised and <domain>_supervised")
        add("--format", choices=[ending[1:] for ending in WRITABLE], default="csv", help="of the files in --output_dir")
        add("--seed", type=int, default=13, help="of the draws (13)")
        add(
            "--widen",
            choices=["none", "domain", "file"],
            default="none",
            help="from where a small category may draw (none)",
        )
        add(
            "--negatives_from", choices=["positive", "anchor"], default="positive", help="what a negative is (positive)"
        )
        if name == "fused":
            add("--num_negatives", type=int, default=5, help="negatives for each anchor (5)")
    return parser


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
