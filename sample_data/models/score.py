"""The scores on the two cards.

    python sample_data/models/score.py encoder [FOLDER]             KorSTS dev, NDCG@10 of petitions and wikinews
    python sample_data/models/score.py lm --pieces 5000000 [FOLDER] bits per character, beside a 5-gram on as much text
    python sample_data/models/score.py continuations [FOLDER]       five continuations per source, unselected
    python sample_data/models/score.py loading                      seconds until the first output of either model

All read the corpus and the evaluation sets from KO_DATA_DIR (default ../shared/data).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from corpus import Line, read_corpus
from ngram import KneserNey, bits_per_character

from helpers.course.paths import course_data_dir
from helpers.data.pairs import read_sts
from helpers.data.retrieval import read_beir
from helpers.embedding.encoder import Encoder
from helpers.embedding.evaluation import sts_spearman
from helpers.embedding.retrieval_metrics import retrieval_metrics
from helpers.embedding.scoring.runs import bm25_run, dense_run, documents_of, judged_queries
from helpers.instruct.models import load_language_model

HERE = Path(__file__).resolve().parent
FIRST_OUTPUT = {  # what is imported, and what is done then
    "ko-mini-encoder": (
        "from helpers.embedding.encoder import Encoder",
        "Encoder.load({folder!r}).encode(['안녕하세요'])",
    ),
    "ko-mini-mistral": (
        "import transformers.models.mistral.modeling_mistral; from helpers.instruct.models import load_language_model",
        "t, m = load_language_model({folder!r}); m.generate(**t('안녕', return_tensors='pt'), max_new_tokens=1)",
    ),
}


def score_encoder(folder: Path) -> None:
    """Spearman on KorSTS dev; NDCG@10 of the test queries of two retrieval sets beside BM25."""
    encoder = Encoder.load(folder)
    pairs = read_sts(course_data_dir("sts", "sts-dev.tsv"))
    print(f"KorSTS dev, Spearman: {sts_spearman(encoder, pairs.first, pairs.second, pairs.scores):.3f}")
    for name in ("petitions", "wikinews"):
        test = read_beir(course_data_dir("retrieval", name))
        test = test.of_split("test") if "test" in test.splits.values() else test
        queries, documents = judged_queries(test), documents_of(test)
        dense = dense_run(queries, documents, encoder.encode, encoder.encode)
        sparse = bm25_run(queries, documents)
        figures = [retrieval_metrics(run, test.qrels)["ndcg@10"] for run in (dense, sparse)]
        print(f"{name}, {len(test.queries)} queries, NDCG@10: {figures[0]:.3f} (BM25 {figures[1]:.3f})", flush=True)


def by_source(lines: Sequence[Line]) -> dict[str, list[str]]:
    sources: dict[str, list[str]] = {}
    for line in lines:
        sources.setdefault(line.source, []).append(line.text)
    return sources


@torch.inference_mode()
def model_bits(tokenizer, model, lines: Sequence[str]) -> float:
    """-log2 p of all pieces and of EOS, over the characters; lines must fit into the model's context."""
    nats, characters = 0.0, 0
    for line in lines:
        ids = torch.tensor([[*tokenizer(line)["input_ids"], tokenizer.eos_token_id]])
        logits = model(ids).logits[0, :-1].float()
        nats += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        characters += len(line)
    return nats / np.log(2) / characters


def score_lm(folder: Path, pieces: int) -> None:
    """Bits per character on the held-out lines of each source, beside 5-grams on as much text and on all of it."""
    tokenizer, model = load_language_model(folder)
    train, held_out, _ = read_corpus(course_data_dir())
    held = {name: [line for line in lines if len(line) <= 500] for name, lines in by_source(held_out).items()}
    rng = np.random.default_rng(13)
    order = rng.permutation(len(train))
    budget, same_amount = pieces, []
    for i in order:  # the model drew its lines from the same shares
        if budget <= 0:
            break
        same_amount.append(train[i].text)
        budget -= len(tokenizer(train[i].text)["input_ids"]) + 1
    few, everything = KneserNey(same_amount), KneserNey(line.text for line in train)
    print("| source | lines | model | 5-gram, as much text | 5-gram, all text |\n|---|---|---|---|---|")
    held = dict(sorted(held.items(), key=lambda item: -len(item[1]))) | {
        "all": [t for lines in held.values() for t in lines]
    }
    for name, lines in held.items():
        if lines:
            bits = (
                model_bits(tokenizer, model, lines),
                bits_per_character(few, lines),
                bits_per_character(everything, lines),
            )
            print(f"| {name} | {len(lines)} | " + " | ".join(f"{value:.2f}" for value in bits) + " |", flush=True)


@torch.inference_mode()
def continuations(folder: Path, count: int = 5) -> None:
    """The first `count` held-out lines of each source, continued from at most 12 characters (seed 13, T 0.8)."""
    tokenizer, model = load_language_model(folder)
    _, held_out, _ = read_corpus(course_data_dir())
    torch.manual_seed(13)
    for name, lines in by_source(held_out).items():
        print(f"\n## {name}\n")
        for line in lines[:count]:
            start = line[: max(4, min(len(line) // 4, 12))].strip()  # a beginning, not a sentence of the source
            ids = tokenizer(start, return_tensors="pt")["input_ids"]
            out = model.generate(
                ids, max_new_tokens=40, do_sample=True, temperature=0.8, pad_token_id=tokenizer.pad_token_id
            )
            text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).replace("\n", " ")
            print(f"- *{start}* …{text}", flush=True)


def loading() -> None:
    """Seconds from the start of a process to the first output, and from the loading of the model, all imports done."""
    for name, (imports, work) in FIRST_OUTPUT.items():
        work = work.format(folder=str(HERE / name))
        timed = f"import time; {imports}; t0 = time.time(); {work}; print(time.time() - t0)"
        start = time.time()
        inside = float(subprocess.run([sys.executable, "-c", timed], check=True, capture_output=True, text=True).stdout)
        print(f"{name}: {time.time() - start:.1f} s with imports, {inside:.1f} s after them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("score", choices=["encoder", "lm", "continuations", "loading"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--pieces", type=int, default=1_000_000, help="how many pieces the language model saw")
    arguments = parser.parse_args()
    folder = arguments.folder or HERE / ("ko-mini-encoder" if arguments.score == "encoder" else "ko-mini-mistral")
    if arguments.score == "lm":
        score_lm(folder, arguments.pieces)
    elif arguments.score == "loading":
        loading()
    else:
        {"encoder": score_encoder, "continuations": continuations}[arguments.score](folder)


if __name__ == "__main__":
    main()
