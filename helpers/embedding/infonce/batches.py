"""A batch of contrastive rows as a model reads it: token ids of queries, documents and hard negatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from helpers.course.errors import InputError
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.encoder import Encoder


@dataclass(frozen=True)
class Batch:
    """Rows, the token ids of their three sides (hard negatives in one list), and the rows' numbers where they have any."""

    rows: ContrastiveRows
    sides: list[list[list[int]]]
    numbers: Sequence[int] = ()

    @classmethod
    def of(cls, rows: ContrastiveRows, tokens: dict[tuple[str, str], list[int]], numbers: Sequence[int] = ()) -> Self:
        """Rows whose texts are among `token_ids`."""
        negatives = [text for texts in rows.negatives for text in texts]
        sides = [[tokens["query", text] for text in rows.queries]]
        sides += [[tokens["document", text] for text in texts] for texts in (rows.documents, negatives) if texts]
        return cls(rows, sides, numbers)


def batch_of(encoder: Encoder, rows: ContrastiveRows) -> Batch:
    """Rows with the token ids of their sides: what the trainer's `collate` makes."""
    return Batch.of(rows, token_ids(encoder, rows))


def token_ids(encoder: Encoder, rows: ContrastiveRows) -> dict[tuple[str, str], list[int]]:
    """Token ids of every text under its prompt, made once: ("query", text) and ("document", text)."""
    documents = {*rows.documents, *(text for texts in rows.negatives for text in texts)}
    made = {}
    for prompt, texts in (("query", sorted(set(rows.queries))), ("document", sorted(documents))):
        made |= {(prompt, text): ids for text, ids in zip(texts, encoder.tokenize(texts, prompt), strict=True)}
    return made


def refuse_long_rows(rows: ContrastiveRows, tokens: dict[tuple[str, str], list[int]], budget: int) -> None:
    """Raise InputError, naming rows, where a text alone is longer than a chunk: an epoch later it would end the run."""
    sides = zip(rows.queries, rows.documents, rows.negatives, strict=True)
    longest = [
        max(len(tokens["query", query]), *(len(tokens["document", text]) for text in (document, *negatives)))
        for query, document, negatives in sides
    ]
    if long := [number for number, length in enumerate(longest) if length > budget]:
        raise InputError(
            "the token budget of a chunk is smaller than the longest text",
            place=", ".join(f"row {number} ({longest[number]} tokens)" for number in long[:5]),
            given=f"chunk_tokens {budget}; {len(long)} of {len(rows)} rows have a longer text",
            allowed=f"chunk_tokens of at least {max(longest)}",
            hint="raise it, or cut texts with a smaller max_length",
        )


def refuse_unequal_negatives(rows: ContrastiveRows) -> None:
    """Raise InputError, naming rows, where several processes could not gather: their vectors must be as many in each."""
    counts = Counter(map(len, rows.negatives))
    if len(counts) > 1:
        usual = counts.most_common(1)[0][0]
        odd = [number for number, texts in enumerate(rows.negatives) if len(texts) != usual]
        raise InputError(
            "several processes need the same number of hard negatives in every row",
            place=", ".join(f"row {number} ({len(rows.negatives[number])})" for number in odd[:5]),
            given=f"{len(odd)} of {len(rows)} rows have another number than {usual}, which most have",
            hint=f"leave these rows out, or set hard_negatives to {min(counts)}",
        )
