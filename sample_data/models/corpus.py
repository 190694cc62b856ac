"""The pretraining corpus as token arrays: read, decontaminate, hold out, tokenize.

A source is a range of lines in `corpus_ko.txt.gz` (see `corpus_ko.sources.tsv` beside it). A line is held out when
the hash of its text says so, so equal lines always fall on the same side and a later run holds out the same ones.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from helpers.course.errors import InputError
from helpers.course.files import short_path
from helpers.course.rejects import Rejects
from helpers.data.benchmarks import BENCHMARKS, read_benchmark

HOLD_OUT = 400  # one line of the corpus in so many never reaches training
HOLD_OUT_SAMPLE = 30  # of the repository's own few texts


RETRIEVAL = ("petitions", "law_articles", "paraKQC", "wikinews")
NEEDED = (  # of a folder with the corpus; the files of the four sets in zero_shot are named where they are read
    "corpus/corpus_ko.sources.tsv",
    "corpus/corpus_ko.txt.gz",
    "sts/sts-dev.tsv",
    *(f"retrieval/{name}/queries.jsonl" for name in RETRIEVAL),
    "retrieval/wikinews/corpus.jsonl",
    "zero_shot",
)


@dataclass(frozen=True)
class Line:
    """One line of the corpus with the source it came from."""

    text: str
    source: str


def key_of(text: str) -> str:
    """Text without spaces, punctuation and case: two texts with one key count as the same text."""
    return "".join(c for c in unicodedata.normalize("NFC", text).lower() if c.isalnum())


def is_held_out(text: str, one_in: int = HOLD_OUT) -> bool:
    """Whether a line belongs to the held-out side; depends on the text alone."""
    digest = hashlib.blake2b(key_of(text).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % one_in == 0


def evaluation_keys(data_dir: Path) -> set[str]:
    """Keys of every text that a score of the course is computed on and that must not be trained on."""
    texts: list[str] = []
    with open(data_dir / "sts/sts-dev.tsv", encoding="utf-8") as file:
        for row in list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]:
            texts += row[5:7]
    for name in RETRIEVAL:
        queries = (data_dir / "retrieval" / name / "queries.jsonl").read_text(encoding="utf-8")
        texts += [row["text"] for row in map(json.loads, queries.splitlines()) if row.get("split", "test") == "test"]
    # The corpus holds these articles line by line; all of them are test documents. The other sets' it does not hold.
    articles = (data_dir / "retrieval/wikinews/corpus.jsonl").read_text(encoding="utf-8")
    for row in map(json.loads, articles.splitlines()):
        texts += row["text"].split("\n")
    for name, benchmark in BENCHMARKS.items():
        rejects = Rejects(data_dir / "zero_shot" / name)  # not kept: a row that cannot be read is not scored either
        table = read_benchmark(name, data_dir / "zero_shot", rejects)
        for column in benchmark.text_columns:
            texts += table[column].tolist()
    return {key_of(text) for text in texts} - {""}


def read_corpus(data_dir: Path) -> tuple[list[Line], list[Line], Counter[str]]:
    """Training lines, held-out lines and the number of lines that decontamination removed from each source.

    Raises InputError that names the file or folder that `data_dir` lacks.
    """
    for name in NEEDED:
        if not (data_dir / name).exists():
            why = "the corpus cannot be read: a file is missing, of its own or of the tests whose texts are left out"
            raise InputError(why, file=short_path(data_dir / name), hint="KO_DATA_DIR or data_dir names the folder")
    with open(data_dir / "corpus/corpus_ko.sources.tsv", encoding="utf-8") as file:
        sources = list(csv.DictReader(file, delimiter="\t"))
    with gzip.open(data_dir / "corpus/corpus_ko.txt.gz", "rt", encoding="utf-8") as file:
        texts = file.read().split("\n")
    forbidden = evaluation_keys(data_dir)
    train, held_out, removed = [], [], Counter()
    for source in sources:
        for text in texts[int(source["first_line"]) - 1 : int(source["last_line"])]:
            key = key_of(text)
            if not key:
                continue
            if key in forbidden:
                removed[source["source"]] += 1
                continue
            line = Line(unicodedata.normalize("NFC", text.strip()), source["source"])
            (held_out if is_held_out(text) else train).append(line)
    return train, held_out, removed


def read_sample(sample_dir: Path) -> tuple[list[Line], list[Line], Counter[str]]:
    """The same for the repository's own texts alone: enough to see every step work, too little to learn Korean."""
    train, held_out = [], []
    files = {
        "sentences": (sample_dir / "sentences/normal_sentences.txt").read_text(encoding="utf-8").splitlines(),
        "hansol": [
            json.loads(row)["text"]
            for row in (sample_dir / "retrieval/hansol/corpus.jsonl").read_text(encoding="utf-8").splitlines()
        ],
    }
    for source, texts in files.items():
        for text in filter(None, map(str.strip, texts)):
            line = Line(unicodedata.normalize("NFC", text), source)
            (held_out if is_held_out(text, HOLD_OUT_SAMPLE) else train).append(line)
    return train, held_out, Counter()


def train_tokenizer(texts: Iterator[str], vocab_size: int, specials: list[str], kind: str) -> Tokenizer:
    """BPE over words with byte fallback: a piece never crosses a space, no syllable is ever unknown.

    `kind` "encoder" wraps a text as `[CLS] text [SEP]`; "lm" puts BOS before it, and EOS stays for the caller to add.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=specials[1], fuse_unk=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{M}\p{N}▁]"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials + [f"<0x{byte:02X}>" for byte in range(256)],
        limit_alphabet=min(3000, max(vocab_size - 600, vocab_size // 2)),  # rarer ones in bytes: pieces need room
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    first, last = specials[2], specials[3]
    template = f"{first} $A {last}" if kind == "encoder" else f"{first} $A"
    pair = f"{first} $A {last} $B {last}" if kind == "encoder" else f"{first} $A {first} $B"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, pair=pair, special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, last)]
    )
    # The trainer takes the byte pieces as special tokens, which decoding skips: they are ordinary pieces.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    return Tokenizer.from_str(json.dumps(state))


def token_arrays(tokenizer: Tokenizer, lines: list[Line]) -> tuple[np.ndarray, np.ndarray]:
    """All lines' ids without special tokens as one uint16 array, and the offsets (lines + 1) at which each starts."""
    ids, offsets = [], [0]
    for start in range(0, len(lines), 20_000):
        chunk = [line.text for line in lines[start : start + 20_000]]
        for encoding in tokenizer.encode_batch(chunk, add_special_tokens=False):
            ids.append(np.asarray(encoding.ids, dtype=np.uint16))
            offsets.append(offsets[-1] + len(ids[-1]))
    return np.concatenate(ids), np.asarray(offsets, dtype=np.int64)
