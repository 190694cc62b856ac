"""Instruction rows whose answer is one of the words that the question names: from them a model learns to keep to the form.

Three kinds: **by lot** (the words are drawn, and so is the answer: only the form can be learned; Min et al., arXiv
2202.12837, saw that labels drawn by lot still show the form where they stand among the examples of a prompt), **by
condition** (a property that can be checked in the text decides between two drawn words) and **by class** (a labelled text,
with a few of the labels named). The questions name their words as everyday Korean does, and lesson 10's questions use some
of the same turns; what those ask about is not among them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from helpers.course.errors import InputError

CONDITIONS: tuple[tuple[str, str, str, Callable[[str], bool]], ...] = (
    ("에", "숫자가 있으면", "숫자가 없으면", lambda text: any(sign.isdigit() for sign in text)),
    ("에", "영어가 있으면", "영어가 없으면", lambda text: bool(re.search("[A-Za-z]", text))),
    ("에", "물음표가 있으면", "물음표가 없으면", lambda text: "?" in text),
    ("이", "마침표로 끝나면", "마침표 없이 끝나면", lambda text: text.endswith(".")),
    ("이", "길면", "짧으면", lambda text: len(text) > 25),
)
CONDITIONS_OF_TWO: tuple[tuple[str, str, str, Callable[[str, str], bool | None]], ...] = (
    ("의", "길이가 비슷하면", "길이가 다르면", lambda one, two: abs(len(one) - len(two)) < 8),
    ("의", "끝 글자가 같으면", "끝 글자가 다르면", lambda one, two: one[-1] == two[-1]),
    (
        " 가운데",
        "첫째가 더 길면",
        "둘째가 더 길면",
        lambda one, two: len(one) > len(two) if len(one) != len(two) else None,
    ),
)
"""Particle after the text's name, the condition, its opposite, whether it holds (None: neither, the row is drawn again)."""
KINDS = ("글", "문장", "말", "댓글", "질문", "의견")
LONGEST, LONGEST_OF_TWO = 90, 60
"""Characters kept of a text, alone or one of two: with the question it shall fit into 128 tokens."""


@dataclass(frozen=True)
class Labelled:
    """Texts with their labels, and what the labels tell of them: ``("말하는 사람의 뜻", ((text, "질문"), ...))``."""

    asked: str
    rows: Sequence[tuple[str, str]]

    @property
    def labels(self) -> list[str]:
        return sorted({label for _, label in self.rows})


PARTICLES = {"은": "는", "이": "가", "을": "를", "과": "와", "으로": "로", "이라고": "라고"}
"""The form after a consonant: the form after a vowel."""


def particle(word: str, form: str) -> str:
    """The word with a particle in the form that its last syllable asks for: 강+이 and 나무+가, 서울+로 and 부산+으로.

    ``form`` is the one after a consonant; a particle with one form only (``"에"``) stays as it is. A word that ends in no
    Hangul syllable takes the form after a vowel.
    """
    last = ord(word[-1]) - ord("가")
    final = last % 28 if 0 <= last < 11_172 else 0  # the final consonant's number; 0: none, 8: ㄹ
    vowel = final == 0 or (form == "으로" and final == 8)
    return word + (PARTICLES.get(form, form) if vowel else form)


def question(asked: str, words: Sequence[str], draw: random.Random) -> str:
    """A question after ``asked`` (``"글의 성격"``) that names these words, in a drawn order and turn of phrase."""
    words = draw.sample(words, len(words))
    *others, last = words
    listed = ", ".join(words)
    form, turn = draw.choice(
        [
            ("을", f"{listed} 가운데 하나로 답하세요."),
            ("을", f"{listed} 중 하나로 쓰세요."),
            ("이", f"{listed} 중 어느 것인지 고르세요."),
            ("은", f"{listed} 중 무엇인가요?"),
            ("을", "{} 가운데 하나로 적어 줘.".format(", ".join(f"'{word}'" for word in words))),
            ("이", f"{' '.join(f'{word}인지' for word in words)} 답하세요."),
            ("은", f"{', '.join(f'{word}인가요' for word in words)}?"),
            ("을", f"{' 또는 '.join(others)} 또는 {particle(last, '으로')} 고르세요."),
            ("이", f"{' '.join(particle(word, '과') for word in others)} {last} 중 어느 쪽인지 고르세요."),
        ]
    )
    return f"{particle(asked, form)} {turn}"


