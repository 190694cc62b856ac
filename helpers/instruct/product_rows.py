"""A first instruction task from the course's own table of products: read a description, name the domain, nothing else."""

import random

from helpers.course.paths import sample_data
from helpers.course.tables import read_table

DOMAINS = ("금융", "통신", "여행", "가전", "건강", "교육")
TASK = "Product Domain"
PHRASINGS = (
    f"상품 설명을 읽고 분야를 하나만 고르세요: {', '.join(DOMAINS)}",
    f"다음 상품은 어느 분야에 속하나요? {', '.join(DOMAINS)} 가운데 한 낱말로 답해 주세요.",
    f"아래 설명에 맞는 분야 이름만 써 줘. 후보는 {', '.join(DOMAINS)}.",
    f"이 서비스의 분야를 {', '.join(DOMAINS)} 중에서 골라 적으시오.",
)


def product_rows(limit: int | None = None, seed: int = 13) -> list[dict[str, str]]:
    """Rows ``{"instruction", "input", "output", "task"}`` in a random order that the seed decides; at most 650."""
    draw = random.Random(seed)
    table = read_table(sample_data("products/products.csv"))
    rows = [
        {"instruction": draw.choice(PHRASINGS), "input": description, "output": domain, "task": TASK}
        for description, domain in zip(table["description"], table["domain"], strict=True)
    ]
    draw.shuffle(rows)
    return rows[:limit]
