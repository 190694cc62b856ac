"""The normal form of texts, their lengths, duplicates, and splits without shared texts."""

import sys
import unicodedata

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.course.errors import InputError
from helpers.course.files import sample_data
from helpers.data.duplicates import (
    character_grams,
    exact_duplicates,
    jaccard,
    near_duplicates,
    split_rows,
    without_duplicates,
)
from helpers.data.lengths import syllables, text_lengths
from helpers.data.text import DOUBTFUL, key_of, normalise, normalise_columns, text_key

TEXTS = st.text(st.sampled_from("가각나ㅋ aA.\u1100\u1161\u0301\u200b\u3000\ufeffé"), max_size=8)


def test_normalise_joins_letters_spaces_and_drops_what_nobody_sees():
    assert normalise(unicodedata.normalize("NFD", "한국어")) == "한국어"
    assert normalise(" 오늘\u3000날씨\t어때\u200b?\n") == "오늘 날씨 어때?"
    assert normalise("ㅋㅋ …") == "ㅋㅋ …", "letters that stand apart on purpose and the ellipsis stay"


def test_what_an_invisible_character_kept_apart_is_joined():
    for apart in ("\u1112\u200b\u1161\u11ab", "e\u00ad\u0301"):
        whole = unicodedata.normalize("NFC", apart.replace("\u200b", "").replace("\u00ad", ""))
        assert normalise(apart) == text_key(apart) == whole and len(whole) == 1


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_a_normal_form_is_nfc_and_its_own_normal_form(text):
    clean = normalise(text)
    assert clean == normalise(clean) == unicodedata.normalize("NFC", clean)


def test_every_character_that_normalise_changes_is_doubtful():
    """All of Unicode, after a letter that it could join: the scan may never miss what the slow way would change."""
    signs = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    for around in ("a{}b", "가{}"):
        texts = [around.format(sign) for sign in signs]
        missed = pl.Series(texts).str.contains(DOUBTFUL).__invert__().arg_true()
        changed = [texts[place] for place in missed if normalise(texts[place]) != texts[place]]
        assert not changed, [ascii(text) for text in changed[:5]]


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_columns_are_normalised_as_texts_are(texts):
    table, changed = normalise_columns(pl.DataFrame({"text": texts}))
    assert table["text"].to_list() == [normalise(text) for text in texts]
    assert changed == sum(text != normalise(text) for text in texts)


def test_a_missing_cell_becomes_empty_text():
    assert normalise_columns(pl.DataFrame({"text": ["가", None]}))[0]["text"].to_list() == ["가", ""]


def test_lengths_count_syllables_not_bytes():
    assert syllables("ㅋㅋ 오늘 3시 OK") == 3
    table = text_lengths(["오늘 날씨 어때?", "OK"])
    assert table.to_dict("records") == [
        {"characters": 9, "words": 3, "syllables": 6},
        {"characters": 2, "words": 1, "syllables": 0},
    ]


def test_pieces_per_syllable_explode_in_nfd():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sample_data("models", "ko-mini-encoder"))
    nfc = "오늘 서울의 날씨가 맑습니다."
    table = text_lengths([nfc, unicodedata.normalize("NFD", nfc), "OK"], tokenizer)
    assert table["pieces"][0] == len(tokenizer(nfc, add_special_tokens=False)["input_ids"])
    assert table["pieces_per_syllable"][0] < 1
    assert table["pieces_per_syllable"].isna().tolist() == [False, True, True], "no whole syllable is in the NFD text"


def test_exact_duplicates_ignore_spaces_punctuation_and_case():
    texts = ["오늘 날씨 어때?", "오늘날씨 어때", "내일은?", "OK!", "ok", "!!", "??"]
    assert exact_duplicates(texts) == [[0, 1], [3, 4]]
    assert text_key(unicodedata.normalize("NFD", "가")) == "가"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text("가나다a", max_size=9), max_size=12), st.sampled_from([0.2, 0.5, 0.6, 0.99, 1.0]))
