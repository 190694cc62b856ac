"""The leakage check: what it must find, what it must not, and a split that shares no text. Each equality can fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.course.errors import InputError
from helpers.course.files import sample_data
from helpers.course.rejects import Rejects
from helpers.data.instruction_tasks.building import Built
from helpers.data.instruction_tasks.leakage import (
    SHORTEST,
    LeakIndex,
    grams_of,
    leak_key,
    long_texts,
    row_parts,
    row_texts,
    split_by_group,
    take_out_leaks,
    zero_shot_texts,
)

REVIEW = "배우들의 연기는 훌륭했지만 결말이 너무 갑작스러웠다"
OTHER = "점심으로 김치찌개를 먹고 공원을 한 바퀴 걸었다"


def built(text, output="긍정", group="a", instruction="감정을 말해 줘."):
    row = {"instruction": instruction, "input": text, "output": output, "task": "free_response"}
    return Built(row, group, "a.jsonl", 1)


def index(*texts, **options):
    return LeakIndex({"nsmc": texts}, **options)


@pytest.mark.parametrize(
    "row",
    [
        built(REVIEW),
        built(REVIEW.replace(" ", "") + "!!!"),
        built(f"친구가 말했다. {REVIEW}. 그래서 안 보기로 했다."),
        built(f"지문: {OTHER}\n질문: {REVIEW}"),
        built(OTHER, output=f"{OTHER}\n{REVIEW}"),
        built("", instruction=REVIEW),
        built(REVIEW.replace("결말이", "결말이\n")),
        built(f"제목: {REVIEW[:12]}\n{REVIEW[12:]}"),
    ],
)
def test_a_leak_is_found_wherever_and_however_it_stands(row):
    assert [leak.test_text for leak in index(REVIEW).leaks([row.row])] == [REVIEW]
    assert index(OTHER.replace("김치", "된장")).leaks([built(REVIEW).row]) == []


def test_a_part_below_the_threshold_is_no_leak():
    half = built(REVIEW[: len(REVIEW) // 2]).row
    assert index(REVIEW).leaks([half]) == []
    [leak] = index(REVIEW, threshold=0.3).leaks([half])
    assert leak.share == pytest.approx(len(grams_of(leak_key(half["input"]), 8)) / len(grams_of(leak_key(REVIEW), 8)))


def test_a_short_text_leaks_only_as_a_whole():
    short = index("정말 재미있다!", "최고!!")
    assert [leak.share for leak in short.leaks([built("정말재미있다").row])] == [1.0]
    assert short.leaks([built("정말 재미있다고 생각한다").row, built("최고").row]) == [] and short.sizes == {"nsmc": 1}


@pytest.mark.parametrize(
    "text", ["리뷰: {}", "질문 1: 왜?\n질문 2: {}", "영화 리뷰：{}", "감상\n댓글: {}", "정말\n재미있다"]
)
def test_a_label_or_a_broken_line_does_not_hide_a_short_text(text):
    row = built(text.format("정말 재미있다!")).row
    assert [(leak.test_text, leak.share) for leak in index("정말 재미있다").leaks([row])] == [("정말 재미있다", 1.0)]
    assert index("정말 재미있다").leaks([row | {"input": "리뷰: 정말 재미있다고 생각한다"}]) == []


def test_laughing_long_is_nobodys_property():
    assert leak_key("ㅋㅋㅋㅋㅋㅋ 재밌다!!!") == "ㅋㅋ재밌다"
    assert index("ㅋ" * 40).leaks([built("재밌다 " + "ㅋ" * 60 + " 또 볼래").row]) == []


@given(st.text(min_size=1), st.text(), st.text(), st.integers(2, 12), st.floats(0.1, 1))
def test_a_text_that_has_any_letter_is_always_found_in_itself(test, before, after, n, threshold):
    key = leak_key(test)
    found = index(test, n=n, threshold=threshold).look_up(test)
    assert found == ([("nsmc", test, 1.0)] if len(key) >= SHORTEST else [])
    if len(key) >= max(n, SHORTEST) and leak_key(f"{before}.{test}.{after}") == leak_key(before) + key + leak_key(
        after
    ):
        assert index(test, n=n, threshold=threshold).look_up(f"{before}.{test}.{after}") == [("nsmc", test, 1.0)]


def test_leaking_rows_are_refused_with_the_text_that_they_hold(tmp_path):
    rejects = Rejects(tmp_path / "train.jsonl")
    rows = [built(OTHER), built(REVIEW), built(OTHER, output=REVIEW)]
    kept, leaked = take_out_leaks(rows, index(REVIEW), rejects)
    assert kept == rows[:1] and leaked == {"nsmc": 2}
    assert rejects.rows[0]["reason"] == "holds a text of the test set nsmc" and rejects.rows[0]["line"] == 1
    assert rejects.rows[0]["row"]["test_text"] == REVIEW


def test_the_sample_holds_no_text_of_the_four_test_sets_and_a_planted_one_is_found():
    tests = zero_shot_texts(sample_data("zero_shot"))
    assert set(tests) == {"nsmc", "kornli", "question_pair", "hate_speech"} and min(map(len, tests.values())) > 50
    both = LeakIndex(tests)
    for name, texts in tests.items():
        assert both.sizes[name] == sum(len(leak_key(text)) >= SHORTEST for text in texts)
        assert texts[0] in [leak.test_text for leak in both.leaks([built(texts[0]).row])]


@pytest.mark.parametrize("options", [{"n": 1}, {"threshold": 0}, {"threshold": 1.1}])
def test_options_that_make_no_sense_are_named(options):
    with pytest.raises(InputError, match="n must be 2 or more"):
        index(REVIEW, **options)


def test_test_sets_that_are_not_there_are_named(tmp_path):
    with pytest.raises(InputError, match="KorNLI"):
        zero_shot_texts(tmp_path)


def test_texts_of_a_row_are_its_parts():
    row = built(f"지문: {OTHER}\n질문: 어디?", output=f"공원\n{REVIEW}").row
    assert row_parts(row) == ["감정을 말해 줘.", OTHER, "어디?", "공원", REVIEW] and set(row_parts(row)) < set(
        row_texts(row)
    )
    assert long_texts(row) == [OTHER, REVIEW]
    assert long_texts(built("가" * 24, output="나" * 25, instruction="다" * 30).row) == ["나" * 25]
    assert long_texts(built("", output="나", instruction="다" * 30).row) == ["다" * 30]  # the question itself


def test_the_largest_share_counts_and_stands_first():
    row = built(REVIEW, output=REVIEW[:24]).row
    assert 0.7 <= index(REVIEW).look_up(REVIEW[:24])[0][2] < 1
    assert [leak.share for leak in index(REVIEW).leaks([row])] == [1.0]
    whole, part = index(REVIEW + " 정말", REVIEW).look_up(REVIEW)
    assert (whole[1], whole[2], part[1]) == (REVIEW, 1.0, REVIEW + " 정말") and part[2] < 1


def test_a_split_shares_neither_group_nor_text():
    rows = [built(f"{number}번 {OTHER}", group=f"article {number // 3}", output=f"{number}") for number in range(60)]
    rows += [built("제목", output=rows[0].row["input"], group="elsewhere")]
    train, dev = split_by_group(rows, 0.3, seed=13)
    assert sorted(map(id, train + dev)) == sorted(map(id, rows)) and 10 < len(dev) <= 18
    assert not {each.group for each in train} & {each.group for each in dev}
    texts = [{text for each in side for text in long_texts(each.row)} for side in (train, dev)]
    assert not texts[0] & texts[1]
    assert split_by_group(rows, 0.3, seed=13) == (train, dev) != split_by_group(rows, 0.3, seed=14)
