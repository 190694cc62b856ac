"""Rows beside the 22 tasks: labels of public sets as tasks of their own, and plain conversation.

The data set that we follow adds free instructions to its tasks so that answers stay natural. A task of labels teaches the
model that very task: after training on ``nsmc_sentiment`` a score on NSMC is no longer zero-shot, and the card says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from helpers.data.instruction_tasks.material import Refused
from helpers.data.instruction_tasks.rows import standard_no
from helpers.data.text import normalise

FREE = "free_response"
"""An instruction of somebody's own, without a constraint."""


@dataclass(frozen=True)
class Ready:
    """A row that needs no format. ``instruction`` is ``""`` where one is to be drawn."""

    task: str
    name: str
    input: str
    output: str
    instruction: str = ""


@dataclass(frozen=True)
class Extra:
    """A task beside the 22: which keys of a row hold input and output, what labels mean, wordings, allowed outputs."""

    fields: Mapping[str, str]
    phrasings: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    one_answer: bool = True

    @property
    def outputs(self) -> frozenset[str]:
        """The answers that are allowed; empty: any."""
        return frozenset(self.labels.values())


EXTRAS = {
    FREE: Extra({}, (), one_answer=False),
    "words_to_sentence": Extra(
        {"input": "input", "output": "output"},
        (
            "주어진 낱말을 모두 써서 한 문장을 만들어 줘.",
            "아래 단어들이 다 들어가도록 자연스러운 문장을 지어 주세요.",
            "다음 말들을 이어 문장 하나를 쓰시오.",
            "이 단어들로 말이 되는 문장을 만들어 볼래?",
            "제시된 낱말을 빠짐없이 넣어 한 문장으로 완성하십시오.",
        ),
        one_answer=False,
    ),
    "nsmc_sentiment": Extra(
        {"input": "document", "output": "label"},
        (
            "다음 영화평이 긍정인지 부정인지 말해 줘.",
            "이 리뷰를 쓴 사람은 영화를 좋게 보았나요? 긍정 또는 부정으로 답해 주세요.",
            "아래 감상평의 감정을 긍정, 부정 가운데 하나로 고르시오.",
            "리뷰를 읽고 긍정/부정을 판단하십시오.",
            "영화 한 줄 평이야. 긍정이야, 부정이야?",
        ),
        {"1": "긍정", "0": "부정"},
    ),
    "intent_classification": Extra(
        {"input": "text", "output": "label_text"},
        (
            "다음 말의 의도를 단편, 서술, 질문, 명령, 수사 의문문, 수사 명령문, 억양 의존 중에서 골라 줘.",
            "이 발화는 어떤 종류인가요? 단편, 서술, 질문, 명령, 수사 의문문, 수사 명령문, 억양 의존 중 하나로 답해 주세요.",
            "아래 발화를 단편, 서술, 질문, 명령, 수사 의문문, 수사 명령문, 억양 의존으로 분류하시오.",
        ),
        {
            "단편(fragment)": "단편",
            "평서(statement)": "서술",
            "질문(question)": "질문",
            "명령(command)": "명령",
            "수사의문(rhetorical question)": "수사 의문문",
            "수사명령(rhetorical command)": "수사 명령문",
            "억양의존(intonation-dependent)": "억양 의존",
        },
    ),
    "petition_topic": Extra(
        {"input": "title", "output": "label"},
        (
            "다음 청원은 어느 분야에 속해?",
            "청원 제목을 보고 알맞은 분야를 말해 주세요.",
            "아래 청원의 분야를 쓰시오.",
        ),
    ),
}
"""The tasks beside the 22, by key."""


def extra(task: str) -> Extra:
    """What is known of a task beside the 22. One of somebody's own has no constraint, as a free instruction has none."""
    return EXTRAS.get(task, EXTRAS[FREE])


def ready(task: str, name: str, input: str, output: str, instruction: str = "") -> Ready:
    """A finished row in the normal form. Raises :class:`Refused` for an empty text or a label that nobody knows."""
    labels = extra(task).labels
    if labels and output not in {*labels, *labels.values()}:  # a value: a row that this course wrote
        raise Refused(f"the label {output!r} is unknown")
    row = Ready(task, name, *map(_lines, (input, labels.get(output, standard_no(output)), instruction)))
    if not row.output or not (row.input or row.instruction):
        raise Refused("a text of the row is empty")
    return row


def _lines(text: str) -> str:
    """The normal form, line by line: finished rows keep their line breaks (parts of an input, lists in an answer)."""
    return "\n".join(line for line in map(normalise, text.split("\n")) if line)
