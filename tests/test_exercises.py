"""The checks of exercises: an answer that looks right and is wrong gets the hint, another right one than ours the tick."""

import unicodedata

import nbformat
import numpy as np
import pytest

from helpers.course.exercises import check
from helpers.course.paths import REPOSITORY
from helpers.data.pairs import Pairs
from helpers.data.text import text_key
from helpers.embedding.encoder import Encoder


@pytest.fixture(autouse=True)
def lenient(monkeypatch):
    """As for a learner: a wrong answer prints the hint and raises nothing."""
    monkeypatch.delenv("COURSE_STRICT", raising=False)


@pytest.fixture(scope="module")
def encoder():
    return Encoder.load("sample_data/models/ko-mini-encoder")


def check_of(lesson, name, **given):
    """The function that checks an exercise, out of its cell; ``given``: what earlier cells defined."""
    cells = nbformat.read(REPOSITORY / "notebooks" / f"{lesson}.ipynb", 4).cells
    [source] = [cell.source for cell in cells if f"def {name}(" in cell.source]
    space = {"check": check, "np": np, **given}
    exec(source.removeprefix("from helpers.course.exercises import check\n"), space)
    return space[name]


def passes(checked, answer, capsys):
    checked(*answer) if isinstance(answer, tuple) else checked(answer)
    return "✘" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sentence", "right"),
    [
        ("내 동생은 학교 안에서 친구랑 만났습니다", True),
        ("동생도 학교에서 친구를 만났대", False),  # two words of it are the same
        ("동생이학교에서 친구를만났다", False),  # only the spaces are others
        (unicodedata.normalize("NFD", "동생이 학교에서 친구를 만났다"), False),
    ],
)
def test_other_particles_are_no_other_spaces(sentence, right, encoder, capsys):
    assert passes(check_of("00_start_here", "check_particles", encoder=encoder), sentence, capsys) is right


def share_of(is_one):
    def share(text):
        signs = [sign for sign in text if not sign.isspace()]
        return sum(map(is_one, signs)) / max(len(signs), 1)

    return share


@pytest.mark.parametrize(
    ("is_one", "right"),
    [
        (lambda sign: "HANGUL SYLLABLE" in unicodedata.name(sign, ""), True),
        (lambda sign: "HANGUL" in unicodedata.name(sign, ""), False),  # ㅋ too
        (lambda sign: not sign.isascii(), False),  # 漢字 too
        (str.isalpha, False),
    ],
)
def test_a_share_of_hangul_syllables(is_one, right, capsys):
    assert passes(check_of("01_embedding_data", "check_share"), share_of(is_one), capsys) is right


def either_side(train, test):
    known = {text_key(text) for texts in train.texts() for text in texts}
    return sum(not known.isdisjoint(map(text_key, texts)) for texts in test.texts())


def same_side(train, test):
    sides = [set(map(text_key, side)) for side in (train.first, train.second)]
    return sum(any(text_key(text) in side for text, side in zip(texts, sides, strict=True)) for texts in test.texts())


def first_side(train, test):
    return len({*map(text_key, train.first)} & {*map(text_key, test.first)})


@pytest.mark.parametrize(("leaks", "right"), [(either_side, True), (same_side, False), (first_side, False)])
def test_leaks_on_either_side_of_a_pair(leaks, right, capsys):
    checked = check_of("01_embedding_data", "check_leaks", unicodedata=unicodedata, Pairs=Pairs)
    assert passes(checked, leaks, capsys) is right


@pytest.mark.parametrize(("spare", "right"), [(0, True), (1, False)])
def test_a_draw_may_take_all_that_is_left(spare, right, capsys):
    def draw(candidates, forbidden, count, seed):
        left = sorted(set(candidates) - forbidden)
        return np.random.default_rng(seed).permutation(left)[:count] if len(left) >= count + spare else None

    assert passes(check_of("01_embedding_data", "check_draw"), draw, capsys) is right


@pytest.mark.parametrize(("first", "right"), [([0.6, 0.0, 0.8], True), ([0.0, 0.0, 1.0], False)])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_document_whose_beginning_is_nothing_flips_no_order(first, right, capsys):
    def cut(vectors, width):
        return vectors[:, :width] / np.linalg.norm(vectors[:, :width], axis=1, keepdims=True)

    answer = np.array([[1.0, 0.0, 0.0]]), np.array([first, [0.8, 0.6, 0.0]])
    assert passes(check_of("04_triplet_and_embeddinggemma", "check_flip", cut=cut), answer, capsys) is right
