"""One normal form for every text: composed Hangul (NFC), single spaces, no invisible characters."""

import re
import unicodedata

import numpy as np
import polars as pl

INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad]")
"""Zero-width space, word joiner, byte order mark, soft hyphen: nobody sees them, every tokenizer does."""

DOUBTFUL = (
    r"  |^ | $|[\x00-\x1f\x7f-\xa0\xad]"  # spaces in a row or at the edge, control characters, no-break space
    r"|[\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb]"  # Hangul letters (jamo) that stand apart
    r"|[\u1680\u2000-\u200b\u2028-\u202f\u205f\u2060\u3000\ufeff]"  # other spaces, zero width
    r"|\p{M}|[\u0340-\u0387\u0900-\u0fff\u1f00-\u1fff\u2126-\u212b\u2329\u232a\u2adc]"  # marks; doubles of other letters
    r"|[\uf900-\ufaff\ufb1d-\ufb4f]|[\x{1d15e}-\x{1d1c0}\x{2f800}-\x{2fa1f}]"
)
"""Every text that :func:`normalise` would change matches this (Rust regex); most texts match nothing and are left alone."""

SPACE, DELETE = 0x20, 0x7F
BLOCK = 1 << 18
"""Bytes looked at in one go: few enough to stay in the processor's cache."""


def normalise(text: str) -> str:
    """The text in NFC, invisible characters dropped, every run of white space one space, none at the ends.

    NFC joins Hangul letters (U+1112 U+1161 U+11AB) into syllables (U+D55C): the two look the same and are not equal.
    """
    return " ".join(INVISIBLE.sub("", unicodedata.normalize("NFC", text)).split())


def normalise_columns(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """:func:`normalise` on every cell of a table of text columns (null becomes ``""``), and how many cells it changed.

    Only doubtful cells pass through Python; a look at the bytes clears most columns, a regex most of the other cells.
    """
    changed = 0
    for name in table.columns:
        texts = table[name].fill_null("").rechunk()
        rows = pl.Series([], dtype=pl.UInt32) if _plain(texts) else texts.str.contains(DOUBTFUL).arg_true()
        before = texts.gather(rows)
        after = pl.Series(name, [normalise(text) for text in before], dtype=pl.String)
        changed += int((before != after).sum())
        table = table.with_columns(texts.scatter(rows, after) if len(rows) else texts)
    return table, changed


def _plain(texts: pl.Series) -> bool:
    """True where the bytes of a column show that no text of it matches ``DOUBTFUL`` (five times faster than the regex)."""
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = array.buffers()
    if data is None:
        return True
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    octets = np.frombuffer(data, np.uint8)[: ends[-1]]
    full = ends[1:] > ends[:-1]
    if (octets[ends[:-1][full]] == SPACE).any() or (octets[ends[1:][full] - 1] == SPACE).any():
        return False
    rare: set[int] = set()
    for start in range(int(ends[0]), len(octets), BLOCK):
        block = octets[start : start + BLOCK + 3]  # three more bytes, so that no character is cut
        if len(block) < BLOCK + 3:
            block = np.append(block, np.frombuffer(b"zzz", np.uint8))
        space = block == SPACE
        if (space[1:] & space[:-1]).any() or (block < SPACE).any() or (block == DELETE).any():
            return False
        rare.update(_rare_characters(block))
    characters = [code.to_bytes(4, "big").rstrip(b"\0").decode() for code in rare]
    return not pl.Series(characters, dtype=pl.String).str.contains(DOUBTFUL).any()


def _rare_characters(block: np.ndarray) -> list[int]:
    """The characters of a block beyond ASCII and Hangul syllables, each as its UTF-8 bytes in one number."""
    first, second = block[:-3], block[1:-2]
    rare = (first >= 0xC2) & (first - np.uint8(0xEA) > 3)  # a first byte, and not one that Hangul syllables begin with
    rare |= ((first == 0xEA) & (second < 0xB0)) | ((first == 0xED) & (second >= 0x9E))  # what else begins with those
    at = np.flatnonzero(rare)
    lead = block[at]
    codes = (lead.astype(np.uint32) << 24) | (block[at + 1].astype(np.uint32) << 16)
    codes |= np.where(lead >= 0xE0, block[at + 2], 0).astype(np.uint32) << 8
    codes |= np.where(lead >= 0xF0, block[at + 3], 0)
    return np.unique(codes).tolist()
