"""What tasks are made of: an article, a question about it, a pair of sentences or a table, each with the fields it has.

One :class:`Material` is one source row of one kind; a task takes the kinds it knows, where every field it needs is there.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from helpers.data.instruction_tasks.rows import html_table, standard_no
from helpers.data.text import normalise

ARTICLE, TABLE, SIMPLIFIED, PARAPHRASE = "article", "table", "simplified", "paraphrase"
ABSTRACTIVE = tuple(f"abstractive_{form}" for form in ("objective", "short", "long", "yes_no"))
EXTRACTIVE = tuple(f"extractive_{form}" for form in ("objective", "short", "long", "yes_no"))
EXPLAINED = ("extractive_objective_explanation", "extractive_yes_no_explanation")
QUESTIONS = (*ABSTRACTIVE, *EXTRACTIVE, *EXPLAINED, "unanswerable")
KINDS = (ARTICLE, TABLE, SIMPLIFIED, PARAPHRASE, *QUESTIONS)


def _filled(text: str) -> str:
    clean = normalise(text)
    if not clean:
        raise ValueError("is empty")
    return clean


Text = Annotated[str, AfterValidator(_filled)]
"""A text in the normal form (NFC, single spaces, no line break) that is not empty."""


class Refused(ValueError):
    """This source row cannot become this task; the message says why."""


class Material(BaseModel):
    """One source row. ``name`` says which one it is, ``group`` which article or table it comes from (split by that)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    name: str
    group: str
    title: Text | None = None
    text: Text | None = None
    summary: Text | None = None
    keywords: Annotated[list[Text], Field(min_length=1)] | None = None
    question: Text | None = None
    answer: Annotated[Text, AfterValidator(standard_no)] | None = None
    options: list[Text] | None = None
    evidence: Text | None = None
    explanation: Text | None = None
    source: Text | None = None
    target: Text | None = None
    table: Text | None = None

    def has(self, fields: tuple[str, ...]) -> bool:
        """Whether every one of these fields is there."""
        return all(getattr(self, field) is not None for field in fields)


def material(kind: object, name: str, group: str, /, **fields: Any) -> Material:
    """A :class:`Material`; raises :class:`Refused` with the field and what is wrong with it."""
    if kind not in KINDS:
        raise Refused(f"there is no kind {kind!r}")
    if own := {"kind", "name", "group"} & fields.keys():
        raise Refused(f"{min(own)}: a row cannot set this field")
    try:
        return Material(kind=kind, name=name, group=group, **fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise Refused(f"{field}: {first['msg'].removeprefix('Value error, ')}") from error


def table_material(name: str, header: object, rows: object, **fields: Any) -> Material:
    """A table as material, its cells in the normal form. Raises :class:`Refused` where it is no rectangle of texts."""
    lines = [header, *rows] if isinstance(rows, list) else [header]
    if len(lines) < 2 or not all(isinstance(line, list) and len(line) == len(header) > 0 for line in lines):
        raise Refused("the table is not a header and rows of the same length")
    if not all(isinstance(cell, str) for line in lines for cell in line):
        raise Refused("a cell of the table is no text")
    first, *others = [[normalise(cell) for cell in line] for line in lines]
    return material(TABLE, name, name, table=html_table(first, others), **fields)
