"""Small before-and-after examples: a query, a few document titles, and which of them is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from helpers.course.errors import InputError
from helpers.course.files import read_jsonl, short_path
from helpers.data.text import normalise
from helpers.embedding.sentence_recipe import unit_vectors


@dataclass(frozen=True)
class TitleExample:
    """``documents[answer]`` is the right one."""

    language: str
    query: str
    documents: tuple[str, ...]
    answer: int


def read_examples(path: str | Path) -> list[TitleExample]:
    """Read jsonl rows with language, query, documents and answer (from 0). Raises InputError with the row's number."""
    found = []
    for number, row in enumerate(read_jsonl(path), 1):
        documents, answer, query = row.get("documents"), row.get("answer"), row.get("query")
        texts = [query, *documents] if isinstance(documents, list) else [query]
        if not all(isinstance(text, str) and normalise(text) for text in texts) or len(texts) < 3:
            why = "an example needs a query and at least two documents, none of them empty"
        elif not isinstance(answer, int) or not 0 <= answer < len(documents):
            why = "answer is the number of the right document, from 0"
        else:
            found.append(
                TitleExample(row.get("language", ""), normalise(query), tuple(map(normalise, documents)), answer)
            )
            continue
        raise InputError(why, file=short_path(path), place=f"row {number}", given=str(row))
    return found


def example_scores(model: SentenceTransformer, example: TitleExample, *, prompts: bool = True) -> np.ndarray:
    """The cosine of the query with each document, (documents,)."""
    query, document = ("query", "document") if prompts else (None, None)
    return unit_vectors(model, example.documents, document) @ unit_vectors(model, [example.query], query)[0]


def answered_first(model: SentenceTransformer, examples: Sequence[TitleExample], *, prompts: bool = True) -> int:
    """How many examples have their right document first."""
    return sum(int(example_scores(model, each, prompts=prompts).argmax()) == each.answer for each in examples)


def mean_margin(model: SentenceTransformer, examples: Sequence[TitleExample], *, prompts: bool = True) -> float:
    """Mean over examples of: cosine of the right document less that of the best wrong one (below 0: a wrong one wins)."""
    margins = []
    for each in examples:
        scores = example_scores(model, each, prompts=prompts)
        margins.append(scores[each.answer] - np.delete(scores, each.answer).max())
    return float(np.mean(margins))
