"""Rows of instruction data: read, refused, split, tokenised; what is learned is the answer."""

import json
import unicodedata

import pytest
from transformers import AutoTokenizer

from helpers.course.errors import InputError
from helpers.course.paths import REPOSITORY
from helpers.course.rejects import Rejects
from helpers.instruct.product_rows import DOMAINS, product_rows
from helpers.instruct.prompts import IGNORED, Example, Prompt
from helpers.instruct.rows import read_rows, split_by_text, to_examples, trained_share
from helpers.instruct.sft.colours import LEARNED, READ, coloured
from helpers.instruct.sft.course_rows import course_rows, prepared, without_texts
from helpers.instruct.sft.settings import InstructionSettings


@pytest.fixture(scope="module")
def prompt():
    return Prompt.for_tokenizer(AutoTokenizer.from_pretrained(REPOSITORY / "sample_data/models/ko-mini-mistral"))


def write(path, *rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_rows_that_cannot_be_used_are_kept_with_their_line(tmp_path):
    path = write(
        tmp_path / "rows.jsonl",
        {"instruction": "인사해 줘.", "input": "", "output": "안녕하세요.", "source": "x"},
        {"instruction": "인사해 줘.", "output": " "},
        {"instruction": "", "input": "", "output": "네."},
        {"instruction": "더해 줘.", "input": 3, "output": "네."},
        {"input": "지시 없이 묻는 말", "output": "네."},
        {"instruction": "\u200b", "output": "네."},
        {"instruction": "인사해 줘.", "output": "\ufeff"},
        {"instruction": "헤어질 때 인사해 줘.", "input": None, "output": "안녕히 가세요.", "task": None},
    )
    rejects = Rejects(tmp_path / "out.jsonl")
    rows = read_rows(path, rejects)
    assert [row["output"] for row in rows] == ["안녕하세요.", "네.", "안녕히 가세요."]
    assert rows[2]["input"] == rows[2]["task"] == ""  # null is nothing, as a missing key is
    assert rows[0] == {"instruction": "인사해 줘.", "input": "", "output": "안녕하세요.", "task": ""}
    assert [(row["line"], row["reason"]) for row in rejects.rows] == [
        (2, "the output is empty"), (3, "there is no instruction"), (4, "input is not a text"),
        (6, "there is no instruction"), (7, "the output is empty"),
    ]  # fmt: skip
    with pytest.raises(InputError, match="no row"):
        read_rows(write(tmp_path / "bad.jsonl", {"text": "가"}), rejects)


def test_no_question_stands_on_both_sides():
    rows = [{"instruction": f"질문 {n % 30}", "input": "", "output": str(n), "task": ""} for n in range(90)]
    train, aside = split_by_text(rows, 0.2, 100, seed=1)
    assert len(train) + len(aside) == 90 and len(aside) == 18
    assert not {row["instruction"] for row in train} & {row["instruction"] for row in aside}
    assert split_by_text(rows, 0.2, 100, seed=1) == (train, aside) != split_by_text(rows, 0.2, 100, seed=2)
    assert len(split_by_text(rows, 0.5, 7, seed=1)[1]) == 6  # at most 7 rows, three a question
    with pytest.raises(InputError, match="too few"):
        split_by_text(rows[:1], 0.5, 5, seed=1)
    with pytest.raises(InputError, match=r"(?s)max_val_rows.*given:   2.*allowed: 3 or more"):
        split_by_text(rows, 0.2, 2, seed=1)
    small = [{"instruction": "한 번", "input": "", "output": "답", "task": ""}]
    assert split_by_text([*rows, *small], 0.2, 2, seed=1)[1] == small  # the others do not fit and are passed over


def test_a_limit_draws_rows_by_the_seed(tmp_path):
    path = write(tmp_path / "rows.jsonl", *({"instruction": f"숫자 {n}", "output": f"{n}입니다."} for n in range(20)))
    rejects = Rejects(tmp_path / "out.jsonl")
    every, five, again, other = (read_rows(path, rejects, *told) for told in ((20,), (5,), (5,), (5, 14)))
    assert len(every) == 20 and len(five) == 5 and all(row in every for row in five)
    assert five == again != other and five != every[:5]


def test_a_question_is_instruction_and_input_without_their_spaces():
    row = {"instruction": "요약해 줘.", "input": "", "output": "답", "task": ""}
    rows = [row | {"input": "가"}, row | {"input": "나"}, row | {"instruction": " 요약해 줘.\n", "input": "가 "}]
    for seed in range(8):
        train, aside = ({one["input"].strip() for one in side} for side in split_by_text(rows, 0.5, 5, seed))
        assert len(train) == len(aside) == 1 and train != aside
    for share in (0.01, 1.0):  # at least one question is kept aside, and one is left
        assert all(split_by_text(rows, share, 5, seed=1))


def test_rows_of_equal_ids_have_one_question(prompt, tmp_path):
    row = {"instruction": "분야를 고르세요.", "input": "사과", "output": "과일", "task": ""}
    apart = {key: unicodedata.normalize("NFD", text) for key, text in row.items()}
    inside = row | {"instruction": "분야를 고르세요.\n\n사과", "input": ""}
    ids = [prompt.prompt_ids(one["instruction"], one["input"]) for one in (row, apart, inside)]
    assert ids[0] == ids[1] == ids[2]
    with pytest.raises(InputError, match="too few different questions"):
        split_by_text([row, apart, inside], 0.5, 5, seed=1)
    rejects = Rejects(tmp_path / "out.jsonl")
    assert without_texts([apart, inside], [row], rejects) == [] and len(rejects) == 2


@pytest.mark.parametrize("three_keys", [False, True])
def test_no_passage_stands_on_both_sides_and_a_wording_is_none(three_keys, tmp_path):
    """An article under several wordings stays together; wordings, and options that all rows share, hold nothing together."""
    options = "보기: 정치, 경제, 사회, 생활과 문화, 세계, 정보와 과학, 운동"
    rows = []
    for number in range(240):
        wording = f"다음 글을 읽고 어느 분야의 글인지 보기에서 하나만 골라 주세요. 말투 {number % 3}."
        passage = f"{number // 4:03} 번째 기사이다. 스물다섯 글자보다 길어야 한 글로 본다. 끝."
        given = f"{options}\n글: {passage}\n물음: {number}"
        own = (
            {"instruction": "", "input": f"{wording}\n\n{given}"}
            if three_keys
            else {"instruction": wording, "input": given}
        )
        rows.append(own | {"output": "사회", "task": "topic"})
    train, aside = split_by_text(rows, 0.1, 30, seed=1)
    articles = [{row["input"].partition("글: ")[2][:3] for row in side} for side in (train, aside)]
    assert len(aside) == 24 and len(train) == 216 and not articles[0] & articles[1]
    rejects = Rejects(tmp_path / "out.jsonl")
    assert without_texts(rows, aside[:1], rejects) == [row for row in rows if row not in rows_of(rows, aside[0])]
    assert {row["reason"] for row in rejects.rows} == {
        f"the {what} stands in the validation rows" for what in ("question", "passage")
    }


def rows_of(rows, one):
    """The rows of this row's article."""
    article = one["input"].partition("글: ")[2][:3]
    return [row for row in rows if f"글: {article}" in row["input"]]


def test_a_row_may_be_as_long_as_is_allowed(prompt):
    rows = [{"instruction": "말해 줘.", "input": "", "output": "네, 알겠습니다.", "task": ""}]
    longest = len(prompt.example("말해 줘.", "네, 알겠습니다.").input_ids)
    assert to_examples(rows, prompt, longest)[0] == rows
    with pytest.raises(InputError, match="no row fits"):
        to_examples(rows, prompt, longest - 1)


def test_validation_questions_are_taken_out_of_training(tmp_path):
    rows = [{"instruction": f"질문 {n}", "input": "", "output": "답", "task": ""} for n in range(4)]
    rejects = Rejects(tmp_path / "out.jsonl")
    assert without_texts(rows, rows[1:2], rejects) == [rows[0], *rows[2:]] and len(rejects) == 1


def test_a_long_row_is_put_aside_and_never_cut(prompt, tmp_path):
    rows = [{"instruction": "말해 줘.", "input": "", "output": "네. " * n, "task": ""} for n in (2, 200)]
    rejects = Rejects(tmp_path / "out.jsonl")
    fitting, examples = to_examples(rows, prompt, 64, rejects)
    assert fitting == rows[:1] and examples[0].labels[-1] == prompt.eos_id
    assert rejects.rows[0]["reason"] == "longer than 64 tokens"
    with pytest.raises(InputError, match="no row fits"):
        to_examples(rows, prompt, 8)


def test_a_row_is_put_aside_with_its_file_and_line_also_where_a_chat_holds_a_special_token(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "sample_data/models/ko-mini-mistral")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
    chat = Prompt.for_tokenizer(tokenizer, "chat")
    texts = ("인사해 줘.", "끝은 </s> 이렇게 쓰나요?", "길게 " * 60)
    path = write(tmp_path / "rows.jsonl", *({"instruction": text, "output": "네."} for text in texts))
    rows, rejects = read_rows(path, Rejects(tmp_path / "in.jsonl")), Rejects(tmp_path / "out.jsonl")
    fitting, _ = to_examples(rows, chat, 64, rejects)
    assert fitting == rows[:1]
    assert [(row["file"], row["line"]) for row in rejects.rows] == [(str(path), 2), (str(path), 3)]
    assert "special tokens" in rejects.rows[0]["reason"]
    with pytest.raises(InputError, match=r"(?s)special tokens.*rows.jsonl, line 2"):
        to_examples(rows, chat, 64)
    assert without_texts(rows, rows[2:], rejects) == rows[:2] and rejects.rows[-1]["line"] == 3


def test_nothing_or_everything_trained_is_an_error(prompt):
    good = prompt.example("말해 줘.", "네.")
    assert 0 < trained_share([good]) < 1
    assert trained_share([good]) == good.trained / len(good.labels)
    with pytest.raises(InputError, match="no position"):
        trained_share([Example(good.input_ids, [IGNORED] * len(good.labels))])
    with pytest.raises(InputError, match="every position"):
        trained_share([Example(good.input_ids, good.input_ids)])


def test_colours_show_what_the_labels_say(prompt):
    example = prompt.example("<b>를 설명해 줘.\n짧게.", "굵은 글자입니다.")
    html = coloured(example, prompt).data
    assert html.count(LEARNED) == example.trained and html.count(READ) == len(example.labels) - example.trained
    assert html.rindex(READ) < html.index(LEARNED) and "&lt;/s&gt;" in html and "<b>" not in html and "⏎" in html


def test_product_rows_are_a_task_of_their_own():
    rows = product_rows()
    assert len(rows) == 650 and {row["output"] for row in rows} == set(DOMAINS)
    assert all(row["output"] in row["instruction"] for row in rows)
    assert product_rows(5) == rows[:5] != product_rows(5, seed=1)


def test_prepared_rows_of_files_and_of_the_course(prompt, tmp_path):
    path = write(tmp_path / "rows.jsonl", *({"instruction": f"숫자 {n}", "output": f"{n}입니다."} for n in range(20)))
    settings = InstructionSettings.load(
        train_path=path, output_dir=tmp_path, val_share=0.2, max_val_rows=10, max_rows=20, smoke=False
    )
    made = prepared(settings, prompt)
    assert len(made.train) == 16 and len(made.validation) == 4 and "16 rows" in made.summary()
    others = write(
        tmp_path / "val.jsonl", {"instruction": "숫자 3", "output": "삼"}, {"instruction": "영", "output": "0"}
    )
    told = prepared(settings.changed(val_path=others), prompt)
    assert len(told.train) == 19 and len(told.validation) == 2 and len(told.rejects) == 1
    assert "too long" not in told.summary()
    long = [{"instruction": f"숫자 {n}" * 40, "output": "네.", "task": "긴 글"} for n in range(3)]
    short = [{"instruction": f"숫자 {n}", "output": "네.", "task": "짧은 글"} for n in range(20)]
    short.append({"instruction": "긴 물음 " * 99, "output": "네.", "task": "짧은 글"})
    path = write(tmp_path / "long.jsonl", *long, *short)
    cut = prepared(settings.changed(train_path=path, val_path=others, max_seq_length=48, max_rows=None), prompt)
    lines = cut.summary().splitlines()
    assert lines[-2:] == ["too long, by task: 긴 글 3, 짧은 글 1", "no row left to train on: 긴 글"]
    own, said = course_rows(Rejects(tmp_path / "own.jsonl"), 40)
    assert len(own) == 40 and "products" in said
