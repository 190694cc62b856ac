"""From a csv to training sets of triplets, as functions and as a command.

    python -m helpers.data.triplets basic --data_path sample_data/products/products.csv \\
        --desc_col description --category_col category --positive_cols name features question \\
        --output_unsupervised outputs/texts.csv --output_supervised outputs/triplets.csv

basic       one pair for each positive column, each with one negative
domainwise  the same, a file for each domain (--domain_col, --output_dir)
fused       all positives in one string, --num_negatives negatives, one row for each anchor (--output_dir)

Endings choose the format: .csv, .tsv, .jsonl or .parquet. Rows that could not be used stand with their reason in
``<output>.rejected.jsonl``. The methods themselves are in ``triplet_methods.py``.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.files import short_path
from helpers.course.machine import measure
from helpers.course.rejects import Rejects
from helpers.data.columns import Source, read_source, slices, write_frames
from helpers.data.triplet_methods import basic, domainwise, fused
from helpers.data.triplet_sets import Columns, TripletSet, by_domain

__all__ = ["Columns", "TripletSet", "Written", "basic", "by_domain", "domainwise", "fused", "main", "write_set"]

FORBIDDEN_IN_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f\s]+')


@dataclass(frozen=True)
class Written:
    """One set as files: how many texts and triplets were written, and where the rest stands."""

    unsupervised: Path | None
    supervised: Path | None
    texts: int
    triplets: int
    rejected: Path | None
    made: TripletSet


def write_set(made: TripletSet, source: Source, unsupervised: Path | None, supervised: Path | None) -> Written:
    """Write one set atomically. Rejected rows stand beside ``supervised`` (or ``unsupervised`` where that is all there is)."""
    texts = write_frames(unsupervised, made.texts()) if unsupervised else 0
    triplets = write_frames(supervised, slices(made.supervised)) if supervised else 0
    return Written(unsupervised, supervised, texts, triplets, None, made)
