"""Streamed text: what was sent is never taken back, and joined it is the whole answer."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from helpers.course.paths import REPOSITORY
from helpers.instruct.prompts import Prompt
from helpers.serving.text import AnswerText

TOKENIZER = AutoTokenizer.from_pretrained(str(REPOSITORY / "sample_data/models/ko-mini-mistral"))
PROMPT = Prompt.for_tokenizer(TOKENIZER)


def bytewise(text):
    """A prompt whose every token is one byte: the hardest case for Hangul, three bytes a syllable."""
    decode = SimpleNamespace(raw_answer_text=lambda ids: bytes(ids).decode(errors="replace"))
    return decode, list(text.encode())


def stream(prompt, ids, stops=(), continued=None):
    writer, parts = AnswerText(prompt, stops, continued), []
    for number, token in enumerate(ids, 1):
        parts.append(writer.feed([token], last=number == len(ids)))
        if writer.stopped:
            break
    return parts, writer


@given(st.text(st.sampled_from("가나 다\n한국어abc .😀각"), max_size=200))
def test_parts_join_to_the_answer(text):
    for prompt, ids in (bytewise(text), (PROMPT, TOKENIZER(text, add_special_tokens=False).input_ids)):
        if ids:
            parts, _ = stream(prompt, ids)
            assert "".join(parts) == prompt.raw_answer_text(ids).strip()
            assert "\ufffd" not in "".join(parts)


@pytest.mark.parametrize("space", ["", " ", "\n\n"])
@given(st.text(st.sampled_from("가나 다\n한국어abc1 .😀각"), max_size=60), st.integers(0, 120))
def test_a_text_continued_as_it_stands_keeps_its_spaces(space, text, cut):
    ids = TOKENIZER("대한민국의 수도는 " + text + space, add_special_tokens=False).input_ids
    cut = 1 + cut % len(ids)
    before, after = [PROMPT.bos_id, *ids[:cut]], ids[cut:]
    known = TOKENIZER.decode(before, skip_special_tokens=True).rstrip("\ufffd")  # half a character is still to come
    parts, _ = stream(PROMPT, after, continued=before)
    assert known + "".join(parts) == (TOKENIZER.decode(ids) if after else known)


def test_a_continuation_begins_with_the_space_of_its_first_piece():
    before = [PROMPT.bos_id, *TOKENIZER("대한민국의 수도는", add_special_tokens=False).input_ids]
    after = TOKENIZER("100년 ", add_special_tokens=False).input_ids
    assert "".join(stream(PROMPT, after, continued=before)[0]) == " 100년 "
    assert "".join(stream(PROMPT, after, [" "], continued=before)[0]) == ""
    ended = [*before, PROMPT.eos_id]  # what comes after an ended text is no part of it
    for whole in (ended, [*ended, *before, PROMPT.eos_id]):
        assert "".join(stream(PROMPT, after, continued=whole)[0]) == "100년 "


def test_only_a_window_is_decoded_anew():
    ids, longest = TOKENIZER("옛날 어느 마을에 😀 고양이가 살았다. " * 40, add_special_tokens=False).input_ids, 0

    def decode(window):
        nonlocal longest
        longest = max(longest, len(window))
        return PROMPT.raw_answer_text(window)

    parts, _ = stream(SimpleNamespace(raw_answer_text=decode), ids)
    assert "".join(parts) == PROMPT.answer_text(ids) and longest < 50 < 300 < len(ids)


def test_a_half_character_is_held_back():
    prompt, ids = bytewise("한글")
    assert stream(prompt, ids)[0] == ["", "", "한", "", "", "글"]


@pytest.mark.parametrize("stop, expected", [("###", "답은 둘"), ("둘", "답은 "), ("없음", "답은 둘###끝")])
def test_stop_texts_are_cut_and_never_shown_in_part(stop, expected):
    prompt, ids = bytewise("답은 둘###끝")
    parts, writer = stream(prompt, ids, [stop])
    assert "".join(parts) == expected and writer.stopped == (stop != "없음")


def test_the_first_of_several_stop_texts_ends_the_answer():
    prompt, ids = bytewise("가나다라")
    assert "".join(stream(prompt, ids, ["라", "나"])[0]) == "가"
    writer = AnswerText(prompt, ["라", "나"])
    assert writer.feed(ids) == "가" and writer.stopped  # also where all of them come at once


def test_what_looked_like_a_stop_text_is_sent_when_it_is_none():
    prompt, ids = bytewise("a##b")
    assert stream(prompt, ids, ["###"])[0] == ["a", "", "", "##b"]
    prompt, ids = bytewise("a##")
    assert stream(prompt, ids, ["###"])[0] == ["a", "", "##"]


@pytest.mark.parametrize(
    "text, stop, expected", [("aab", "ab", "a"), ("가#한", "#한", "가"), ("가#힣", "#한", "가#힣")]
)
def test_a_stop_text_may_begin_in_what_is_held_back(text, stop, expected):
    """Behind a beginning of itself, or before a character that is not whole yet."""
    prompt, ids = bytewise(text)
    assert "".join(stream(prompt, ids, [stop])[0]) == expected


@pytest.mark.parametrize("stop", ["\n", "\n\n", " \n"])
def test_white_space_ends_an_answer_as_soon_as_it_comes(stop):
    prompt, ids = bytewise("\n가을" + stop)
    parts, writer = stream(prompt, ids, [stop])
    assert "".join(parts) == "가을" and writer.stopped
