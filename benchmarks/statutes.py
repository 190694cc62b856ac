"""Articles of Korean statutes in the shared corpus, as training pairs for law_articles: name and heading find the article."""

import gzip
import re
from collections.abc import Collection
from pathlib import Path

from helpers.data.pairs import Pairs

ARTICLE = re.compile(r"(?P<statute>.{2,80}?) (?P<number>제\d+조(?:의\d+)?)\((?P<heading>.+?)\) (?P<body>.{20,})")
NAME = re.compile(r"(.{2,80}?) 제\d+조")


def statute_of(document: str) -> str:
    """The statute that an article names in its first words: "민법 제2조 ..." -> "민법"."""
    return NAME.match(document)[1]


def statute_pairs(corpus: Path, without: Collection[str]) -> Pairs:
    """One pair an article, in the form of law_articles: "민법 신의성실" -> "민법 제2조 ① 권리의 ...".

    without  statutes to leave out: those of the benchmark
    A line that is no article, or has a query that was there before, gives none.
    """
    pairs: dict[str, str] = {}
    with gzip.open(corpus, "rt", encoding="utf-8") as lines:
        for found in map(ARTICLE.fullmatch, map(str.strip, lines)):
            if found and found["statute"] not in without:
                document = f"{found['statute']} {found['number']} {found['body']}"
                pairs.setdefault(f"{found['statute']} {found['heading']}", document)
    return Pairs(list(pairs), list(pairs.values()))
