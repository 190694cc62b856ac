"""One normal form for every text: composed Hangul (NFC), single spaces, no invisible characters."""

import re
import unicodedata

import polars as pl

INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
"""Zero-width space, word joiner, byte order mark, soft hyphen: nobody sees them, every tokenizer does."""

MEANS = r"(?<=\d)[.:/~-](?=\d)|(?<!\w)-(?=\d)|(?<=[a-z])[+#]|(?<=[a-z]\+)\+"
"""Signs that tell texts apart: 1.5 is not 15, -5 not 5, 3:15 not 31:5, C++ not C#."""
NO_LETTER = re.compile(rf"(?:(?!{MEANS})[\W_])+")
"""Everything else that ``str.isalnum`` denies, run by run."""

DOUBTFUL = (
    r"  |^ | $|[\x00-\x1f\x7f-\xa0\xad]"  # spaces in a row or at the edge, control characters, no-break space
    r"|[\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb]"  # Hangul letters (jamo) that stand apart
    r"|[\u1680\u2000-\u200b\u2028-\u202f\u205f\u2060\u3000\ufeff]"  # other spaces, zero width
    r"|\p{M}|[\u0340-\u0387\u0900-\u0fff\u1f00-\u1fff\u2126-\u212b\u2329\u232a\u2adc]"  # marks, doubles of letters
    r"|[\uf900-\ufaff\ufb1d-\ufb4f]|[\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1f}]"
)
"""Every text that :func:`normalise` would change matches this (Rust's regex dialect); most texts match nothing."""


def normalise(text: str) -> str:
    """The text in NFC, invisible characters dropped, every run of white space one space, none at the ends.

    NFC joins Hangul letters (U+1112 U+1161 U+11AB) into syllables (U+D55C): the two look the same and are not equal.
    """
    return " ".join(_composed(text).split())


def _composed(text: str) -> str:
    """NFC comes last: what an invisible character kept apart joins when it is gone."""
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def normalise_columns(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """:func:`normalise` on every cell of a table of text columns (null becomes ``""``), and how many cells it changed.

    Only doubtful cells pass through Python: a scan finds them some ten times faster than normalising all.
    """
    table = table.select(pl.all().fill_null("")).rechunk()
    doubtful = table.select(pl.all().str.contains(DOUBTFUL))
    changed = 0
    for name in table.columns:
        rows = doubtful[name].arg_true()
        before = table[name].gather(rows)
        after = pl.Series(name, [normalise(text) for text in before], dtype=pl.String)
        changed += int((before != after).sum())
        table = table.with_columns(table[name].scatter(rows, after)) if len(rows) else table
    return table, changed


def text_key(text: str) -> str:
    """The text without spaces, case and punctuation that says nothing (``""``: no letter in it).

    Texts with one key count as the same. An emoji is no letter (좋아요😀 and 좋아요😡 are one), and a comma between digits
    says nothing (1,000 is 1000, and 3,5 is 35): the corpora and models of this course were made under this key.
    """
    return NO_LETTER.sub("", "".join(_composed(text).casefold().split()))


def key_of(text: str) -> str:
    """What equal texts have in common: their :func:`text_key`, or the text itself where it holds no letter (○, ×)."""
    return text_key(text) or normalise(text)
