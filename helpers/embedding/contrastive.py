"""Rows of query, document and hard negatives, and the InfoNCE loss over a batch of them.

van den Oord et al., arXiv 1807.03748; with queries, passages and their prefixes as e5 trains: Wang et al., arXiv 2212.03533.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.course.errors import InputError
from helpers.data.pairs import Pairs
from helpers.data.text import key_of
from helpers.embedding.gather import gather, gather_texts, world
from helpers.embedding.losses import info_nce

ROWS_AT_ONCE = 256
"""Rows of the similarity matrix that exist at one time: (256, M + N) instead of (B, M + N)."""


@dataclass(frozen=True)
class ContrastiveRows:
    """Training rows: `documents[i]` answers `queries[i]`, none of the texts in `negatives[i]` does.

    relevant  for each query's key, the keys of all documents that answer it (:func:`key_of`)
    left_out  hard negatives that :meth:`of_pairs` did not take, in the set that these rows are from

    Make it with :meth:`checked`, which refuses what would train wrongly.
    """

    queries: list[str]
    documents: list[str]
    negatives: list[list[str]]
    relevant: Mapping[str, frozenset[str]]
    left_out: int = 0

    @classmethod
    def checked(
        cls,
        queries: Sequence[str],
        documents: Sequence[str],
        negatives: Sequence[Sequence[str]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        known: Mapping[str, frozenset[str]] | None = None,
    ) -> ContrastiveRows:
        """Rows whose queries' other documents are known: those of the rows, and `known` (as :attr:`relevant`).

        `ids` name the rows in messages (default: their numbers).

        Raises InputError for counts that differ, an empty text, or a hard negative that answers its query.
        """
        negatives = [[] for _ in queries] if negatives is None else [list(texts) for texts in negatives]
        if not len(queries) == len(documents) == len(negatives):
            raise InputError(
                "queries, documents and hard negatives differ in number",
                given=f"{len(queries)}, {len(documents)} and {len(negatives)}",
            )
        names = [f"row {name}" for name in (ids or range(len(queries)))]
        relevant = defaultdict(set, {key: set(found) for key, found in (known or {}).items()})
        for query, document in zip(queries, documents, strict=True):
            relevant[key_of(query)].add(key_of(document))
        for name, query, document, others in zip(names, queries, documents, negatives, strict=True):
            for what, text in (("query", query), ("document", document), *(("hard negative", text) for text in others)):
                if not text.strip():
                    raise InputError(f"the {what} is empty", place=name, hint="leave the row out, or give it a text")
            for text in others:
                if key_of(text) == key_of(document):
                    raise InputError("a hard negative is the same text as its positive", place=name, given=text)
                if key_of(text) in relevant[key_of(query)]:
                    raise InputError("a hard negative is a known positive of its query", place=name, given=text)
        return cls(
            list(queries), list(documents), negatives, {key: frozenset(found) for key, found in relevant.items()}
        )

    @classmethod
    def of_pairs(cls, *sets: Pairs) -> ContrastiveRows:
        """Rows of e5 sets. A hard negative that another row names as the query's answer is left out, and counted."""
        rows = [(q, d, n) for pairs in sets for q, d, n in zip(*_sides(pairs), strict=True)]
        answers = {(key_of(q), key_of(d)) for q, d, _ in rows}
        kept = [[text for text in texts if (key_of(q), key_of(text)) not in answers] for q, _, texts in rows]
        made = cls.checked([q for q, _, _ in rows], [d for _, d, _ in rows], kept)
        return replace(made, left_out=sum(len(texts) for _, _, texts in rows) - sum(map(len, kept)))

    def __len__(self) -> int:
        return len(self.queries)

    def take(self, rows: Sequence[int]) -> ContrastiveRows:
        """The rows asked for; what is known to be relevant stays known."""
        parts = [[side[row] for row in rows] for side in (self.queries, self.documents, self.negatives)]
        return ContrastiveRows(*parts, self.relevant, self.left_out)

    def with_negatives(self, negatives: Sequence[Sequence[str]] | None) -> ContrastiveRows:
        """The same rows with other hard negatives (None: with none), checked as :meth:`checked` does."""
        return ContrastiveRows.checked(self.queries, self.documents, negatives, known=self.relevant)

    def keys(self) -> list[tuple[str, str]]:
        """What must not occur twice in a batch: each row's query and document."""
        return [(f"q {key_of(q)}", f"d {key_of(d)}") for q, d in zip(self.queries, self.documents, strict=True)]


