"""How long Korean texts are: in characters, words (어절), syllables (음절), and pieces of a tokenizer."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

SYLLABLE = re.compile("[가-힣]")
PIECES_AT_ONCE = 1000


def syllables(text: str) -> int:
    """Hangul syllables in a text (in NFC; letters that stand apart, ㅋㅋ, are none)."""
    return len(SYLLABLE.findall(text))


def piece_counts(texts: Sequence[str], tokenizer: Callable[..., Any]) -> list[int]:
    """Pieces of each text by a transformers tokenizer, without the special ones around it."""
    counts: list[int] = []
    for start in range(0, len(texts), PIECES_AT_ONCE):
        part = list(texts[start : start + PIECES_AT_ONCE])
        counts += [len(ids) for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]
    return counts


def text_lengths(texts: Sequence[str], tokenizer: Callable[..., Any] | None = None) -> pd.DataFrame:
    """One row a text: characters, words, syllables; by a tokenizer pieces and pieces_per_syllable."""
    table = pd.DataFrame(
        {
            "characters": [len(text) for text in texts],
            "words": [len(text.split()) for text in texts],
            "syllables": [syllables(text) for text in texts],
        }
    )
    if tokenizer is not None:
        table["pieces"] = piece_counts(texts, tokenizer)
        table["pieces_per_syllable"] = table["pieces"] / table["syllables"].where(table["syllables"] > 0)
    return table
