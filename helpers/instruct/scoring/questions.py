"""How the four sets are asked: the only place where a question or a label word of the zero-shot evaluation stands.

Minimal, as the seeds' prompts are: one sentence that says the task, then the text. Every set has three phrasings or
more, because a score that holds for one phrasing only says more about the phrasing than about the model. The first one
is the default. Phrasings that put the task first share a prefix over all rows, which is then computed only once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from helpers.course.errors import InputError
from helpers.instruct.prompts import Prompt
from helpers.instruct.rows import in_line

CONTENT_FREE = ("N/A", "[MASK]", "…")
"""Texts that say nothing and hold no label: a model's answers to them are its habit, not its judgement (arXiv 2102.09690)."""


@dataclass(frozen=True)
class ZeroShotTask:
    """One set as a question: ``words`` maps each class to the Korean word that answers it, ``phrasings`` hold the
    text columns of the set in braces."""

    name: str
    words: Mapping[str, str]
    phrasings: Mapping[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of their words; label likelihoods have one column for each."""
        return tuple(self.words)

    def question(self, row: Mapping[str, str], phrasing: str | None = None) -> str:
        """The text of one question; ``phrasing`` None is the first one."""
        return self._template(phrasing).format_map(row)

    def content_free(self, text: str, phrasing: str | None = None) -> str:
        """The same question about a text that says nothing."""
        return self._template(phrasing).format_map(_Everywhere(text))

    def prompts(self, prompt: Prompt, table: pd.DataFrame, phrasing: str | None = None) -> list[list[int]]:
        """Token ids of one question for each row of the table. Raises :class:`InputError` that names task and line."""
        ids = []
        for row in table.to_dict("records"):
            try:
                ids.append(prompt.prompt_ids(self.question(row, phrasing)))
            except InputError as error:
                raise in_line(error, self.name, row.get("line")) from error
        return ids

    def label_ids(self, prompt: Prompt) -> list[list[int]]:
        """Token ids of the label words as this prompt trains answers, without the EOS after them."""
        begin = len(prompt.prompt_ids("?"))
        return [prompt.example("?", word).input_ids[begin:-1] for word in self.words.values()]

    def _template(self, phrasing: str | None) -> str:
        name = next(iter(self.phrasings)) if phrasing is None else phrasing
        if name not in self.phrasings:
            raise InputError(
                f"the task {self.name} has no such phrasing",
                place="phrasing",
                given=name,
                allowed=list(self.phrasings),
            )
        return self.phrasings[name]


class _Everywhere(dict[str, str]):
    """Gives the same text for every column."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def __missing__(self, key: str) -> str:
        return self._text


TASKS = {
    "kornli": ZeroShotTask(
        "kornli",
        {"entailment": "함의", "neutral": "중립", "contradiction": "모순"},
        {
            "task first": "두 문장의 관계를 함의, 중립, 모순 가운데 하나로 답하세요.\n\n"
            "문장 1: {sentence1}\n문장 2: {sentence2}",
            "as a choice": "문장 1이 참일 때 문장 2는 함의, 모순, 중립 중 어느 것인지 고르세요.\n\n"
            "문장 1: {sentence1}\n문장 2: {sentence2}",
            "text first": "문장 1: {sentence1}\n문장 2: {sentence2}\n\n두 문장의 관계는 함의, 중립, 모순 중 무엇인가요?",
        },
    ),
    "question_pair": ZeroShotTask(
        "question_pair",
        {"same": "같음", "different": "다름"},
        {
            "task first": "두 질문의 뜻이 같으면 같음, 다르면 다름이라고 답하세요.\n\n질문 1: {question1}\n질문 2: {question2}",
            "as a choice": "다음 두 질문은 다름과 같음 중 어느 쪽인지 고르세요.\n\n질문 1: {question1}\n질문 2: {question2}",
            "text first": "질문 1: {question1}\n질문 2: {question2}\n\n두 질문의 뜻이 같은가요? 같음 또는 다름으로 답하세요.",
        },
    ),
    "hate_speech": ZeroShotTask(
        "hate_speech",
        {"no bias": "없음", "bias": "있음"},
        {
            "task first": "다음 댓글에 사회적 편견이 있으면 있음, 없으면 없음이라고 답하세요.\n\n댓글: {comments}",
            "as a choice": "댓글을 읽고 사회적 편견의 유무를 없음 또는 있음으로 고르세요.\n\n댓글: {comments}",
            "text first": "댓글: {comments}\n\n이 댓글에 사회적 편견이 있나요? 있음 또는 없음으로 답하세요.",
        },
    ),
    "nsmc": ZeroShotTask(
        "nsmc",
        {"negative": "부정", "positive": "긍정"},
        {
            "task first": "다음 영화 리뷰가 긍정인지 부정인지 답하세요.\n\n리뷰: {document}",
            "as a choice": "영화 리뷰의 감정을 부정과 긍정 중 하나로 고르세요.\n\n리뷰: {document}",
            "text first": "리뷰: {document}\n\n이 영화 리뷰는 긍정인가요, 부정인가요?",
        },
    ),
}
"""In the order of the seeds' table."""


def task_named(name: str) -> ZeroShotTask:
    """The task of that name, for the harness's task files. Raises :class:`InputError` that lists the names."""
    if name not in TASKS:
        raise InputError("there is no such task", place="task", given=name, allowed=list(TASKS))
    return TASKS[name]