@dataclass(frozen=True)
class FalseNegatives:
    """Candidates that a row must not be pushed away from, as coordinates (row, column) of the similarities.

    rows, columns  (P,) each
    shape          (B, C): rows, and candidates: all documents (row i's own is column i), then all hard negatives
    """

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    @property
    def share(self) -> float:
        """Masked candidates as a share of all negatives."""
        return len(self.rows) / max(1, self.shape[0] * (self.shape[1] - 1))

    def mask(self, start: int, stop: int) -> Tensor:
        """(stop - start, C) bool, True = leave out: candidates of rows `start` to `stop`."""
        mask = torch.zeros(stop - start, self.shape[1], dtype=torch.bool)
        chosen = (self.rows >= start) & (self.rows < stop)
        mask[self.rows[chosen] - start, self.columns[chosen]] = True
        return mask

    def mask_of_documents(self, start: int, stop: int) -> Tensor:
        """(stop - start, B) bool for the other direction: queries that documents `start` to `stop` answer as well."""
        mask = torch.zeros(stop - start, self.shape[0], dtype=torch.bool)
        chosen = (self.columns >= start) & (self.columns < stop)
        mask[self.columns[chosen] - start, self.rows[chosen]] = True
        return mask


def false_negatives(
    queries: Sequence[str], candidates: Sequence[str], relevant: Mapping[str, frozenset[str]]
) -> FalseNegatives:
    """Candidates that answer another row's query too, or are a row's own query or document once more.

    candidates  texts in the order of the columns: the documents of the rows, then hard negatives
    """
    where: dict[str, list[int]] = defaultdict(list)
    for column, text in enumerate(candidates):
        where[key_of(text)].append(column)
    found = []
    for row, query in enumerate(queries):
        key = key_of(query)
        for answer in {key, key_of(candidates[row]), *relevant.get(key, ())}:
            found += [(row, column) for column in where.get(answer, ()) if column != row]
    rows, columns = torch.tensor(sorted(found), dtype=torch.long).reshape(-1, 2).T
    return FalseNegatives(rows, columns, (len(queries), len(candidates)))


class InfoNCE:
    """The loss of one batch, for representations (B, H), (B, H) and (N, H) of queries, documents and hard negatives.

    Each query is to find its document among all documents and all hard negatives of the batch, those of other processes
    included; with `both_directions` each document also its query. It comes in parts over rows (`GradCache` takes them one
    by one), whose sum is the mean over this process's rows; `whole` gives that sum with its graph.

    Raises InputError where texts and vectors differ in number.
    """

    def __init__(self, batch: ContrastiveRows, temperature: float, *, both_directions: bool = False) -> None:
        self.temperature, self.both_directions = temperature, both_directions
        self.sizes = (len(batch), len(batch), sum(map(len, batch.negatives)))
        texts = gather_texts(batch.queries, batch.documents, [text for each in batch.negatives for text in each])
        self.first = world()[0] * len(batch)  # the number of this process's first row among all rows
        self.masked = false_negatives(texts[0], texts[1] + texts[2], batch.relevant)

    def __call__(self, queries: Tensor, documents: Tensor, negatives: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the loss in parts over rows; `negatives` is None where the batch has no hard negatives."""
        sizes = (len(queries), len(documents), 0 if negatives is None else len(negatives))
        if sizes != self.sizes:
            raise InputError(
                "texts and vectors differ in number (queries, documents, hard negatives)",
                given=f"vectors {sizes}",
                allowed=f"{self.sizes}",
            )
        others = None if negatives is None else gather(negatives)
        share = 0.5 if self.both_directions else 1.0
        yield from self._parts(queries, gather(documents), others, self.masked.mask, share)
        if self.both_directions:
            yield from self._parts(documents, gather(queries), None, self.masked.mask_of_documents, share)

    def _parts(
        self, asking: Tensor, answers: Tensor, others: Tensor | None, mask: Callable[[int, int], Tensor], share: float
    ) -> Iterator[Tensor]:
        for start in range(0, len(asking), ROWS_AT_ONCE):
            rows = asking[start : start + ROWS_AT_ONCE]
            first = self.first + start
            hidden = mask(first, first + len(rows)).to(rows.device)
            # in one expression: a name would hold the part's graph while the next one is computed
            yield info_nce(rows, answers, others, self.temperature, mask=hidden, first=first) * (
                share * len(rows) / len(asking)
            )

    def whole(self, *vectors: Tensor) -> Tensor:
        """The loss in one graph (without the cache)."""
        return torch.stack(list(self(*vectors))).sum()


def _sides(pairs: Pairs) -> tuple[list[str], list[str], list[list[str]]]:
    return (
        pairs.first,
        pairs.second,
        [[text] for text in pairs.negatives] if pairs.negatives else [[] for _ in pairs.first],
    )
