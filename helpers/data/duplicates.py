"""Texts that stand in a set twice, exactly or nearly, and splits that share none of them."""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import pandas as pd

from helpers.course.errors import InputError
from helpers.data.text import key_of, text_key

ROUNDING = 1e-9
"""0.07 * 100 is a little more than 7: a bound that is rounded up must not take it for 8."""


def exact_duplicates(texts: Sequence[str]) -> list[list[int]]:
    """The places of texts that are the same but for spaces, punctuation and case, group by group."""
    groups: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(texts):
        groups[key_of(text)].append(place)
    return [places for places in groups.values() if len(places) > 1]


def character_grams(text: str, n: int = 3) -> frozenset[str]:
    """The runs of ``n`` characters in a text's key; a shorter text is its own only run."""
    key = text_key(text)
    return frozenset(key[i : i + n] for i in range(max(len(key) - n, 0) + 1)) if key else frozenset()


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Shared members over all members, 0 to 1."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared) if shared else 0.0


def near_duplicates(texts: Sequence[str], threshold: float = 0.6, n: int = 3) -> list[tuple[int, int, float]]:
    """Pairs (i < j, similarity) whose character n-grams have a Jaccard similarity of ``threshold`` or more, best first.

    Exact, not MinHash's estimate, and still no comparison of all with all: a pair that similar must share one of the
    rarest n-grams of each (prefix filtering; Bayardo, Ma and Srikant, WWW 2007).
    """
    if not 0 < threshold <= 1:
        raise InputError("a threshold lies between 0 and 1", given=threshold, allowed="above 0, at most 1")
    sets = [character_grams(text, n) for text in texts]
    least = [math.ceil(threshold * size - ROUNDING) for size in range(max(map(len, sets), default=0) + 1)]
    frequency = Counter(gram for grams in sets for gram in grams)
    holders: dict[str, list[int]] = defaultdict(list)
    found = []
    for place in sorted(range(len(sets)), key=lambda i: (len(sets[i]), i)):
        grams = sets[place]
        rarest = sorted(grams, key=lambda gram: (frequency[gram], gram))
        prefix = rarest[: len(grams) - least[len(grams)] + 1] if grams else []
        for other in {other for gram in prefix for other in holders[gram]}:
            similarity = jaccard(grams, sets[other]) if len(sets[other]) >= least[len(grams)] else 0.0
            if similarity >= threshold:
                found.append((min(place, other), max(place, other), similarity))
        for gram in prefix:
            holders[gram].append(place)
    return sorted(found, key=lambda pair: (-pair[2], pair[:2]))


def without_duplicates(texts: Sequence[str], threshold: float | None = None) -> tuple[list[str], pd.DataFrame]:
    """The texts without repetitions (the first of a group stays), and what went: columns text, reason, kept.

    Exact repetitions always go, near ones (:func:`near_duplicates`) where a ``threshold`` is given.
    """
    instead: dict[int, tuple[int, str]] = {}
    for places in exact_duplicates(texts):
        instead |= {place: (places[0], "same text") for place in places[1:]}
    for first, second, similarity in near_duplicates(texts, threshold) if threshold is not None else []:
        if first not in instead and second not in instead:
            instead[second] = (first, f"similarity {similarity:.2f}")
    gone = [(texts[place], reason, texts[kept]) for place, (kept, reason) in sorted(instead.items())]
    kept = [text for place, text in enumerate(texts) if place not in instead]
    return kept, pd.DataFrame(gone, columns=["text", "reason", "kept"])


def linked(rows: Sequence[Sequence[str]]) -> list[list[int]]:
    """Row numbers in groups: rows that share a text (:func:`helpers.data.text.text_key`), directly or by a chain of others."""
    group = list(range(len(rows)))

    def head(row: int) -> int:
        while group[row] != row:
            group[row] = group[group[row]]
            row = group[row]
        return row

    seen: dict[str, int] = {}
    for row, texts in enumerate(rows):
        for text in texts:
            other = seen.setdefault(key_of(text), row)
            group[head(row)] = head(other)
    members: dict[int, list[int]] = defaultdict(list)
    for row in range(len(rows)):
        members[head(row)].append(row)
    return list(members.values())


def split_rows(rows: Sequence[Sequence[str]], share: float, seed: int = 13) -> tuple[list[int], list[int]]:
    """Two lists of row numbers, the second with about ``share`` of the rows, that have no text in common.

    A row is a tuple of texts (a pair, a triplet). Rows that are :func:`linked` stay together; so the second part may be a
    little smaller than asked for. Raises :class:`InputError` where it would be empty.
    """
    if not 0 < share < 1:
        raise InputError("a share lies between 0 and 1", given=share, allowed="above 0, below 1")
    groups = linked(rows)
    random.Random(seed).shuffle(groups)
    second: list[int] = []
    for each in groups:
        if len(second) + len(each) <= share * len(rows):
            second += each
    if not second:
        raise InputError(
            "so small a share holds no row",
            place="share",
            given=f"{share} of {len(rows)} rows",
            hint=f"the fewest rows that stay together are {min(map(len, groups), default=0)}",
        )
    return sorted(set(range(len(rows))) - set(second)), sorted(second)
