"""Source files as material: the course's own rows and the public Korean sets that fit into one of the 22 tasks.

A file is known by its name (``READERS``), with or without ``.gz``; any other ``.jsonl`` that is named itself, not by its
folder, is read as finished rows: instruction, input, output and task, or KOSITP's three keys (input, with the instruction
inside, output, Task_name). Rows that cannot be used go to ``rejects`` with their line and reason. Rows that a set marks as
its dev or test side are left alone and counted.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from helpers.course.errors import InputError
from helpers.course.files import read_table, short_path
from helpers.course.jsonl import numbered_objects
from helpers.course.rejects import Rejects
from helpers.data.instruction_tasks.extras import EXTRAS, FREE, Ready, ready
from helpers.data.instruction_tasks.material import (
    ARTICLE,
    PARAPHRASE,
    SIMPLIFIED,
    Material,
    Refused,
    material,
    table_material,
)
from helpers.data.places import RowLines
from helpers.data.retrieval import read_beir

WHOLE_TEXTS = ("title_generation", "title_to_contents", "text_completion")
"""Tasks for a text with a title and nothing else."""
NAMED_TEXTS = ("title_generation", "title_to_contents")
BEIR_TITLES = {"petitions": WHOLE_TEXTS, "wikinews": WHOLE_TEXTS, "law_articles": NAMED_TEXTS}
"""Search collections whose queries are the titles of their documents."""
HELD_OUT = ("dev", "test")
NO_TRAIN_SIDE = ("kommongen",)
"""The public file has only its dev and test sides, and nothing in this course is tested on it."""

Content = Material | Ready
Reader = Callable[[Mapping[str, Any], str], Iterator[tuple[Content, tuple[str, ...] | None]]]


@dataclass(frozen=True)
class Item:
    """One material or finished row, where it stood, and the tasks that it may become (None: every one that fits)."""

    content: Content
    file: str
    line: int | None
    only: tuple[str, ...] | None = None


@dataclass
class Sources:
    """What the sources gave: items, how many held-out rows each file has, and what no reader knows."""

    items: list[Item] = field(default_factory=list)
    held_out: Counter[str] = field(default_factory=Counter)
    unread: list[str] = field(default_factory=list)


def read_sources(paths: Iterable[str | Path], rejects: Rejects) -> Sources:
    """Read files and folders (searched through). :class:`InputError` where one does not exist or nothing is usable.

    In the second case what was refused is saved.
    """
    sources = Sources()
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.exists():
            raise InputError("this source does not exist", file=short_path(path))
        for found in [path, *sorted(path.rglob("*"))]:
            name = found.name.removesuffix(".gz")
            inside = found != path and (_is_collection(found.parent) or _is_collection(found.parent.parent))
            if _is_collection(found) and found.name in BEIR_TITLES:
                sources.items += _collection_items(found, rejects)
            elif _is_collection(found):
                sources.unread.append(short_path(found))
            elif found.is_dir() or inside:
                continue
            elif name in READERS or (found == path and name.endswith(".jsonl")):
                sources.items += _file_items(found, READERS.get(name, _finished), rejects, sources.held_out)
            else:
                sources.unread.append(short_path(found))
    if not sources.items:
        rejects.save()
        names = [*READERS, *(f"{name}/" for name in BEIR_TITLES)]
        given = f"{', '.join(map(short_path, paths))}: {rejects.summary()}"
        raise InputError(
            "no source has a usable row", given=given, allowed=[*names, "any other .jsonl of finished rows"]
        )
    return sources


def _file_items(path: Path, reader: Reader, rejects: Rejects, held_out: Counter[str]) -> Iterator[Item]:
    file = short_path(path)
    for line, row in _numbered(path, rejects):
        if row.get("split") in HELD_OUT and not path.name.startswith(NO_TRAIN_SIDE):
            held_out[file] += 1
            continue
        name = f"{path.name}:{line}"
        try:
            for content, only in reader(row, name):
                if isinstance(content, Refused):
                    rejects.add(row, path, line, str(content))
                else:
                    yield Item(content, file, line, only)
        except Refused as reason:
            rejects.add(row, path, line, str(reason))


def _numbered(path: Path, rejects: Rejects) -> Iterator[tuple[int | None, Mapping[str, Any]]]:
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        yield from numbered_objects(path, rejects)
        return
    before = len(rejects)
    table = read_table(path, quoted=False, rejects=rejects)
    lines = RowLines(path, quoted=False, rejects=rejects, since=before)
    for number, row in enumerate(table.to_dict("records")):
        yield lines(number), row


def _is_collection(path: Path) -> bool:
    return path.is_dir() and any(path.glob("corpus.jsonl*"))


def _collection_items(folder: Path, rejects: Rejects) -> Iterator[Item]:
    """Titles and texts of a search collection whose queries are titles."""
    found = read_beir(folder, rejects=rejects)
    found = found.of_split("train") if found.splits else found
    pairs = [(query, document) for query, documents in found.qrels.items() for document in documents]
    for query, document in pairs:
        name = f"{folder.name}:{query}:{document}"
        fields = {"title": found.queries[query], "text": found.corpus[document].text}
        try:
            yield Item(material(ARTICLE, name, name, **fields), short_path(folder), None, BEIR_TITLES[folder.name])
        except Refused as reason:
            rejects.add({"query-id": query, "corpus-id": document} | fields, folder, None, str(reason))


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise Refused(f"the row has no text under {key!r}")
    return value


def _articles(row: Mapping[str, Any], _: str) -> Iterator[tuple[Content | Refused, None]]:
    """An article of the course: itself, its pairs, its questions. One bad part does not take the others with it."""
    name = _text(row, "id")
    whole = {key: row[key] for key in ("title", "text", "summary", "keywords") if key in row}
    parts = [(ARTICLE, whole)]
    parts += [(kind, row[kind]) for kind in (SIMPLIFIED, PARAPHRASE) if kind in row]
    questions = row.get("qa", [])
    for question in questions if isinstance(questions, list) else [questions]:
        whole = isinstance(question, Mapping)
        parts.append((question.get("kind"), {"text": row.get("text")} | question) if whole else ("qa", question))
    for number, (kind, fields) in enumerate(parts):
        try:
            if not isinstance(fields, Mapping):
                raise Refused("is no object with keys")
            fields = {key: value for key, value in fields.items() if key != "kind"}
            yield material(kind, f"{name}:{number}", name, **fields), None
        except Refused as reason:
            yield Refused(f"{kind}: {reason}"), None


def _tables(row: Mapping[str, Any], _: str) -> Iterator[tuple[Content, None]]:
    fields = {key: row[key] for key in ("title", "question", "answer") if key in row}
    yield table_material(_text(row, "id"), row.get("header"), row.get("rows"), **fields), None


def _sentences(row: Mapping[str, Any], _: str) -> Iterator[tuple[Content, None]]:
    name = _text(row, "id")
    yield material(row.get("kind"), name, name, source=_text(row, "source"), target=_text(row, "target")), None


def _petition_title(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, tuple[str, ...]]]:
    yield material(ARTICLE, name, name, title=_text(row, "output"), text=_text(row, "input")), WHOLE_TEXTS


def _simplified(source: str, target: str) -> Reader:
    def reader(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, None]]:
        yield material(SIMPLIFIED, name, name, source=_text(row, source), target=_text(row, target)), None

    return reader


def _law_questions(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, None]]:
    fields = {"question": _text(row, "instruction"), "answer": _text(row, "output")}
    yield material("abstractive_long", name, name, **fields), None


def _paraphrase_groups(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, None]]:
    """Neighbours of a group as pairs: ten sentences give nine pairs, and no sentence is asked for twice."""
    sentences = row.get("sentences")
    if not isinstance(sentences, list) or not all(isinstance(text, str) for text in sentences):
        raise Refused("the row has no list of texts under 'sentences'")
    for number, (source, target) in enumerate(pairwise(sentences)):
        yield material(PARAPHRASE, f"{name}:{number}", name, source=source, target=target), None


def _extra(task: str) -> Reader:
    def reader(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, None]]:
        extra = EXTRAS[task]
        fields = {field: _text(row, key) for field, key in extra.fields.items()}
        yield ready(task, name, **fields), None

    return reader


def _finished(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, None]]:
    row = {key: value for key, value in row.items() if value is not None}
    if "instruction" not in row:  # it stands inside the input
        row |= {"instruction": _text(row, "input"), "input": ""}
    row = {"task": row.get("Task_name", FREE), "input": ""} | row
    task, *texts = (_text(row, key) for key in ("task", "input", "output", "instruction"))
    yield ready(task, name, *texts), None


def _mixed(row: Mapping[str, Any], name: str) -> Iterator[tuple[Content, tuple[str, ...] | None]]:
    known = {"sae4k": "sae4k_summarize"}
    source = _text(row, "source")
    reader = READERS.get(f"{known.get(source, source)}.jsonl")
    if reader in (None, _mixed):
        raise Refused(f"no reader knows the source {source!r}")
    yield from reader(row, name)


READERS: dict[str, Reader] = {
    "articles.jsonl": _articles,
    "tables.jsonl": _tables,
    "sentences.jsonl": _sentences,
    "petition_title.jsonl": _petition_title,
    "sae4k_summarize.jsonl": _simplified("input", "output"),
    "sae4k_pairs.jsonl": _simplified("utterance", "argument"),
    "law_articles.jsonl": _law_questions,
    "paraKQC_groups.jsonl": _paraphrase_groups,
    "kommongen.jsonl": _extra("words_to_sentence"),
    "chatbot_data.jsonl": _finished,
    "m365_help.jsonl": _finished,
    "mix_permissive.jsonl": _mixed,
    "nsmc_train.tsv": _extra("nsmc_sentiment"),
    "3i4k_train.jsonl": _extra("intent_classification"),
    "petitions_category.jsonl": _extra("petition_topic"),
}
"""How to read a file by its name."""
