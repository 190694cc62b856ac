"""Three ways from a table to (anchor, positive, negative): basic, domainwise, fused.

A hard negative is another text of the anchor's category. It is never the anchor nor any positive of it, compared by
value over the whole table (also where texts repeat in different rows); within a row no negative comes twice; draws are
seeded. Nothing is lost: what could not be made is in ``rejected``, with the reason.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
import polars as pl
from pandas.api.types import infer_dtype

from helpers.course.errors import InputError
from helpers.data.columns import normal_names
from helpers.data.text import normalise_columns
from helpers.data.triplet_making.negatives import NONE, UNWANTED, Values, draw_negatives
from helpers.data.triplet_making.sets import (
    NO_ANCHOR,
    NO_CATEGORY,
    NO_DOMAIN,
    NO_POSITIVE,
    REASONS,
    SAME,
    TOO_SMALL,
    Columns,
    TripletSet,
    by_domain,
    joined,
)

Table = pl.DataFrame | pd.DataFrame
Widen = Literal["none", "domain", "file"]
NegativesFrom = Literal["positive", "anchor"]


def basic(
    table: Table,
    columns: Columns,
    *,
    seed: int = 13,
    widen: Widen = "none",
    negatives_from: NegativesFrom = "positive",
) -> TripletSet:
    """One pair for each row and positive column, with one negative each.

    ``negatives_from="positive"`` takes the same column of another row, so that form gives nothing away;
    ``"anchor"`` takes another row's anchor. ``widen`` lets a category that is too small draw from its domain or from
    the whole table. A category counts over the whole table; ``columns.domain`` serves ``widen`` alone.
    """
    table, changed = _prepared(table, columns)
    texts = {name: table[name] for name in columns.positives}
    groups = _groups(table, columns, [columns.category], widen)
    return _made(table, columns, texts, 1, groups, seed, negatives_from, changed)


def domainwise(
    table: Table,
    columns: Columns,
    *,
    seed: int = 13,
    widen: Widen = "none",
    negatives_from: NegativesFrom = "positive",
) -> dict[str, TripletSet]:
    """As :func:`basic`, with categories kept apart by domain: a set for each domain, in order of appearance.

    Rows without a domain are all rejected, in the set named ``""``.
    """
    table, changed = _prepared(table, columns)
    texts = {name: table[name] for name in columns.positives}
    groups = _groups(table, columns, [columns.domain_column(), columns.category], widen)
    return by_domain(_made(table, columns, texts, 1, groups, seed, negatives_from, changed, apart=True))


def fused(
    table: Table,
    columns: Columns,
    *,
    num_negatives: int = 5,
    seed: int = 13,
    widen: Widen = "none",
    negatives_from: NegativesFrom = "positive",
) -> TripletSet:
    """One line for each row: all its positives in one string, and ``num_negatives`` different negatives.

    A negative is the fused string of another row (or with ``"anchor"`` its anchor). With a domain column, categories
    are kept apart by domain; split the result with :func:`helpers.data.triplet_making.sets.by_domain`.
    """
    if num_negatives < 1:
        raise InputError(
            "too few negatives are asked for", place="num_negatives", given=num_negatives, allowed="1 or more"
        )
    table, changed = _prepared(table, columns)
    texts = {", ".join(columns.positives): table.select(joined(table, columns.positives)).to_series()}
    names = [columns.domain, columns.category] if columns.domain else [columns.category]
    groups = _groups(table, columns, names, widen)
    parts = [table[name] for name in columns.positives]
    apart = columns.domain is not None
    return _made(table, columns, texts, num_negatives, groups, seed, negatives_from, changed, apart, parts)


def _prepared(table: Table, columns: Columns) -> tuple[pl.DataFrame, int]:
    """The table as polars text columns in the normal form, checked, and how many cells that changed."""
    if isinstance(table, pd.DataFrame):
        for name in table.select_dtypes("object"):
            if (kind := infer_dtype(table[name])) not in ("string", "empty"):
                raise InputError("this column holds no text", place=f"column {name}", given=kind, allowed="text")
        table = pl.from_pandas(table)
    for name, kind in table.schema.items():
        if kind != pl.String:
            raise InputError("this column holds no text", place=f"column {name}", given=str(kind), allowed="text")
    table = normal_names(table)
    columns.check(table)
    table, changed = normalise_columns(table)
    columns.check(table)
    return table, changed


def _groups(table: pl.DataFrame, columns: Columns, names: list[str], widen: Widen) -> Iterator[np.ndarray]:
    """From where each row may draw, narrow to wide: (N,) int64 each, -1 where a naming cell is empty."""
    if widen not in get_args(Widen):
        raise InputError("no such way to widen", place="widen", given=widen, allowed=get_args(Widen))
    if widen == "domain":
        columns.domain_column()
    yield _codes(table, names)
    if widen != "none" and columns.domain:
        yield _codes(table, [columns.domain])
    if widen == "file":
        yield np.zeros(table.height, dtype=np.int64)


def _codes(table: pl.DataFrame, names: list[str]) -> np.ndarray:
    key = table.select(pl.struct(list(dict.fromkeys(names))).hash(seed=0)).to_series().to_numpy()
    codes = np.unique(key, return_inverse=True)[1].astype(np.int64)
    empty = table.select(pl.any_horizontal(pl.col(name) == "" for name in dict.fromkeys(names))).to_series().to_numpy()
    return np.where(empty, -1, codes)


def _made(
    table: pl.DataFrame,
    columns: Columns,
    texts: dict[str, pl.Series],
    each: int,
    groups: Iterator[np.ndarray],
    seed: int,
    negatives_from: NegativesFrom,
    changed: int,
    apart: bool = False,
    parts: Sequence[pl.Series] = (),
) -> TripletSet:
    """Pair every row (N) with every text (U) and ``each`` negatives: S = U * each slots a row.

    ``parts`` are positives too, so that none becomes a negative, but no pair is made with them.
    """
    if negatives_from not in get_args(NegativesFrom):
        raise InputError(
            "no such source of negatives", place="negatives_from", given=negatives_from, allowed=get_args(NegativesFrom)
        )
    if seed < 0:
        raise InputError("a seed is a whole number from 0 up", place="seed", given=seed)
    anchor, count = table[columns.anchor], len(texts)
    bank = [*texts.values(), *parts, anchor]
    values = Values(
        ids=np.column_stack([text.hash(seed=0).to_numpy() for text in bank]),
        present=np.column_stack([(text != "").to_numpy() for text in bank]),
    )
    why = _refused(table, columns, values, count, apart)
    slots = np.repeat(np.full(count, len(bank) - 1) if negatives_from == "anchor" else np.arange(count), each)
    chosen = np.where(np.repeat(why > 0, each, axis=1), UNWANTED, NONE)
    rng, widened = np.random.default_rng(seed), 0
    for level, places in enumerate(groups):
        before = (chosen >= 0).sum()
        chosen = draw_negatives(values, slots.tolist(), places, rng, chosen)
        widened += int((chosen >= 0).sum() - before) if level else 0
    lacking = ~(chosen >= 0).reshape(table.height, count, each).all(axis=2) & (why == 0)
    no_category = (table[columns.category] == "").to_numpy()[:, None]
    why = np.where(lacking, np.where(no_category, REASONS.index(NO_CATEGORY), REASONS.index(TOO_SMALL)), why)
    rows, units = np.nonzero(why == 0)
    one = pl.concat(bank, rechunk=True)
    picked = [anchor.gather(rows).alias("anchor"), one.gather(units * table.height + rows).alias("positive")]
    for number in range(each):
        slot = units * each + number
        name = "negative" if each == 1 else f"negative_{number + 1}"
        picked.append(one.gather(slots[slot] * table.height + chosen[rows, slot]).alias(name))
    rejected = _rejected(why, list(texts))
    return TripletSet(table, np.arange(len(why)), pl.DataFrame(picked), rejected, rows, columns, widened, changed)


def _refused(table: pl.DataFrame, columns: Columns, values: Values, count: int, apart: bool) -> np.ndarray:
    """(N, count) int8: 0 where nothing stands against a pair, else a place in ``REASONS``."""
    why = np.zeros((table.height, count), dtype=np.int8)
    why[values.ids[:, :count] == values.ids[:, -1:]] = REASONS.index(SAME)
    why[~values.present[:, :count]] = REASONS.index(NO_POSITIVE)
    if apart:
        why[(table[columns.domain_column()] == "").to_numpy()] = REASONS.index(NO_DOMAIN)
    why[~values.present[:, -1]] = REASONS.index(NO_ANCHOR)
    return why


def _rejected(why: np.ndarray, names: list[str]) -> pl.DataFrame:
    rows, units = np.nonzero(why)
    reasons = pl.Series("reason", REASONS).gather(why[rows, units])
    return pl.DataFrame([pl.Series("row", rows), pl.Series("column", names).gather(units), reasons])
