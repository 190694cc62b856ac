"""The 22 tasks: what each needs from a source row, how it is written, and what must hold (its validator).

After Super-NaturalInstructions (Wang et al. 2022, arXiv 2204.07705), in the selection that KOSITP made for Korean. The names
in ``name`` are those of that data set. Abstractive questions come without a passage (what does the model know?), extractive
ones with it (what does the text say?).
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from helpers.data.instruction_tasks import checks, formats
from helpers.data.instruction_tasks.material import ARTICLE, PARAPHRASE, SIMPLIFIED, TABLE, Material

Format = Callable[[Material, random.Random], tuple[str, str]]


@dataclass(frozen=True)
class Task:
    """One task. ``make`` writes (input, output) of a material; ``check(input, output)`` gives None or why it is refused.

    ``needs``: the kinds of material that it takes, each with the fields that must be there. ``rule``: the constraint in
    words. ``one_answer``: two rows with the same input and different outputs contradict each other.
    """

    key: str
    name: str
    korean: str
    needs: Mapping[str, tuple[str, ...]]
    make: Format
    check: checks.Check
    rule: str
    one_answer: bool = False

    def takes(self, material: Material) -> bool:
        """Whether this material is of a kind that the task knows and has every field that it needs."""
        return material.kind in self.needs and material.has(self.needs[material.kind])


def _question(key: str, name: str, korean: str, check: checks.Check, rule: str, *, explained: bool = False) -> Task:
    """A task of questions: what its key says decides which kind it takes and which parts its input has."""
    kind = key.replace("subjective_", "").replace("_qa_", "_")
    passage, options = kind.startswith("extractive"), "objective" in kind
    needs = ("text",) * passage + ("question", "answer") + ("options",) * options
    needs += ("evidence", "explanation") * explained
    make = partial(formats.question, passage=passage, options=options, explained=explained)
    return Task(key, name, korean, {kind: needs}, make, check, rule, one_answer=not key.endswith("long"))


_ALL = (
    Task(
        "answerability_classification", "Answerability Classification", "답변 가능 여부",
        {"extractive_short": ("text", "question", "answer"), "unanswerable": ("text", "question")},
        formats.answerability, checks.answerability,
        "one of two verdicts; an answerable question's answer stands in the passage", True,
    ),
    Task(
        "summarization", "Summarization", "요약", {ARTICLE: ("text", "summary")}, formats.summary, checks.summary,
        "at least a third of the text's characters, and shorter than the text",
    ),
    Task(
        "title_generation", "Title Generation", "제목 생성", {ARTICLE: ("text", "title")}, formats.title, checks.title,
        "at most 60 characters, no sentence of the text",
    ),
    _question(
        "abstractive_qa_objective", "Abstractive QA Objective", "지식 질의 · 객관식", checks.objective,
        "the answer is one of the 2 to 6 options",
    ),
    _question(
        "abstractive_qa_subjective_short", "Abstractive QA Subjective Short answer", "지식 질의 · 단답", checks.short_answer,
        "at most 30 characters",
    ),
    _question(
        "abstractive_qa_subjective_long", "Abstractive QA Subjective Long answer", "지식 질의 · 서술", checks.long_answer,
        "at least 60 characters",
    ),
    _question(
        "abstractive_qa_yes_no", "Abstractive QA Yes or No", "지식 질의 · 예/아니요", checks.yes_no, "예 or 아니요",
    ),
    _question(
        "extractive_qa_objective", "Extractive QA Objective", "지문 질의 · 객관식", checks.quoted_objective,
        "the answer is one of the options and stands in the passage",
    ),
    _question(
        "extractive_qa_yes_no", "Extractive QA Yes or No", "지문 질의 · 예/아니요", checks.quoted_yes_no, "예 or 아니요",
    ),
    _question(
        "extractive_qa_subjective_short", "Extractive QA Subjective Short answer", "지문 질의 · 단답", checks.quoted_short,
        "stands in the passage, at most 30 characters",
    ),
    _question(
        "extractive_qa_subjective_long", "Extractive QA Subjective Long answer", "지문 질의 · 서술", checks.quoted_long,
        "stands in the passage, at least 40 characters",
    ),
    _question(
        "extractive_qa_objective_explanation", "Extractive QA Objective Explanation", "지문 질의 · 객관식과 근거",
        checks.objective_explained, "one of the options, then a reason that quotes the passage", explained=True,
    ),
    _question(
        "extractive_qa_yes_no_explanation", "Extractive QA Yes or No Explanation", "지문 질의 · 예/아니요와 근거",
        checks.yes_no_explained, "예 or 아니요, then a reason that quotes the passage", explained=True,
    ),
    Task(
        "text_completion", "Text Completion", "이어 쓰기", {ARTICLE: ("text",)}, formats.completion, checks.completion,
        "the beginning stops inside a sentence; 10 characters or more on both sides",
    ),
    Task(
        "title_to_contents", "Title2Contents Generation", "제목으로 글쓰기", {ARTICLE: ("title", "text")},
        formats.contents, checks.contents, "at least three times as long as its title",
    ),
    Task(
        "text_simplification", "Text Simplification", "문장 단순화", {SIMPLIFIED: ("source", "target")},
        formats.pair, checks.simplification, "at most 50 characters, shorter than the sentence",
    ),
    Task(
        "keyword_tagging", "Keyword Tagging", "핵심어 추출", {ARTICLE: ("text", "keywords")}, formats.keywords,
        checks.keywords, "2 to 10 different keywords, each in the text",
    ),
    Task(
        "text_composition", "Text Composition", "가운데 문장 채우기", {ARTICLE: ("text",)}, formats.composition,
        checks.composition, "2 to 4 numbered sentences around one hole that is neither first nor last",
    ),
    Task(
        "summary_expansion", "Summary(Simplification) Expansion", "요약 확장",
        {ARTICLE: ("text", "summary"), SIMPLIFIED: ("source", "target")},
        formats.expansion, checks.expansion, "longer than the summary",
    ),
    Task(
        "table_qa_short_answer", "Table QA Short answer", "표 질의", {TABLE: ("table", "question", "answer")},
        formats.table_question, checks.table_answer, "the answer is a cell of a row", True,
    ),
    Task(
        "table_to_title", "Table2Title", "표 제목", {TABLE: ("table", "title")}, formats.table_title, checks.table_title,
        "at most 60 characters, no cell of the table",
    ),
    Task(
        "paraphrasing", "Paraphrasing", "바꿔 쓰기", {PARAPHRASE: ("source", "target")}, formats.pair, checks.paraphrase,
        "other words; neither side more than twice as long as the other",
    ),
)  # fmt: skip

TASKS = {task.key: task for task in _ALL}
"""The 22 tasks by key, in the order of the course."""
