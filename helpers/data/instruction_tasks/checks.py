"""The constraint of each task as a validator: ``None`` for a row that keeps it, else the reason why not.

A validator sees what a model will see, input and output, and nothing else: so it also judges rows of other people.
The limits of length count characters of the normal form, spaces included.
"""

from collections.abc import Callable
from itertools import combinations

from helpers.data.instruction_tasks.rows import (
    ANSWERABLE,
    HOLE,
    NO,
    OPTIONS,
    PASSAGE,
    QUESTION,
    SENTENCE,
    TABLE,
    UNANSWERABLE,
    YES,
    ends_sentence,
    sentences_of,
    split_options,
    split_parts,
    stands_in,
    table_cells,
)
from helpers.data.text import text_key

SUMMARY_SHARE = 3
"""A summary has at least one third of its text's characters (the definition of the data set that we follow)."""
SIMPLE_LENGTH = 50
SHORT_ANSWER, LONG_ANSWER, LONG_QUOTE = 30, 60, 40
TITLE_LENGTH = 60
KEYWORDS = (2, 10)
OPTION_COUNT = (2, 6)
GIVEN_SENTENCES = (2, 4)
PARAPHRASE_RATIO = 2.0
QUOTES, SHORTEST_QUOTE = "'‘’\"“”", 8

Check = Callable[[str, str], str | None]


def answerability(text: str, output: str) -> str | None:
    """Passage and question; one of the two verdicts."""
    return _needs(text, PASSAGE, QUESTION) or _one_of(output, (ANSWERABLE, UNANSWERABLE))


def summary(text: str, output: str) -> str | None:
    """At least a third of the text, and shorter than it."""
    if SUMMARY_SHARE * len(output) < len(text):
        return "the summary is shorter than a third of the text"
    return "the summary is not shorter than the text" if len(output) >= len(text) else None


def title(text: str, output: str) -> str | None:
    """A title: short, and not a sentence of the text."""
    if len(output) > TITLE_LENGTH:
        return f"the title has more than {TITLE_LENGTH} characters"
    if len(output) >= len(text):
        return "the title is not shorter than the text"
    return "the title is a sentence of the text" if output in sentences_of(text) else None


def objective(text: str, output: str) -> str | None:
    """Question and options; the answer is one of them."""
    return _needs(text, QUESTION, OPTIONS) or _option(text, output)


def short_answer(text: str, output: str) -> str | None:
    """A question; at most 30 characters."""
    return _needs(text, QUESTION) or _at_most(output, SHORT_ANSWER)


def long_answer(text: str, output: str) -> str | None:
    """A question; at least 60 characters."""
    return _needs(text, QUESTION) or _at_least(output, LONG_ANSWER)


def yes_no(text: str, output: str) -> str | None:
    """A question; yes or no."""
    return _needs(text, QUESTION) or _one_of(output, (YES, NO))


def quoted_objective(text: str, output: str) -> str | None:
    """Passage, question and options; the answer is one of them and stands in the passage."""
    return _needs(text, PASSAGE, QUESTION, OPTIONS) or _option(text, output) or _in_passage(text, output)


def quoted_yes_no(text: str, output: str) -> str | None:
    """Passage and question; yes or no."""
    return _needs(text, PASSAGE, QUESTION) or _one_of(output, (YES, NO))


def quoted_short(text: str, output: str) -> str | None:
    """Passage and question; the answer stands in the passage and has at most 30 characters."""
    return _needs(text, PASSAGE, QUESTION) or _in_passage(text, output) or _at_most(output, SHORT_ANSWER)


def quoted_long(text: str, output: str) -> str | None:
    """Passage and question; the answer stands in the passage and has at least 40 characters."""
    return _needs(text, PASSAGE, QUESTION) or _in_passage(text, output) or _at_least(output, LONG_QUOTE)


def objective_explained(text: str, output: str) -> str | None:
    """Passage, question and options; one of them on the first line, then a reason that quotes the passage."""
    answer, _, reason = output.partition("\n")
    return _needs(text, PASSAGE, QUESTION, OPTIONS) or _option(text, answer) or _quote(text, reason)


def yes_no_explained(text: str, output: str) -> str | None:
    """Passage and question; yes or no on the first line, then a reason that quotes the passage."""
    answer, _, reason = output.partition("\n")
    return quoted_yes_no(text, answer) or _quote(text, reason)


def completion(text: str, output: str) -> str | None:
    """The beginning stops inside a sentence, and both sides say something."""
    if ends_sentence(text):
        return "the beginning is no unfinished text"
    return "less than 10 characters are given or asked for" if min(len(text), len(output)) < 10 else None