def test_near_duplicates_find_every_pair_that_comparing_all_with_all_finds(texts, threshold):
    grams = [character_grams(text) for text in texts]
    slow = {
        (i, j): jaccard(grams[i], grams[j])
        for j in range(len(texts))
        for i in range(j)
        if jaccard(grams[i], grams[j]) >= threshold
    }
    found = near_duplicates(texts, threshold)
    assert {(i, j): similarity for i, j, similarity in found} == slow
    assert [similarity for *_, similarity in found] == sorted(slow.values(), reverse=True)


def test_what_goes_is_told_with_the_text_that_stays():
    texts = ["오늘 서울 날씨가 참 좋네요", "오늘 서울 날씨가 참 좋네요!", "오늘 서울 날씨가 참 좋군요", "점심 먹자"]
    kept, gone = without_duplicates(texts)
    assert kept == [texts[0], texts[2], texts[3]] and gone["reason"].tolist() == ["same text"]
    kept, gone = without_duplicates(texts, threshold=0.5)
    assert kept == [texts[0], texts[3]] and gone["kept"].tolist() == [texts[0]] * 2
    with pytest.raises(InputError, match="between 0 and 1"):
        near_duplicates(texts, 0)


def test_a_text_like_one_that_went_stays():
    one = "가나다라마바사아자차"
    two = one[3:] + "카타파"
    three = two[3:] + "하거너"
    assert [(i, j) for i, j, _ in near_duplicates([one, two, three], 0.4)] == [(0, 1), (1, 2)]
    assert without_duplicates([one, two, three], 0.4)[0] == [one, three]


def _groups(rows):
    """Rows that share a text, directly or by a chain, the slow way."""
    groups = []
    for row in rows:
        keys = {key_of(text) for text in row}
        joined = [group for group in groups if any(keys & other for other in group)]
        groups = [group for group in groups if group not in joined] + [
            [keys, *(one for group in joined for one in group)]
        ]
    return groups


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=20), st.floats(0.05, 0.95), st.integers(0, 9))
def test_a_split_shares_no_text_and_loses_no_row(rows, share, seed):
    try:
        first, second = split_rows(rows, share, seed)
    except InputError:
        fewest = min(map(len, _groups(rows)), default=1)
        assert fewest > share * len(rows)
        return
    assert second and sorted(first + second) == list(range(len(rows)))
    assert len(second) <= share * len(rows)
    keys = [{key_of(text) for row in part for text in rows[row]} for part in (first, second)]
    assert not keys[0] & keys[1]
    assert (first, second) == split_rows(rows, share, seed)


def test_a_split_takes_about_the_share_that_was_asked_for():
    rows = [(f"질문 {number}", f"대답 {number}") for number in range(200)]
    _, second = split_rows(rows, 0.1)
    assert len(second) == 20 and second != list(range(20))
    assert split_rows(rows, 0.1, seed=14)[1] != second
    with pytest.raises(InputError, match="between 0 and 1"):
        split_rows(rows, 1.0)


@pytest.mark.parametrize(
    ("one", "other"), [("1.5배", "15배"), ("-5도", "5도"), ("3:15", "31:5"), ("C++", "C#"), ("C+", "C"), ("3/4", "34")]
)
def test_signs_that_change_the_meaning_stay_in_the_key(one, other):
    assert text_key(one) != text_key(other)
    respaced = f"  {'  '.join(one)} !"
    assert text_key(respaced) == text_key(f"“{one}”...") == text_key(one)


def test_signs_that_say_nothing_do_not():
    assert text_key("가-나, 1,000원 (+) #태그: 끝.") == text_key("가나 1000원 태그 끝") == "가나1000원태그끝"


def test_a_threshold_that_rounding_lifts_still_finds_a_pair_that_just_reaches_it():
    letters = "".join(map(chr, range(ord("가"), ord("가") + 103)))
    for size in range(1, 101):
        for shared in (1, 7, 11, 14, size - 1, size):
            if 0 < shared <= size:
                texts = [letters[: shared + 2], letters[: size + 2]]
                assert near_duplicates(texts, shared / size) == [(0, 1, shared / size)], (shared, size)


def test_a_share_that_holds_no_row_is_refused():
    with pytest.raises(InputError, match=r"(?s)holds no row.*0.1 of 4 rows"):
        split_rows([(f"질문 {number}",) for number in range(4)], 0.1)
