"""Rows whose answer is a word of the question: the answer is named, it is the right one, and a seed decides all."""

import random
import re
from collections import Counter

import pytest

from helpers.course.errors import InputError
from helpers.course.paths import sample_data
from helpers.data.instruction_tasks.choice_rows import (
    CONDITIONS,
    CONDITIONS_OF_TWO,
    ChoiceRows,
    Labelled,
    particle,
    question,
)

KINDS_OF_WORD = Labelled("다음 낱말의 갈래", (("사과", "과일"), ("배추", "채소"), ("참새", "새"), ("배", "과일")))


@pytest.fixture(scope="module")
def texts():
    return sample_data("sentences/normal_sentences.txt").read_text(encoding="utf-8").splitlines()[:400]


@pytest.fixture(scope="module")
def rows(texts):
    return ChoiceRows(texts, [KINDS_OF_WORD]).rows(800)


def test_the_question_names_the_answer(rows):
    assert Counter(row["task"] for row in rows) == {
        "choice by lot": 400,
        "choice by condition": 200,
        "choice by class": 200,
    }
    for row in rows:
        assert row["output"] in row["instruction"] and row["output"] == row["output"].strip() != ""


def test_a_seed_decides_all(texts, rows):
    assert ChoiceRows(texts, [KINDS_OF_WORD]).rows(800) == rows
    assert ChoiceRows(texts, [KINDS_OF_WORD], seed=14).rows(800) != rows


def test_a_condition_decides_between_its_words(rows):
    """Read back from the row's own text: which condition holds there, and which word the question puts beside it."""
    tests = {yes: (holds, True) for _, yes, _, holds in (*CONDITIONS, *CONDITIONS_OF_TWO)}
    tests |= {no: (holds, False) for _, _, no, holds in (*CONDITIONS, *CONDITIONS_OF_TWO)}
    checked = 0
    for row in (row for row in rows if row["task"] == "choice by condition"):
        lines = "\n".join((row["instruction"], row["input"])).split("\n")
        shown = [line.split(": ", 1)[1] for line in lines if re.match(r"\S+( [12])?: ", line)]
        question = next(line for line in lines if line.endswith(("답하세요.", "고르세요.")))
        begins = [words for words in tests if f"{words} {row['output']}" in question]
        holds, wanted = tests[max(begins, key=len)]
        assert holds(*shown) is wanted, row
        checked += 1
    assert checked == 200


def test_two_texts_of_one_length_are_never_asked_for_the_longer():
    texts = ["가나다 라마바", "사아자 차카타", "파하거 너더러"]
    rows = ChoiceRows(texts, []).rows(200)
    assert not any("더 길면" in row["instruction"] for row in rows)
    assert any("더 길면" in row["instruction"] for row in ChoiceRows([*texts, "짧은 글이 아니다"], []).rows(200))


def test_lots_fall_on_every_place(rows):
    """A model cannot do better than guess: the answer is as often the first word named as the last."""
    named_first = [row for row in rows if row["task"] == "choice by lot"]
    share = sum(
        re.search(rf"(을|를|은|는|이|가) '?{row['output']}", row["instruction"]) is not None for row in named_first
    )
    assert 0.25 < share / len(named_first) < 0.55


def test_particles_follow_the_last_syllable():
    assert [particle(word, "이") for word in ("강", "나무", "PC")] == ["강이", "나무가", "PC가"]
    assert [particle(word, "으로") for word in ("부산", "서울", "제주")] == ["부산으로", "서울로", "제주로"]
    assert [particle("서울", form) for form in ("과", "에", " 가운데")] == ["서울과", "서울에", "서울 가운데"]


def test_every_turn_names_every_word_and_fits_its_particle():
    draw = random.Random(0)
    asked = {question("글의 성격", ["긍정", "부정", "중립"], draw) for _ in range(200)}
    assert all(word in each for each in asked for word in ("긍정", "부정", "중립"))
    for each in asked:
        needed = "은" if each.endswith("?") else "이" if "인지 " in each else "을"
        assert each.startswith(f"글의 성격{needed} "), each


def test_too_little_to_draw_from():
    with pytest.raises(InputError, match="too little text"):
        ChoiceRows(["하나"], [])
    with pytest.raises(InputError, match="nothing to choose"):
        ChoiceRows(["가나 다라 마바", "사아 자차 카타"], [Labelled("갈래", (("사과", "과일"), ("배", "과일")))])
    assert {row["task"] for row in ChoiceRows(["가나 다라 마바", "사아 자차 카타"], []).rows(20)} == {
        "choice by lot",
        "choice by condition",
    }