def contents(text: str, output: str) -> str | None:
    """A short title; a text at least three times as long."""
    if len(text) > TITLE_LENGTH:
        return f"the title has more than {TITLE_LENGTH} characters"
    return "the text is not three times as long as its title" if len(output) < 3 * len(text) else None


def simplification(text: str, output: str) -> str | None:
    """At most 50 characters, and shorter than the sentence."""
    if len(output) > SIMPLE_LENGTH:
        return f"the simplification has more than {SIMPLE_LENGTH} characters"
    return "the simplification is not shorter than the text" if len(output) >= len(text) else None


def keywords(text: str, output: str) -> str | None:
    """Several different keywords between commas, each in the text."""
    words = [word.strip() for word in output.split(",")]
    least, most = KEYWORDS
    if not least <= len(words) <= most:
        return f"there are not {least} to {most} keywords"
    if len({word.casefold() for word in words}) < len(words):
        return "a keyword stands twice"
    missing = next((word for word in words if not word or not stands_in(word, text)), None)
    return None if missing is None else "a keyword is not in the text"


def composition(text: str, output: str) -> str | None:
    """Two to four numbered sentences around one hole, which is neither first nor last."""
    parts = split_parts(text)
    if list(parts) != [f"{SENTENCE}{number}" for number in range(1, len(parts) + 1)] or not parts:
        return "the sentences are not numbered from 1"
    given = list(parts.values())
    least, most = GIVEN_SENTENCES
    if given.count(HOLE) != 1 or not least <= len(given) - 1 <= most:
        return f"there are not {least} to {most} sentences and one hole"
    if HOLE in (given[0], given[-1]):
        return "the hole is not in the middle"
    return "the missing sentence is among those given" if output in given else None


def expansion(text: str, output: str) -> str | None:
    """Longer than what was summarised."""
    return "the expansion is not longer than the summary" if len(output) <= len(text) else None


def table_answer(text: str, output: str) -> str | None:
    """An HTML table and a question; the answer is a cell of a row below the header."""
    reason = _needs(text, TABLE, QUESTION)
    if reason:
        return reason
    rows = table_cells(split_parts(text)[TABLE])
    if len(rows) < 2:
        return "there is no HTML table with rows"
    return None if any(output == cell for row in rows[1:] for cell in row) else "the answer is no cell of the table"


def table_title(text: str, output: str) -> str | None:
    """An HTML table; a short title that is no cell of it."""
    rows = table_cells(text)
    if len(rows) < 2:
        return "there is no HTML table with rows"
    if len(output) > TITLE_LENGTH:
        return f"the title has more than {TITLE_LENGTH} characters"
    return "the title is a cell of the table" if any(output in row for row in rows) else None


def paraphrase(text: str, output: str) -> str | None:
    """Other words, and not half or twice as long."""
    if text_key(text) == text_key(output):
        return "the paraphrase says the same in the same words"
    longer, shorter = max(len(text), len(output)), min(len(text), len(output))
    return "one side is more than twice as long as the other" if longer > PARAPHRASE_RATIO * shorter else None


def _needs(text: str, *labels: str) -> str | None:
    parts = split_parts(text)
    missing = [label for label in labels if not parts.get(label)]
    return f"the input has no part {missing[0]}" if missing else None


def _one_of(output: str, allowed: tuple[str, ...]) -> str | None:
    return None if output in allowed else f"the answer is neither {allowed[0]} nor {allowed[1]}"


def _option(text: str, output: str) -> str | None:
    options = split_options(split_parts(text)[OPTIONS])
    least, most = OPTION_COUNT
    if not all(options):
        return "an option is empty"
    if not least <= len(options) <= most or len(set(options)) < len(options):
        return f"there are not {least} to {most} different options"
    return None if output in options else "the answer is not among the options"


def _in_passage(text: str, output: str) -> str | None:
    return None if stands_in(output, split_parts(text)[PASSAGE]) else "the answer is not in the passage"


def _quote(text: str, reason: str) -> str | None:
    """A reason quotes: a piece between quotation marks, 8 characters or more, stands in the passage."""
    if not reason:
        return "there is no explanation after the answer"
    passage = split_parts(text)[PASSAGE]
    marks = [place for place, sign in enumerate(reason) if sign in QUOTES]
    pieces = (reason[first + 1 : last] for first, last in combinations(marks, 2))
    found = any(len(piece) >= SHORTEST_QUOTE and piece in passage for piece in pieces)
    return None if found else "the explanation quotes nothing that stands in the passage"


def _at_most(output: str, most: int) -> str | None:
    return f"a short answer has more than {most} characters" if len(output) > most else None


def _at_least(output: str, least: int) -> str | None:
    return f"a long answer has less than {least} characters" if len(output) < least else None
