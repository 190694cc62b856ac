"""What a run reads: both tokenizers, every line's ids in one array, and where lines and documents start."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
from corpus import read_corpus, read_sample, token_arrays, train_tokenizer
from recipe import DOCUMENT_SOURCES, ROOT, SPECIALS


def prepare(settings: dict) -> None:
    """Tokenizers, token arrays of both sides and the lines' sources, under `run_dir`."""
    run_dir = settings["run_dir"]
    run_dir.mkdir(parents=True, exist_ok=True)
    real = (settings["data_dir"] / "corpus").is_dir()
    train, held_out, removed = read_corpus(settings["data_dir"]) if real else read_sample(ROOT / "sample_data")
    print(f"{len(train):,} lines to train on, {len(held_out):,} held out, removed as test texts: {dict(removed)}")
    texts: dict[str, list[str]] = {}
    for line in train:
        texts.setdefault(line.source, []).append(line.text)
    rng, sample = random.Random(settings["seed"]), []
    for lines in texts.values():  # capped, so that reviews and statutes do not own the vocabulary
        rng.shuffle(lines)
        total = 0
        for text in lines:
            if total > 4_000_000:
                break
            sample.append(text)
            total += len(text)
    rng.shuffle(sample)
    for kind, specials in SPECIALS.items():
        tokenizer = train_tokenizer(iter(sample), settings[kind]["vocab_size"], specials, kind)
        if tokenizer.get_vocab_size() > settings[kind]["vocab_size"]:
            least = f"bytes, special tokens and characters alone are {tokenizer.get_vocab_size():,} pieces"
            raise SystemExit(f"{kind}.vocab_size: {settings[kind]['vocab_size']:,} is too small for this text; {least}")
        tokenizer.save(str(run_dir / f"{kind}.json"))
        for name, lines in (("", train), ("_held", held_out)):
            ids, offsets = token_arrays(tokenizer, lines)
            np.save(run_dir / f"{kind}{name}_ids.npy", ids)
            np.save(run_dir / f"{kind}{name}_off.npy", offsets)
        print(f"{kind}: {tokenizer.get_vocab_size():,} pieces, {len(ids):,} held-out tokens")
    sides = ([line.source for line in train], [(line.source, line.text) for line in held_out])
    (run_dir / "src.pkl").write_bytes(pickle.dumps(sides))


def read_arrays(run_dir: Path, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, line offsets and the source of every line."""
    sources = np.array(pickle.loads((run_dir / "src.pkl").read_bytes())[0])  # written by `prepare`, not downloaded
    return np.load(run_dir / f"{kind}_ids.npy"), np.load(run_dir / f"{kind}_off.npy"), sources


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
