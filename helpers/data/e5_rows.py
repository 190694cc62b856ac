"""e5 rows made of what one has: a table of products, or a BEIR folder."""

import random
from typing import Literal

import polars as pl

from helpers.data.bm25 import BM25
from helpers.data.pairs import Pairs
from helpers.data.retrieval import RetrievalSet
from helpers.data.text import key_of
from helpers.data.triplet_making.methods import Table, basic
from helpers.data.triplet_making.sets import Columns


def e5_from_table(
    table: Table, *, query: str, document: str, category: str, seed: int = 13
) -> tuple[Pairs, pl.DataFrame]:
    """One row for each row of a table: its ``query`` cell, its ``document`` cell, another document of its category.

    Also what could not be made: row, column, reason (see :class:`helpers.data.triplet_making.sets.TripletSet`).
    """
    made = basic(table, Columns(query, category, (document,)), seed=seed)
    sides = made.supervised.to_dict(as_series=False)
    return Pairs(sides["anchor"], sides["positive"], sides["negative"]), made.rejected


def e5_from_beir(data: RetrievalSet, *, hard: Literal["similar", "random"] = "similar", seed: int = 13) -> Pairs:
    """One row for each judged pair of a retrieval set; queries whose every document is relevant give none.

    ``"similar"``: the hard negative is the irrelevant document that BM25 finds first for the query; ``"random"``: any
    irrelevant document, drawn by ``seed``. A document with the text of a relevant one counts as relevant.
    """
    draw = random.Random(seed)
    texts = {key: document.full() for key, document in data.corpus.items()}
    same = {key: key_of(text) for key, text in texts.items()}
    keys = list(texts)
    index = BM25(list(texts.values())) if hard == "similar" else None
    rows = []
    for query, grades in data.qrels.items():
        asked = data.queries[query]
        relevant = {same[document] for document in grades} | {key_of(asked)}
        others = [keys[number] for number in index.ranked(asked)] if index else draw.sample(keys, len(keys))
        negative = next((document for document in others if same[document] not in relevant), None)
        if negative is not None:
            rows += [(asked, texts[document], texts[negative]) for document in grades]
    return Pairs(*([row[side] for row in rows] for side in range(3)))
