"""Answers read strictly, likelihoods decided by four rules, scores that count everything."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from helpers.course.errors import InputError
from helpers.instruct.scoring.answers import read_answer
from helpers.instruct.scoring.decisions import content_free_bias, decide
from helpers.instruct.scoring.scores import NO_LABEL, chance_f1, confusion, interval, macro_f1_of, per_class, score

WORDS = {"positive": "긍정", "negative": "부정"}


@pytest.mark.parametrize(
    ("text", "begins", "contains"),
    [
        ("긍정", "positive", "positive"),
        (' "부정"입니다.', "negative", "negative"),
        ("답: 긍정입니다", "positive", "positive"),
        ("긍정\n부정", "positive", "positive"),
        ("이 리뷰는 부정이에요", None, "negative"),
        ("긍정 또는 부정", None, None),
        ("좋은 영화네요", None, None),
        ("", None, None),
        ("\n긍정", "positive", "positive"),
        ("긍정은 아니다", None, "positive"),
        ("긍정적이지 않다", None, "positive"),
        ("긍정이다만 아쉽다", None, "positive"),
        ("긍정. 다시 보고 싶다", "positive", "positive"),
        ("긍정? 아니다", None, "positive"),
        ("긍정, 그러나 아님", None, "positive"),
        ("긍정, 아닌 것 같다", None, "positive"),
        ("긍정. 아닌 듯", None, "positive"),
        ("긍정 (재미)", "positive", "positive"),
        ("긍정 (이 아님)", None, "positive"),
        ("부정 - 지루하다", "negative", "negative"),
        ("1. 긍정", "positive", "positive"),
        ("2) 답: 부정이네요", "negative", "negative"),
        ("긍정임", "positive", "positive"),
        ("긍정임에도 아쉽다", None, "positive"),
        ("긍정입니다. 아닙니다", None, "positive"),
        ("긍정! 나쁘지 않다", "positive", "positive"),
        ("'긍정'이에요 정말", "positive", "positive"),
        ("\u1100\u1173\u11bc\u110c\u1165\u11bc", "positive", "positive"),
    ],
)
def test_an_answer_is_a_label_or_none(text, begins, contains):
    assert read_answer(text, WORDS) == begins
    assert read_answer(text, WORDS, "contains") == contains


def test_a_reading_that_does_not_exist():
    with pytest.raises(InputError, match="no such reading"):
        read_answer("긍정", WORDS, "guesses")


def test_rules_decide_differently():
    likelihoods = torch.tensor([[-4.0, -6.0], [-7.0, -6.0]])
    assert decide(likelihoods).tolist() == [0, 1]
    assert decide(likelihoods, "token", lengths=[1, 3]).tolist() == [1, 1]
    assert decide(likelihoods, "character", lengths=[2, 2]).tolist() == decide(likelihoods).tolist()
    habit = torch.tensor([[-3.0, -9.0]])  # prefers label 0 by 6 nats when nothing is said
    assert decide(likelihoods, "calibrated", free=habit).tolist() == [1, 1]


def test_nan_is_no_answer():
    """Of likelihoods that are not numbers argmax takes the first: a believable score."""
    good, bad = torch.zeros(3, 2), torch.zeros(3, 2)
    bad[1, 1] = torch.nan
    with pytest.raises(InputError, match="likelihoods, row 1"):
        decide(bad)
    with pytest.raises(InputError, match="free, row 1"):
        decide(good, "calibrated", free=bad)


def test_calibration_divides_by_the_mean_probability_of_content_free_texts():
    free = torch.tensor([[0.7, 0.3], [0.5, 0.5]]).log() - 4  # the labels hold a small part of all probability
    torch.testing.assert_close(content_free_bias(free).exp(), torch.tensor([0.6, 0.4]))


@pytest.mark.parametrize("rule", ["token", "character", "calibrated", "best"])
def test_a_rule_without_its_part_is_refused(rule):
    with pytest.raises(InputError):
        decide(torch.zeros(1, 2), rule)


GOLD = ["a"] * 6 + ["b"] * 3 + ["c"]
SAID = ["a", "a", "a", None, "b", None, "b", "b", None, "c"]


def test_what_is_no_label_is_wrong_and_the_seeds_rule_drops_it():
    scores = score(GOLD, SAID, ["a", "b", "c"])
    assert scores.rows == 10 and scores.coverage == 0.7 and scores.accuracy == 0.6
    told = [NO_LABEL if label is None else label for label in SAID]
    assert scores.macro_f1 == f1_score(GOLD, told, labels=["a", "b", "c"], average="macro")
    assert scores.weighted_f1 == f1_score(GOLD, told, labels=["a", "b", "c"], average="weighted") != scores.macro_f1
    kept = [(a, b) for a, b in zip(GOLD, SAID, strict=True) if b]
    gold, said = zip(*kept, strict=True)
    assert scores.macro_f1_dropped == f1_score(gold, said, average="macro") > scores.macro_f1 + 0.1
    assert scores.majority_accuracy == 0.6 and scores.majority_f1 == pytest.approx(0.25)
    assert 0 < scores.low < scores.macro_f1 < scores.high < 1


def test_the_bars_and_the_interval_are_of_all_classes_all_rows_and_the_draws_asked_for():
    gold, said = ["b"] * 6 + ["a"] * 3, ["b"] * 4 + ["c", None, "a", "b", "a"]
    scores = score(gold, said, ["a", "b", "c"], draws=150, seed=3)
    assert scores.majority_accuracy == 6 / 9  # the most frequent class is not the first
    assert (scores.low, scores.high) == interval(gold, said, ["a", "b", "c"], draws=150, seed=3)
    assert (scores.low, scores.high) != interval(gold, said, ["a", "b", "c"], draws=150, seed=4)
    assert interval(gold, said, ["a", "b", "c"]) == interval(gold, said, ["a", "b", "c"], level=0.95)
    kept = [(a, b) for a, b in zip(gold, said, strict=True) if b]  # "c" was answered and is never true: its F1 is 0
    assert scores.macro_f1_dropped == pytest.approx(f1_score(*zip(*kept, strict=True), average="macro"))
    assert scores.chance_f1 == chance_f1(gold, ["a", "b", "c"]) < chance_f1(gold, ["a", "b"])


def test_only_labels_the_rules_agree_and_no_labels_at_all():
    whole = score(GOLD, GOLD, ["a", "b", "c"])
    assert whole.macro_f1 == whole.macro_f1_dropped == whole.coverage == whole.low == whole.high == 1
    none = score(GOLD, [None] * 10, ["a", "b", "c"])
    assert none.macro_f1 == none.coverage == none.high == 0 and none.macro_f1_dropped is None


def test_f1_of_tables_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    assert macro_f1_of(np.array([[1, 0, 0], [0, 0, 1]])) == 0.5  # one row right, one row no label
    for _ in range(20):  # 6 rows: now and then a class does not occur
        gold = draw.choice(["a", "b", "c"], 6).tolist()
        said = draw.choice(["a", "b", "c", NO_LABEL], 6, p=[0.6, 0.2, 0.05, 0.15]).tolist()
        table = confusion(gold, [None if label == NO_LABEL else label for label in said], ["a", "b", "c"])
        expected = f1_score(gold, said, labels=["a", "b", "c"], average="macro", zero_division=np.nan)
        assert macro_f1_of(table.to_numpy()) == pytest.approx(expected)


def test_the_interval_is_that_of_drawing_rows():
    draw = np.random.default_rng(1)
    gold = draw.choice(["a", "b"], 200).tolist()
    said = [label if keep else "a" for label, keep in zip(gold, draw.random(200) < 0.6, strict=True)]
    rows = np.array([gold, said])
    f1 = []
    for _ in range(800):
        some, other = rows[:, draw.integers(0, 200, 200)]
        f1.append(f1_score(some, other, average="macro"))
    low, high = interval(gold, said, ["a", "b"], draws=4000)
    assert (low, high) == pytest.approx(tuple(np.quantile(f1, [0.025, 0.975])), abs=0.02)
    half = interval(gold, said, ["a", "b"], draws=4000, level=0.5)
    assert half == pytest.approx(tuple(np.quantile(f1, [0.25, 0.75])), abs=0.01)
    assert interval(gold, said, ["a", "b"]) == interval(gold, said, ["a", "b"])
    assert interval(gold, said, ["a", "b"]) != interval(gold, said, ["a", "b"], seed=14)
    assert high - low < interval(gold[:50], said[:50], ["a", "b"])[1] - interval(gold[:50], said[:50], ["a", "b"])[0]


def test_the_tables_show_what_was_no_label():
    table = confusion(GOLD, SAID, ["a", "b", "c"])
    assert table.loc["a"].tolist() == [3, 1, 0, 2] and int(table.to_numpy().sum()) == 10
    assert per_class(GOLD, SAID, ["a", "b", "c"]).loc["a", ["precision", "recall", "rows"]].tolist() == [1.0, 0.5, 6.0]
    never = per_class(["a", "b"], ["a", None], ["a", "b"]).loc["b"]  # true once, answered never
    assert never[["precision", "recall", "f1-score"]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("counts", [{"a": 500, "b": 500}, {"a": 690, "b": 310}, {"a": 334, "b": 333, "c": 333}])
def test_the_bar_of_labels_drawn_by_lot_is_what_lots_score(counts):
    gold, classes = [label for label, count in counts.items() for _ in range(count)], list(counts)
    draw = np.random.default_rng(0)
    drawn = [f1_score(gold, draw.choice(classes, len(gold)), average="macro") for _ in range(40)]
    assert chance_f1(gold, classes) == pytest.approx(np.mean(drawn), abs=0.01)
    told = score(gold, gold, classes)
    assert told.chance_f1 == chance_f1(gold, classes) > told.majority_f1 + 0.05


def test_a_class_that_does_not_occur_counts_the_same_in_score_and_interval():
    gold = ["a", "b"] * 20
    told = score(gold, gold, ["a", "b", "c"])
    assert told.macro_f1 == told.low == told.high == told.macro_f1_dropped == 1
    answered = score(gold, ["c", *gold[1:]], ["a", "b", "c"])
    assert answered.macro_f1 < 0.7 and answered.low <= answered.macro_f1 <= answered.high
