"""Retrieval sets: e5 rows (query, document, hard negative) and BEIR folders (corpus, queries, relevance judgements).

Both are read strictly. What is wrong (an id that nobody knows, an id twice, an empty text) is named, or kept in
``rejects``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.course.errors import InputError
from helpers.course.files import atomic_write, read_jsonl, read_table, short_path, write_jsonl
from helpers.course.rejects import Rejects
from helpers.data.pairs import Pairs, read_pairs
from helpers.data.places import RowLines, refuse
from helpers.data.text import key_of, normalise

E5_COLUMNS = ("query", "document", "hard_negative")
QRELS_COLUMNS = ("query-id", "corpus-id", "score")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Document:
    """A text of the corpus; many have no title."""

    title: str
    text: str

    def full(self) -> str:
        """Title and text as one, the way a document is embedded."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class RetrievalSet:
    """Documents and queries by id; ``qrels[query][document]`` is a grade above 0; ``splits[query]`` where it is known."""

    corpus: dict[str, Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    splits: dict[str, str] = field(default_factory=dict)

    def of_split(self, split: str) -> "RetrievalSet":
        """The queries of one split and their judgements, with the whole corpus."""
        names = sorted(set(self.splits.values()))
        if split not in names:
            raise InputError(
                "this retrieval set has no such split", given=split, allowed=names or "none: it has no splits"
            )
        return self.of_queries(key for key in self.queries if self.splits.get(key) == split)

    def of_queries(self, keys: Iterable[str]) -> "RetrievalSet":
        """These queries with their judgements and splits, and the whole corpus. Raises KeyError for an unknown id."""
        queries = {key: self.queries[key] for key in keys}
        known = ({key: part[key] for key in queries if key in part} for part in (self.qrels, self.splits))
        return RetrievalSet(self.corpus, queries, *known)


def read_e5(path: str | Path, *, rejects: Rejects | None = None) -> Pairs:
    """e5 rows as pairs: ``first`` queries, ``second`` documents, ``negatives`` hard negatives.

    Beyond an empty text, a row is refused when two of its three texts are the same but for spaces, punctuation and case.
    """
    path, before = Path(path), len(rejects or ())
    pairs = read_pairs(path, rejects=rejects)
    if pairs.negatives is None:
        raise InputError("e5 rows need three texts", file=short_path(path), allowed=E5_COLUMNS)
    lines = RowLines(path, rejects=rejects, since=before)  # without those that read_pairs refused
    good = []
    for row, texts in enumerate(pairs.texts()):
        if len(set(map(key_of, texts))) == len(texts):
            good.append(row)
            continue
        why, values = "two texts of this row are the same", dict(zip(E5_COLUMNS, texts, strict=True))
        refuse(why, values, path, lines, row, rejects, " | ".join(texts))
    if not good:
        raise InputError(
            "there is no e5 row in this file", file=short_path(path), given=rejects.summary() if rejects else None
        )
    return pairs.take(good)


def write_e5(path: str | Path, pairs: Pairs) -> Path:
    """Write e5 rows as jsonl, atomically."""
    return write_jsonl(path, (dict(zip(E5_COLUMNS, texts, strict=True)) for texts in pairs.texts()))


def read_beir(folder: str | Path, split: str | None = None, *, rejects: Rejects | None = None) -> RetrievalSet:
    """Read a BEIR folder: ``corpus.jsonl``, ``queries.jsonl`` (also ``.gz``), ``qrels/<split>.tsv`` or one ``qrels.tsv``.

    Splits come from the names below ``qrels/``, or from a key ``split`` of the queries. ``split`` takes one of them.
    Raises :class:`InputError` for the first fault; with ``rejects``, faulty lines are kept there and the rest returned.
    """
    folder = Path(folder)
    corpus_rows = _objects(_file(folder, "corpus.jsonl"), rejects, titled=True)
    query_rows = _objects(_file(folder, "queries.jsonl"), rejects)
    corpus = {
        key: Document(normalise(row.get("title") or ""), normalise(row["text"])) for key, row in corpus_rows.items()
    }
    queries = {key: normalise(row["text"]) for key, row in query_rows.items()}
    splits = {key: row["split"] for key, row in query_rows.items() if isinstance(row.get("split"), str)}
    qrels: dict[str, dict[str, int]] = {}
    for path in _qrels_files(folder):
        for query, document, grade in _judgements(path, corpus, queries, splits, rejects):
            if grade > 0:
                qrels.setdefault(query, {})[document] = grade
    if not qrels:
        raise InputError("no query has a relevant document", file=short_path(folder))
    whole = RetrievalSet(corpus, queries, qrels, splits)
    return whole if split is None else whole.of_split(split)


def write_beir(folder: str | Path, data: RetrievalSet) -> Path:
    """Write a BEIR folder, each file atomically: qrels by split where splits are known, else all as ``qrels/test.tsv``.

    Judgements of an older set below ``qrels/`` are removed: they speak of other queries. Raises :class:`InputError`,
    before anything is written, for an id that could not be read back.
    """
    folder = Path(folder)
    for key in (*data.corpus, *data.queries):
        if not key or set(key) & set("\t\r\n"):
            raise InputError("this id cannot be written", given=key, allowed="text without tabs and line breaks")
    documents = ({"_id": key, "title": each.title, "text": each.text} for key, each in data.corpus.items())
    write_jsonl(folder / "corpus.jsonl", documents)
    queries = (
        {"_id": key, "text": text} | ({"split": data.splits[key]} if key in data.splits else {})
        for key, text in data.queries.items()
    )
    write_jsonl(folder / "queries.jsonl", queries)
    written = dict.fromkeys(data.splits.get(key, SPLITS[-1]) for key in data.qrels)
    for path in (folder / "qrels").glob("*.tsv"):
        if path.stem not in written:
            path.unlink()
    for split in written:
        with atomic_write(folder / "qrels" / f"{split}.tsv") as file:
            file.write("\t".join(QRELS_COLUMNS) + "\n")
            for query, grades in data.qrels.items():
                if data.splits.get(query, SPLITS[-1]) == split:
                    file.writelines(f"{query}\t{document}\t{grade}\n" for document, grade in grades.items())
    return folder


def _file(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else "nothing: there is no such folder"
    raise InputError(f"this is no BEIR folder: {name} is missing", file=short_path(folder), given=there)


def _qrels_files(folder: Path) -> list[Path]:
    files = sorted((folder / "qrels").glob("*.tsv")) or [path for path in [folder / "qrels.tsv"] if path.is_file()]
    if not files:
        raise InputError(
            "this is no BEIR folder: the judgements are missing",
            file=short_path(folder),
            allowed="qrels/train.tsv, qrels/dev.tsv, qrels/test.tsv, or qrels.tsv",
        )
    return files


def _objects(path: Path, rejects: Rejects | None, *, titled: bool = False) -> dict[str, dict[str, Any]]:
    """The objects of a jsonl file by ``_id``: an id is text and stands once, ``text`` is not empty.

    ``titled``: a title may stand in for the text, as in a corpus; a query is its text.
    """
    found: dict[str, dict[str, Any]] = {}
    before = len(rejects or ())
    rows = read_jsonl(path, rejects=rejects)
    line = RowLines(path, rejects=rejects, since=before)
    for number, row in enumerate(rows):
        key, text = row.get("_id"), row.get("text")
        if not isinstance(key, str) or not key:
            why = "a row without an id: the key _id must hold text"
        elif key in found:
            why = "this id stands twice"
        elif not isinstance(text, str) or not isinstance(row.get("title") or "", str):
            why = "the key text must hold text, and so must title where it is there"
        elif not normalise(text) and not (titled and normalise(row.get("title") or "")):
            why = "the text is empty"
        else:
            found[key] = row
            continue
        refuse(why, row, path, line, number, rejects, key)
    return found


def _judgements(
    path: Path,
    corpus: Mapping[str, Any],
    queries: Mapping[str, Any],
    splits: dict[str, str],
    rejects: Rejects | None,
) -> list[tuple[str, str, int]]:
    """The lines of a qrels file: known ids, a whole number from 0 up, no pair twice, no query of another split.

    A file below ``qrels/`` gives its name to the split of its queries, which is noted in ``splits``.
    """
    before = len(rejects or ())
    table = read_table(path, quoted=False, rejects=rejects)
    if tuple(table.columns) != QRELS_COLUMNS:
        raise InputError(
            "these are no judgements",
            file=short_path(path),
            place="line 1",
            given=", ".join(table.columns),
            allowed="tab-separated: " + ", ".join(QRELS_COLUMNS),
        )
    split = path.stem if path.parent.name == "qrels" else None
    line = RowLines(path, quoted=False, rejects=rejects, since=before)
    found: dict[tuple[str, str], int] = {}
    for number, (query, document, grade) in enumerate(table.itertuples(index=False)):
        if query not in queries:
            why, given = "queries.jsonl has no query with this id", query
        elif document not in corpus:
            why, given = "corpus.jsonl has no document with this id", document
        elif not grade.isascii() or not grade.isdigit():
            why, given = "a grade is a whole number from 0 up", grade
        elif (query, document) in found:
            why, given = "this query and document were judged before", f"{query} {document}"
        elif split is not None and splits.setdefault(query, split) != split:
            why, given = (
                f"this query belongs to the split {splits[query]}: no query may be trained and tested on",
                query,
            )
        else:
            found[query, document] = int(grade)
            continue
        row = dict(zip(QRELS_COLUMNS, (query, document, grade), strict=True))
        refuse(why, row, path, line, number, rejects, given)
    return [(query, document, grade) for (query, document), grade in found.items()]
