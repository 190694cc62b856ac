"""What a run reads: both tokenizers, every line's ids in one array, and where lines and documents start."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
from corpus import read_corpus, read_sample, token_arrays, train_tokenizer
from recipe import DOCUMENT_SOURCES, SAMPLE, SPECIALS

from helpers.course.errors import InputError
from helpers.course.files import short_path


def prepare(settings: dict) -> None:
    """Tokenizers, token arrays of both sides and the lines' sources, under `run_dir`.

    Raises InputError where `data_dir` is not there, or lacks a file.
    """
    run_dir, data_dir = settings["run_dir"], settings["data_dir"]
    if not data_dir.is_dir():
        hint = "KO_DATA_DIR or data_dir names it; sample_data: the repository's own texts, smoke size"
        raise InputError("the folder of the corpus is not there", file=short_path(data_dir), hint=hint)
    sample = data_dir.resolve() == SAMPLE
    print("the repository's own texts alone, smoke size" if sample else f"the corpus of {short_path(data_dir)}")
    train, held_out, removed = read_sample(SAMPLE) if sample else read_corpus(data_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    print(f"{len(train):,} lines to train on, {len(held_out):,} held out, removed as test texts: {dict(removed)}")
    texts: dict[str, list[str]] = {}
    for line in train:
        texts.setdefault(line.source, []).append(line.text)
    rng, drawn = random.Random(settings["seed"]), []
    for lines in texts.values():  # capped, so that reviews and statutes do not own the vocabulary
        rng.shuffle(lines)
        total = 0
        for text in lines:
            if total > 4_000_000:
                break
            drawn.append(text)
            total += len(text)
    rng.shuffle(drawn)
    for kind, specials in SPECIALS.items():
        tokenizer = train_tokenizer(iter(drawn), settings[kind]["vocab_size"], specials, kind)
        if tokenizer.get_vocab_size() > settings[kind]["vocab_size"]:
            least = f"bytes, special tokens and characters alone are {tokenizer.get_vocab_size():,} pieces"
            raise SystemExit(f"{kind}.vocab_size: {settings[kind]['vocab_size']:,} is too small for this text; {least}")
        tokenizer.save(str(run_dir / f"{kind}.json"))
        for name, lines in (("", train), ("_held", held_out)):
            ids, offsets = token_arrays(tokenizer, lines)
            np.save(run_dir / f"{kind}{name}_ids.npy", ids)
            np.save(run_dir / f"{kind}{name}_off.npy", offsets)
        print(f"{kind}: {tokenizer.get_vocab_size():,} pieces, {len(ids):,} held-out tokens")
    sides = {"": [line.source for line in train], "_held": [line.source for line in held_out]}
    (run_dir / "src.pkl").write_bytes(pickle.dumps(sides))


def read_arrays(run_dir: Path, kind: str, side: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, line offsets and the source of every line; `side` "_held" for the lines that training does not see.

    Raises InputError where `prepare` has not been run.
    """
    if not (run_dir / "src.pkl").is_file():
        raise InputError(
            "there are no token arrays here", file=short_path(run_dir), hint="run `pretrain.py prepare` first"
        )
    sides = pickle.loads((run_dir / "src.pkl").read_bytes())  # written by `prepare`, not downloaded
    ids, offsets = (np.load(run_dir / f"{kind}{side}_{part}.npy") for part in ("ids", "off"))
    return ids, offsets, np.array(sides[side])


def documents(offsets: np.ndarray, sources: np.ndarray, most: int = 400) -> np.ndarray:
    """First line of every document: neighbouring lines of one document source are joined up to about `most` tokens."""
    lengths = np.diff(offsets)
    joinable = np.zeros(len(sources), dtype=bool)
    for prefix in DOCUMENT_SOURCES:
        joinable |= np.char.startswith(sources, prefix)
    firsts, size = [], 0
    for i in range(len(sources)):
        if i and joinable[i] and sources[i] == sources[i - 1] and size + lengths[i] <= most:
            size += lengths[i] + 1
        else:
            firsts.append(i)
            size = lengths[i]
    return np.array([*firsts, len(sources)])
