"""From what a model wrote to a class, or to nothing: strict enough that a score does not become the parser's work."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

from helpers.course.errors import InputError

Reading = Literal["begins", "contains"]
READINGS = ("begins", "contains")
OUTER = re.compile(r"^[\s\W_]+|[\s\W_]+$")
LEAD = re.compile(r"^(?:\d+\s*[.)]\s*)?(?:(?:정답|답변|답|출력)\s*[:은는]\s*)?")
"""1. 긍정, 답: 긍정 and 정답은 긍정 are answers too."""
AFTER = re.compile(r"[\W_]*(?:(?:입니다|이다|이에요|예요|이네요|임)(?!\w)|$)|\s*[^\w\s]")
"""What may follow a word that answers: nothing, its copula, a sign. 긍정은 아니다 and 긍정적이지 않다 are no answers."""

DENIED = re.compile(r"\w*[\W_]*\?|\w*[\W_]+(?:\w+\s+)?(?:아니|아님|아닙|아닌)")
"""긍정? 아니다 and 긍정, 그러나 아님 take back what they begin with."""


def read_answer(text: str, words: Mapping[str, str], reading: Reading = "begins") -> str | None:
    """The class whose word answers, or None where the answer is no label or names more than one.

    Only the first line counts. ``begins``: after quotation marks and a leading 답: it begins with the word, alone or with
    its copula (긍정, 긍정입니다);
    ``contains``: the word stands anywhere (이 리뷰는 긍정이다), which also takes "긍정은 아니다" for 긍정. ``words`` maps each
    class to its word.
    """
    if reading not in READINGS:
        raise InputError("there is no such reading", place="reading", given=reading, allowed=READINGS)
    lines = unicodedata.normalize("NFC", text).strip().splitlines()
    line = LEAD.sub("", OUTER.sub("", lines[0])) if lines else ""
    line = OUTER.sub("", line)
    named = [label for label, word in words.items() if word in line]
    if len(named) != 1:
        return None
    word = words[named[0]]
    answers = line.startswith(word) and AFTER.match(line, len(word)) and not DENIED.match(line, len(word))
    return named[0] if reading == "contains" or answers else None


def read_answers(texts: Sequence[str], words: Mapping[str, str], reading: Reading = "begins") -> list[str | None]:
    """:func:`read_answer` for every text."""
    return [read_answer(text, words, reading) for text in texts]
