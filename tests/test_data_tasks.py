"""The 22 tasks: every rule can be broken, every input can be taken apart again, and nothing that is refused is lost."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.data.instruction_tasks.material import KINDS, Material, Refused, material, table_material
from helpers.data.instruction_tasks.rows import (
    html_table,
    join_options,
    join_parts,
    sentences_of,
    split_options,
    split_parts,
    standard_no,
    table_cells,
)
from helpers.data.tasks import (
    TASKS,
    check_row,
)
from helpers.data.text import normalise

KEYS = [
    "answerability_classification",
    "summarization",
    "title_generation",
    "abstractive_qa_objective",
    "abstractive_qa_subjective_short",
    "abstractive_qa_subjective_long",
    "abstractive_qa_yes_no",
    "extractive_qa_objective",
    "extractive_qa_yes_no",
    "extractive_qa_subjective_short",
    "extractive_qa_subjective_long",
    "extractive_qa_objective_explanation",
    "extractive_qa_yes_no_explanation",
    "text_completion",
    "title_to_contents",
    "text_simplification",
    "keyword_tagging",
    "text_composition",
    "summary_expansion",
    "table_qa_short_answer",
    "table_to_title",
    "paraphrasing",
]
TEXT = "한솔역 보관함은 2층 개찰구 옆에 있다. 처음 두 시간은 무료이다. 그 뒤에는 한 시간마다 500원을 낸다."
ASKED = f"지문: {TEXT}\n질문: 보관함은 어디에 있나?"
CHOICE = "\n보기: 1층 출구 / 2층 개찰구 옆 / 3층 매표소"
TABLE = html_table(["층", "시설"], [["1", "출구 <동쪽>"], ["2", "개찰구"]])
QUOTE = "2층 개찰구 옆\n글에 '보관함은 2층 개찰구 옆에 있다'고 나와 있다."
ROWS = {  # task: (input, good output, {broken output: words of the reason})
    "answerability_classification": (ASKED, "답할 수 있음", {"예": "neither 답할 수 있음", "2층": "neither"}),
    "summarization": (TEXT, TEXT[:30], {TEXT[:17]: "shorter than a third", TEXT: "not shorter", TEXT * 2: "not shorter"}),
    "title_generation": (TEXT, "보관함", {"가" * 61: "more than 60", "처음 두 시간은 무료이다.": "a sentence of"}),
    "abstractive_qa_objective": ("질문: 어디에 있나?" + CHOICE, "3층 매표소", {"4층": "not among", "3층": "not among"}),
    "abstractive_qa_subjective_short": ("질문: 무엇인가?", "물", {"가" * 31: "more than 30"}),
    "abstractive_qa_subjective_long": ("질문: 왜인가?", "가" * 60, {"가" * 59: "less than 60"}),
    "abstractive_qa_yes_no": ("질문: 맞나?", "아니요", {"아니오": "neither 예 nor 아니요", "네": "neither"}),
    "extractive_qa_objective": (
        ASKED + CHOICE, "2층 개찰구 옆", {"3층 매표소": "not in the passage", "개찰구": "not among"}
    ),
    "extractive_qa_yes_no": (ASKED, "예", {"2층": "neither"}),
    "extractive_qa_subjective_short": (ASKED, "두 시간", {"세 시간": "not in the passage", TEXT[:40]: "more than 30"}),
    "extractive_qa_subjective_long": (ASKED, TEXT[:42], {"가" * 40: "not in the passage", TEXT[:39]: "less than 40"}),
    "extractive_qa_objective_explanation": (
        ASKED + CHOICE,
        QUOTE,
        {"3층 매표소": "no explanation", "3층 매표소\n'3층에 보관함이 있다'": "quotes nothing", "4층\n'개찰구'": "not among"},
    ),
    "extractive_qa_yes_no_explanation": (
        ASKED,
        "예\n“처음 두 시간은 무료”라고 했다.",
        {"예": "no explanation", "예\n글에 그렇게 나와 있다.": "quotes nothing", "응\n'처음 두 시간은'": "neither"},
    ),
    "text_completion": (TEXT[:20], TEXT[20:], {"옆": "less than 10"}),
    "title_to_contents": ("한솔역 보관함", TEXT, {"보관함이 있다.": "not three times"}),
    "text_simplification": (TEXT, "보관함은 2층에 있다.", {"가" * 51: "more than 50"}),
    "keyword_tagging": (
        TEXT, "보관함, 개찰구", {"보관함": "not 2 to 10", "보관함, 유료": "not in the text", "무료, 무료": "stands twice"}
    ),
    "text_composition": (
        "문장1: 문이 열렸다.\n문장2: ___\n문장3: 모두 내렸다.", "종점이었다.", {"모두 내렸다.": "among those given"}
    ),
    "summary_expansion": ("보관함은 2층에 있다.", TEXT, {"보관함이 있다.": "not longer"}),
    "table_qa_short_answer": (f"표: {TABLE}\n질문: 2층에는?", "개찰구", {"매표소": "no cell", "시설": "no cell"}),
    "table_to_title": (TABLE, "층별 시설", {"개찰구": "a cell of the table", "가" * 61: "more than 60"}),
    "paraphrasing": ("비가 올 것 같다.", "비가 내릴 듯하다.", {"비가 올것같다!": "same words", "비": "twice as long"}),
}  # fmt: skip
BROKEN_INPUTS = [
    ("answerability_classification", f"지문: {TEXT}", "답할 수 있음", "no part 질문"),
    ("extractive_qa_yes_no", "질문: 맞나?", "예", "no part 지문"),
    ("extractive_qa_yes_no", f"{TEXT}\n질문: 맞나?", "예", "no part 지문"),
    ("abstractive_qa_objective", "질문: 맞나?\n보기: 가 / 가", "가", "different options"),
    ("abstractive_qa_objective", "질문: 맞나?\n보기: 가 / 나 / ", "가", "an option is empty"),
    ("text_completion", TEXT, TEXT, "no unfinished text"),
    ("text_completion", "그가 물었다. “너는 어디 가니?”", TEXT, "no unfinished text"),
    ("title_to_contents", "가" * 61, TEXT * 9, "more than 60"),
    ("text_simplification", "짧다.", "더 짧다고요.", "not shorter"),
    ("text_composition", "문장1: ___\n문장2: 가.\n문장3: 나.", "다.", "not in the middle"),
    ("text_composition", "문장1: 가.\n문장3: ___\n문장4: 나.", "다.", "not numbered"),
    ("text_composition", "문장1: 가.\n문장2: 나.\n문장3: 다.", "라.", "one hole"),
    ("table_qa_short_answer", "표: 층 시설\n질문: 2층에는?", "층", "no HTML table"),
    ("table_to_title", "층 시설", "층별 시설", "no HTML table"),
]
line = st.text(st.characters(codec="utf-8"), max_size=40).map(normalise)
filled = line.filter(bool)


def row(task, text, output):
    return {"instruction": "해 줘.", "input": text, "output": output, "task": task}


def test_the_tasks_are_the_22_of_the_data_set_that_we_follow():
    assert list(TASKS) == KEYS == list(ROWS)
    assert {kind for task in TASKS.values() for kind in task.needs} == set(KINDS)


@pytest.mark.parametrize("key", KEYS)
def test_a_good_row_passes_and_every_rule_can_be_broken(key):
    text, good, broken = ROWS[key]
    assert check_row(row(key, text, good)) is None
    for output, words in broken.items():
        assert words in check_row(row(key, text, output))


@pytest.mark.parametrize(("key", "text", "output", "words"), BROKEN_INPUTS)
def test_an_input_that_does_not_hold_what_the_task_needs(key, text, output, words):
    assert words in check_row(row(key, text, output))


def choice(count):
    return "질문: 무엇인가?\n보기: " + " / ".join("가나다라마바사"[:count])


def numbered(*lines):
    return "\n".join(f"문장{number}: {line}" for number, line in enumerate(lines, 1))


LIMITS = [  # task, (input, output) that just keeps a rule, (input, output) that just breaks it, words of the reason
    ("summarization", ("가" * 30, "나" * 10), ("가" * 31, "나" * 10), "shorter than a third"),
    ("title_generation", ("가" * 9, "나" * 8), ("가" * 8, "나" * 8), "title is not shorter"),
    ("abstractive_qa_objective", (choice(6), "가"), (choice(7), "가"), "not 2 to 6"),
    ("abstractive_qa_objective", (choice(2), "가"), (choice(1), "가"), "not 2 to 6"),
    ("text_completion", ("가" * 10, "나" * 10), ("가" * 9, "나" * 10), "less than 10"),
    ("text_completion", ("가" * 10, "나" * 10), ("가" * 10, "나" * 9), "less than 10"),
    ("title_to_contents", ("가" * 4, "나" * 12), ("가" * 4, "나" * 11), "not three times"),
    ("keyword_tagging", ("LP와 CD", "LP, CD"), ("LP와 lp", "LP, lp"), "stands twice"),
    (
        "text_composition",
        (numbered("가.", "___", "나.", "다.", "라."), "마."),
        (numbered("가.", "___", "나.", "다.", "라.", "바."), "마."),
        "not 2 to 4 sentences",
    ),
    (
        "text_composition",
        (numbered("가.", "___", "나."), "다."),
        (numbered("가.", "나.", "___"), "다."),
        "in the middle",
    ),
    ("summary_expansion", ("가" * 9, "나" * 10), ("가" * 10, "나" * 10), "not longer"),
    ("table_to_title", (TABLE, "층별 시설"), (TABLE, "시설"), "a cell of the table"),
    ("paraphrasing", ("가" * 4, "나" * 8), ("가" * 4, "나" * 9), "twice as long"),
    (
        "extractive_qa_yes_no_explanation",
        (ASKED, "예\n‘2층 개찰구 옆’이라고 했다."),  # eight characters
        (ASKED, "예\n‘층 개찰구 옆’이라고 했다."),
        "quotes nothing",
    ),
]


@pytest.mark.parametrize(("key", "kept", "broken", "words"), LIMITS)
def test_a_limit_is_kept_at_its_last_value_and_broken_at_the_next(key, kept, broken, words):
    assert check_row(row(key, *kept)) is None
    assert words in check_row(row(key, *broken))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"instruction": " "}, "under instruction"),
        ({"input": None}, "under input"),
        ({"input": ""}, "under input"),
        ({"output": 3}, "under output"),
        ({"task": "nsmc_sentiment"}, "no label"),
    ],
)
def test_a_row_that_is_no_row(change, words):
    assert words in check_row(row("summarization", TEXT, TEXT[:40]) | change)


@given(st.dictionaries(st.sampled_from(["지문", "질문", "보기", "표", "문장1", "문장2"]), line, min_size=1))
def test_parts_survive_the_way_there_and_back(parts):
    assert split_parts(join_parts(parts)) == parts


@given(st.lists(filled.filter(lambda text: " / " not in f" {text} "), min_size=1))
def test_options_survive_the_way_there_and_back(options):
    assert split_options(join_options(options)) == options


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(line, min_size=width, max_size=width), min_size=2)))
def test_a_table_survives_the_way_to_html_and_back(rows):
    html = html_table(rows[0], rows[1:])
    assert "\n" not in html and table_cells(html) == rows


@given(st.text())
def test_no_text_breaks_a_parser_or_a_validator_and_sentences_lose_nothing(text):
    table_cells(text)
    split_parts(text)
    clean = normalise(text)
    assert "".join(sentences_of(clean)).replace(" ", "") == clean.replace(" ", "")
    for task in TASKS.values():
        assert isinstance(task.check(text, text), str | None)


@settings(max_examples=60)
@given(st.lists(filled, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_what_a_format_makes_of_any_text_is_that_text(words, rng):
    source = Material(kind="article", name="a", group="a", text=". ".join(words))
    for key, mend in (("text_completion", " ".join), ("text_composition", None)):
        try:
            text, output = TASKS[key].make(source, rng)
        except Refused:
            continue
        if mend:
            assert mend((text, output)) == source.text
        else:
            sentences = [output if part == "___" else part for part in split_parts(text).values()]
            assert " ".join(sentences) in source.text and output in sentences[1:-1]


def test_sentences_end_at_their_marks_only():
    assert sentences_of("키는 3.5미터이다. 정말? “그래!” 하고 말했다.") == [
        "키는 3.5미터이다.",
        "정말?",
        "“그래!”",
        "하고 말했다.",
    ]
    assert sentences_of("") == []


def test_a_text_is_not_cut_behind_a_closing_quotation_mark():
    source = Material(kind="article", name="a", group="a", text="그는 어제 나에게 “어디 가니?” 하고 두 번 다시 물었다.")
    cuts = {TASKS["text_completion"].make(source, random.Random(seed))[0] for seed in range(40)}
    assert len(cuts) > 1 and not any(cut.endswith("가니?”") for cut in cuts)


def article(text, **fields):
    return Material(kind="article", name="a", group="a", text=text, **fields)


def made(key, source, seed=0):
    return TASKS[key].make(source, random.Random(seed))


def test_a_title_is_asked_for_after_two_thirds_of_the_sentences():
    for text, shown in (("하나. 둘. 셋.", "하나. 둘."), ("하나. 둘. 셋. 넷.", "하나. 둘. 셋.")):
        assert made("title_generation", article(text, title="수")) == (shown, "수")


def test_a_text_is_cut_in_its_middle_and_any_sentence_inside_is_hidden():
    words = article(" ".join("가나다라마바사아자차카타파하거너더러머버"))
    assert {len(made("text_completion", words, seed)[0].split()) for seed in range(200)} == set(range(6, 15))
    sentences = article("하나. 둘. 셋. 넷. 다섯.")
    hidden = {made("text_composition", sentences, seed)[1] for seed in range(200)}
    places = {
        list(split_parts(made("text_composition", sentences, seed)[0]).values()).index("___") for seed in range(200)
    }
    assert hidden == {"둘.", "셋.", "넷."} and places == {1, 2, 3}


@pytest.mark.parametrize(
    ("key", "kind", "fields", "words"),
    [
        ("keyword_tagging", "article", {"keywords": ["1,000원", "요금"]}, "a keyword holds a comma"),
        ("answerability_classification", "unanswerable", {"question": "왜?", "answer": "몰라"}, "has an answer"),
        (
            "answerability_classification",
            "extractive_short",
            {"question": "왜?", "answer": "3층"},
            "not in the passage",
        ),
        (
            "abstractive_qa_objective",
            "abstractive_objective",
            {"question": "무엇?", "answer": "가", "options": ["가 / 나", "다"]},
            "which parts the options",
        ),
        *(
            (
                "extractive_qa_yes_no_explanation",
                "extractive_yes_no_explanation",
                {
                    "question": "맞나?",
                    "answer": "예",
                    "evidence": evidence,
                    "explanation": "'처음 두 시간은 무료'라고 했다. 3층.",
                },
                "the evidence stands not in",
            )
            for evidence in ("3층", "개찰구")  # in the explanation alone, in the passage alone
        ),
    ],
)
def test_what_the_finished_row_would_not_show_is_refused(key, kind, fields, words):
    with pytest.raises(Refused, match=words):
        made(key, Material(kind=kind, name="a", group="a", text=TEXT, **fields))


def test_the_other_spelling_of_no_is_brought_to_the_standard():
    assert standard_no("아니오\n'글'") == "아니요\n'글'" and standard_no("아니오라고 했다") == "아니오라고 했다"
    assert material("abstractive_yes_no", "a", "a", question="맞나?", answer="아니오").answer == "아니요"


@pytest.mark.parametrize(
    ("header", "rows"),
    [(["가"], []), (["가"], [["나", "다"]]), ([], [[]]), ("가", [["나"]]), (["가"], [[1]]), (["가"], "나")],
)
def test_a_table_that_is_no_rectangle_of_texts(header, rows):
    with pytest.raises(Refused):
        table_material("t", header, rows)


def test_formats_and_validators_agree_on_a_random_material():
    rng = random.Random(0)
    for key in ("text_completion", "text_composition"):
        for number in range(50):
            source = Material(kind="article", name=str(number), group="a", text=TEXT + f" 그래서 {number}번 다시 왔다.")
            assert TASKS[key].check(*TASKS[key].make(source, rng)) is None


def test_a_task_of_ones_own_has_no_rule():
    assert check_row(row("poetry", "", "시")) is None
    assert check_row(row("poetry", "시", " ")) == "the row has no text under output"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("2명", "12명이 왔다"),
        ("12년", "2012년"),
        ("500원", "1,500원이다"),
        ("제2", "제21조"),
        ("5미터", "키는 3.5미터"),
    ],
)
def test_a_part_of_a_number_is_no_answer(answer, text):
    passage = f"지문: {text}\n질문: 얼마?"
    assert check_row(row("extractive_qa_subjective_short", passage, answer)) == "the answer is not in the passage"
    assert (
        check_row(row("extractive_qa_subjective_short", f"{passage[:4]}모두 {answer}, {passage[4:]}", answer)) is None
    )
    assert check_row(row("keyword_tagging", f"값 {text}", f"값, {answer}")) == "a keyword is not in the text"
