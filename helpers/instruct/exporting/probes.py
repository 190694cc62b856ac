"""Questions of the export gate: short answers that the adapter was trained for, and open ones where it has to go on."""

import random
from itertools import chain, zip_longest

from helpers.instruct.exporting.gate import Question
from helpers.instruct.product_rows import product_rows

OPEN = (
    "비 오는 날 집에서 하기 좋은 일을 하나 알려 주세요.",
    "다음 문장을 높임말로 바꾸세요: 밥 먹었어?",
    "'봄비'를 넣어 짧은 글을 지어 보세요.",
    "도서관에서 지켜야 할 예절은 무엇인가요?",
    "서울에서 부산까지 기차로 가는 방법을 설명해 줘.",
    "김치를 오래 두면 왜 시어지나요?",
    "다음 낱말의 뜻을 쓰세요: 마중물",
    "회의에 늦는다고 알리는 문자를 써 주세요.",
    "운동을 꾸준히 하려면 어떻게 해야 할까요?",
    "겨울철 수도가 얼지 않게 하려면?",
    "고양이와 강아지의 다른 점을 한 가지 말해 보세요.",
    "오늘 배운 것을 한 문장으로 정리하는 습관은 왜 좋을까요?",
)


def probe_questions(count: int, seed: int = 13) -> list[Question]:
    """``count`` questions (instruction, input), the two kinds in turn; the same for the same seed."""
    trained = [(row["instruction"], row["input"]) for row in product_rows(count, seed)]
    written = [(text, "") for text in random.Random(seed).sample(OPEN, len(OPEN))]
    mixed = chain.from_iterable(zip_longest(written, trained))
    return [question for question in mixed if question is not None][:count]
