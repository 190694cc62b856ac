"""Triplet sets as files: texts, triplets, the rows that could not be used, and what to tell about them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from helpers.course.errors import InputError
from helpers.course.files import short_path
from helpers.course.rejects import Rejects
from helpers.data.columns import Source, slices, write_frames
from helpers.data.triplet_making.sets import TripletSet

NOT_IN_NAMES = re.compile(r'[\\/:*?"<>|\x00-\x1f\s]+')
WITHOUT_DOMAIN = "without_domain"
LONGEST_STEM = 150
"""Bytes, 50 syllables: a file system takes 255, and the longest thing added is a temporary name of some 60."""
SHOWN = 5


@dataclass(frozen=True)
class Written:
    """One set in files: the paths (None: not asked for), lines in each, the rejected rows (None: there are none)."""

    unsupervised: Path | None
    supervised: Path | None
    texts: int
    triplets: int
    rejected: Path | None


def write_set(
    made: TripletSet, source: Source, unsupervised: Path | None, supervised: Path | None, *, malformed: bool = True
) -> Written:
    """Write one set atomically; rejected rows go beside ``supervised`` (beside ``unsupervised`` where that is all).

    ``malformed=False`` leaves out the rows of the source that could not be read. Raises
    :class:`InputError` as :func:`check_outputs` does.
    """
    check_outputs(source.path, [(unsupervised, supervised)])
    rejects = _rejects(unsupervised, supervised)
    rejects.rows.extend(source.rejects.rows if malformed else [])
    by_row = made.rejected.group_by("row", "reason", maintain_order=True).agg("column")
    for row, reason, names in by_row.iter_rows():
        number = int(made.rows[row])
        what = f"{reason}: {', '.join(names)}"
        rejects.add(source.table.row(number, named=True), source.path, source.line(number), what)
    rejected = rejects.save()  # first: a set without its rejects would look complete
    texts = write_frames(unsupervised, made.texts()) if unsupervised else 0
    triplets = write_frames(supervised, slices(made.supervised)) if supervised else 0
    return Written(unsupervised, supervised, texts, triplets, rejected)


def check_outputs(data: Path, outputs: Iterable[tuple[Path | None, Path | None]]) -> None:
    """Raise :class:`InputError` where a file that will be written or removed is the table ``data``, or stands twice.

    ``outputs``: the two files of each set. The file of its rejected rows counts: it is written, or removed if old.
    """
    taken = {data.resolve()}
    for pair in outputs:
        for path in [*filter(None, pair), _rejects(*pair).path]:
            if path.resolve() in taken:
                raise InputError("this output would overwrite the input or the other output", file=short_path(path))
            taken.add(path.resolve())


def _rejects(unsupervised: Path | None, supervised: Path | None) -> Rejects:
    beside = supervised or unsupervised
    assert beside is not None
    return Rejects(beside)


def file_names(domains: Iterable[str]) -> dict[str, str]:
    """A file name for each domain: no character that a file system refuses, no name twice (also where case is
    ignored), and short enough to take an ending.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for domain in domains:
        stem = NOT_IN_NAMES.sub("_", domain).encode()[:LONGEST_STEM].decode(errors="ignore")
        stem = stem.strip("._ ") or WITHOUT_DOMAIN
        name, number = stem, 2
        while name.casefold() in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.casefold())
        names[domain] = name
    return names


def report(source: Source, sets: dict[str, TripletSet], written: list[Written]) -> str:
    """What a person wants to know after a run, in a few lines."""
    made = list(sets.values())
    wanted = sum(each.supervised.height + each.rejected.height for each in made)
    first = made[0]
    lines = [
        f"read      {sum(each.table.height for each in made):,} rows of {short_path(source.path)} ({source.encoding})",
        f"texts     {sum(each.texts for each in written):,} written",
        f"triplets  {sum(each.triplets for each in written):,} written of {wanted:,} possible",
    ]
    lines += [
        f"          {name or WITHOUT_DOMAIN}: {each.supervised.height:,}"
        for name, each in sets.items()
        if len(sets) > 1
    ]
    lines += [f"form      {first.changed:,} cells brought to NFC and single spaces"] if first.changed else []
    lines += [f"widened   {first.widened:,} negatives from outside the category"] if first.widened else []
    reasons = source.rejects.counts
    for each in made:
        reasons.update({f"{reason} ({column})": count for reason, column, count in each.reasons().iter_rows()})
    lines += [f"rejected  {count:,} x {reason}" for reason, count in reasons.most_common()]
    lines += _small(made)
    lines += [f"kept in   {short_path(each.rejected)}" for each in written if each.rejected]
    return "\n".join(lines)


def _small(made: list[TripletSet]) -> list[str]:
    """The categories that could not supply every negative, the worst first."""
    rows = [row for each in made for row in each.small_categories().iter_rows()]
    rows.sort(key=lambda row: -row[-1])
    lines = [
        f"too small category {' / '.join(map(repr, names))}: {size} rows, {missing} triplets not made"
        for *names, size, missing in rows[:SHOWN]
    ]
    if len(rows) > SHOWN:
        lines.append(f"          and {len(rows) - SHOWN} more categories")
    if rows:
        lines.append("          --widen domain or --widen file lets such a category draw from further away")
    return lines
