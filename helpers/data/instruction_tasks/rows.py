"""The form of a task's row: labelled parts of an input, HTML tables, sentences; each written and read back here.

A row is ``{"instruction", "input", "output", "task"}``. An input with several parts has one part a line with its label
in front (``지문: …``, ``질문: …``, ``보기: 가 / 나``); no part holds a line break, so the input can be taken apart again, and a
validator can judge a row from a file without knowing where it came from.
"""

import html
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser

PASSAGE, QUESTION, OPTIONS, TABLE, SENTENCE = "지문", "질문", "보기", "표", "문장"
BETWEEN_OPTIONS = " / "
HOLE = "___"
"""Stands where a sentence is missing."""
YES, NO = "예", "아니요"
"""The answer to a question is 아니요 in the standard spelling; 아니오, which many sets have, is brought to it."""
OTHER_NO = "아니오"
ANSWERABLE, UNANSWERABLE = "답할 수 있음", "답할 수 없음"

LABEL = re.compile(r"(지문|질문|보기|표|문장\d+): (.*)")
CLOSING = "\"'”’)"
SENTENCE_END = re.compile(rf"(?<=[.?!…])[{CLOSING}]*\s+")


def ends_sentence(text: str) -> bool:
    """Whether a sentence ends with this text, closing quotation marks and brackets aside (``…가니?"``)."""
    return text.rstrip(CLOSING).endswith((".", "?", "!", "…"))


def standard_no(answer: str) -> str:
    """The answer with 아니오, where it stands alone on the first line, spelt 아니요."""
    first, line_break, others = answer.partition("\n")
    return f"{NO}{line_break}{others}" if first == OTHER_NO else answer


def join_parts(parts: Mapping[str, str]) -> str:
    """One line a part, ``label: text``. The texts hold no line break (:func:`helpers.data.text.normalise`)."""
    return "\n".join(f"{label}: {text}" for label, text in parts.items())


def split_parts(text: str) -> dict[str, str]:
    """The parts of an input by label; ``{}`` where a line has no label or a label stands twice."""
    found = [LABEL.fullmatch(line) for line in text.split("\n")]
    parts = {match[1]: match[2] for match in found if match}
    return parts if len(parts) == len(found) else {}


def in_three_keys(row: Mapping[str, str]) -> dict[str, str]:
    """A row as KOSITP has it: the instruction inside the input, before a blank line."""
    asked = "\n\n".join(part for part in (row["instruction"], row["input"]) if part)
    return {"input": asked, "output": row["output"], "Task_name": row["task"]}


def stands_in(answer: str, text: str) -> bool:
    """Whether the text holds the answer without cutting a number: 2명 does not stand in 12명, nor 500원 in 1,500원."""
    before = r"(?<!\d)(?<!\d[.,])" if answer[:1].isdecimal() else ""
    after = r"(?![.,]?\d)" if answer[-1:].isdecimal() else ""
    return re.search(before + re.escape(answer) + after, text) is not None


def join_options(options: Sequence[str]) -> str:
    """``가 / 나 / 다``."""
    return BETWEEN_OPTIONS.join(options)


def split_options(text: str) -> list[str]:
    """The options of ``가 / 나 / 다``."""
    return [option.strip() for option in text.split(BETWEEN_OPTIONS)]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text: cut after ``.``, ``?``, ``!`` or ``…`` before white space (so 3.5 stays whole)."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    pieces = [text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [piece for piece in pieces if piece]


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML on one line: a row of ``<th>``, then rows of ``<td>``; ``& < >`` escaped."""
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) for tag, line in lines)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def table_cells(text: str) -> list[list[str]]:
    """The rows of an HTML table, header included, as :func:`html_table` took them; ``[]`` where there is no table."""
    parser = _Cells()
    parser.feed(text)
    parser.close()
    return parser.rows


class _Cells(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self._inside = False

    def handle_starttag(self, tag: str, _: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th", "tr", "table")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data