class ChoiceRows:
    """Draws such rows from a collection of texts and from labelled ones; the same seed draws the same rows.

    Raises :class:`InputError` where there are fewer than two texts or than four words to draw answers from, or labelled
    texts with a single label.
    """

    def __init__(self, texts: Sequence[str], labelled: Sequence[Labelled], seed: int = 13) -> None:
        self._draw = random.Random(seed)
        self._texts = [kept for text in texts if (kept := text.strip()[:LONGEST].rstrip())]
        letters = (re.sub("[^가-힣]", "", word) for text in self._texts for word in text.split())
        self._words = sorted({word for word in letters if 1 <= len(word) <= 4 and word[-1] not in "을를은는에의"})
        self._labelled = labelled
        if len(self._texts) < 2 or len(self._words) < 4:
            given = f"{len(self._texts)} texts with {len(self._words)} words of at most four syllables"
            raise InputError("there is too little text to draw from", given=given, allowed="2 texts and 4 words")
        if single := [each.asked for each in labelled if len(each.labels) < 2]:
            raise InputError("there is nothing to choose between", place=single[0], allowed="two labels or more")

    def rows(self, count: int) -> list[dict[str, str]]:
        """``count`` rows ``{"instruction", "input", "output", "task"}``: half by lot, the others by turns; shuffled."""
        others = [self._by_condition, *([self._by_class] if self._labelled else [])]
        makers = [self._by_lot if number % 2 else others[number // 2 % len(others)] for number in range(count)]
        self._draw.shuffle(makers)
        return [make() for make in makers]

    def _by_lot(self) -> dict[str, str]:
        words = self._draw.sample(self._words, self._draw.choice([2, 2, 3, 4]))
        kind, texts, numbered = self._some_text()
        alone = [f"다음 {kind}의 성격", f"이 {particle(kind, '을')} 쓴 까닭", f"이 {kind}에 있는 것"]
        of_two = [f"두 {kind}의 관계", f"두 {kind}의 뜻", f"{kind} 1에 견준 {kind} 2의 내용"]
        asked = self._draw.choice(alone if len(texts) == 1 else of_two)
        answer = self._draw.choice(words)
        return self._row(question(asked, words, self._draw), numbered, answer, "choice by lot")

    def _by_condition(self) -> dict[str, str]:
        kind, texts, numbered = self._some_text()
        form, yes, no, holds = self._draw.choice(CONDITIONS if len(texts) == 1 else CONDITIONS_OF_TWO)
        if (held := holds(*texts)) is None:
            return self._by_condition()
        words = self._draw.sample(self._words, 2)
        answer = words[0] if held else words[1]
        (first, one), (second, other) = self._draw.sample([(yes, words[0]), (no, words[1])], 2)
        subject = particle(("다음 " if len(texts) == 1 else "두 ") + kind, form)
        end = self._draw.choice([f"{particle(other, '이라고')} 답하세요.", f"{particle(other, '을')} 고르세요."])
        return self._row(f"{subject} {first} {one}, {second} {end}", numbered, answer, "choice by condition")

    def _by_class(self) -> dict[str, str]:
        each = self._draw.choice(self._labelled)
        text, answer = self._draw.choice(each.rows)
        others = [label for label in each.labels if label != answer]
        named = [answer, *self._draw.sample(others, min(len(others), self._draw.choice([1, 2, 3])))]
        return self._row(question(each.asked, named, self._draw), text[:LONGEST], answer, "choice by class")

    def _some_text(self) -> tuple[str, tuple[str, ...], str]:
        """What the texts are called, one or two of them, and the lines that show them."""
        kind = self._draw.choice(KINDS)
        if self._draw.random() < 0.5:
            text = self._draw.choice(self._texts)
            return kind, (text,), f"{kind}: {text}"
        first, second = (text[:LONGEST_OF_TWO].rstrip() for text in self._draw.sample(self._texts, 2))
        return kind, (first, second), f"{kind} 1: {first}\n{kind} 2: {second}"

    def _row(self, asked: str, texts: str, answer: str, task: str) -> dict[str, str]:
        """The text below the question, above it, or as the row's input."""
        places = [(f"{asked}\n\n{texts}", ""), (f"{texts}\n\n{asked}", ""), (asked, texts)]
        instruction, text = self._draw.choice(places)
        return {"instruction": instruction, "input": text, "output": answer, "task": task}
