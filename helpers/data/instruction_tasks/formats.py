"""How a material becomes the input and output of a task. Every draw comes from the generator that is handed in.

A format only arranges what is there; whether the result is good is for the validator (``checks.py``) to say. It raises
:class:`helpers.data.instruction_tasks.material.Refused` where something is wrong that the finished row would no longer show.
"""

import math
import random

from helpers.data.instruction_tasks.checks import GIVEN_SENTENCES
from helpers.data.instruction_tasks.material import ARTICLE, Material, Refused
from helpers.data.instruction_tasks.rows import (
    ANSWERABLE,
    BETWEEN_OPTIONS,
    HOLE,
    OPTIONS,
    PASSAGE,
    QUESTION,
    SENTENCE,
    TABLE,
    UNANSWERABLE,
    ends_sentence,
    join_options,
    join_parts,
    sentences_of,
    stands_in,
)

Row = tuple[str, str]
SHORTEST_CUT, LONGEST_CUT = 0.3, 0.7
TITLE_PART = 2 / 3
"""A title is asked for after part of the text only, as the data set that we follow does it."""


def answerability(material: Material, _: random.Random) -> Row:
    """Passage and question; the verdict follows from the kind of question."""
    parts = {PASSAGE: material.text, QUESTION: material.question}
    if material.kind == "unanswerable":
        if material.answer is not None:
            raise Refused("an unanswerable question has an answer")
        return join_parts(parts), UNANSWERABLE
    if material.answer is None or not stands_in(material.answer, material.text):
        raise Refused("the question is called answerable, but its answer is not in the passage")
    return join_parts(parts), ANSWERABLE


def summary(material: Material, _: random.Random) -> Row:
    """Text; its summary."""
    return material.text, material.summary


def title(material: Material, _: random.Random) -> Row:
    """The first two thirds of the text's sentences; its title."""
    sentences = sentences_of(material.text)
    return " ".join(sentences[: math.ceil(TITLE_PART * len(sentences))]), material.title


def question(material: Material, _: random.Random, *, passage: bool, options: bool, explained: bool = False) -> Row:
    """A question with its passage and its options, where the task has them; the answer, ``explained`` with why."""
    parts = {PASSAGE: material.text} if passage else {}
    parts[QUESTION] = material.question
    if options:
        if any(BETWEEN_OPTIONS in option for option in material.options):
            raise Refused(f"an option holds {BETWEEN_OPTIONS!r}, which parts the options")
        parts[OPTIONS] = join_options(material.options)
    if not explained:
        return join_parts(parts), material.answer
    if material.evidence not in material.text or material.evidence not in material.explanation:
        raise Refused("the evidence stands not in the passage and in the explanation")
    return join_parts(parts), f"{material.answer}\n{material.explanation}"


def completion(material: Material, rng: random.Random) -> Row:
    """The text cut between two words inside a sentence, somewhere in its middle."""
    words = material.text.split(" ")
    first, last = math.ceil(SHORTEST_CUT * len(words)), math.floor(LONGEST_CUT * len(words))
    places = [place for place in range(max(first, 1), last + 1) if not ends_sentence(words[place - 1])]
    if not places:
        raise Refused("the text has no place inside a sentence to cut it")
    cut = rng.choice(places)
    return " ".join(words[:cut]), " ".join(words[cut:])


def contents(material: Material, _: random.Random) -> Row:
    """Title; text."""
    return material.title, material.text


def pair(material: Material, _: random.Random) -> Row:
    """Source; target."""
    return material.source, material.target


def keywords(material: Material, _: random.Random) -> Row:
    """Text; keywords between commas."""
    if any("," in word for word in material.keywords):
        raise Refused("a keyword holds a comma, which parts the keywords")
    return material.text, ", ".join(material.keywords)


def composition(material: Material, rng: random.Random) -> Row:
    """Three to five sentences in a row of which one in the middle is hidden; that sentence."""
    sentences = sentences_of(material.text)
    least, most = (count + 1 for count in GIVEN_SENTENCES)
    if len(sentences) < least:
        raise Refused(f"the text has less than {least} sentences")
    count = rng.randint(least, min(most, len(sentences)))
    start = rng.randint(0, len(sentences) - count)
    window = sentences[start : start + count]
    hidden = rng.randint(1, count - 2)
    numbered = {f"{SENTENCE}{n}": HOLE if n == hidden + 1 else line for n, line in enumerate(window, 1)}
    return join_parts(numbered), window[hidden]


def expansion(material: Material, _: random.Random) -> Row:
    """A summary and its text, or a simple sentence and the full one."""
    if material.kind == ARTICLE:
        return material.summary, material.text
    return material.target, material.source


def table_question(material: Material, _: random.Random) -> Row:
    """An HTML table and a question; the cell that answers it."""
    return join_parts({TABLE: material.table, QUESTION: material.question}), material.answer


def table_title(material: Material, _: random.Random) -> Row:
    """An HTML table; its title."""
    return material.table, material.title
