"""The course's gradient cache beside sentence-transformers' CachedMultipleNegativesRankingLoss: time, memory, error.

    python benchmarks/grad_cache.py                                   # batches 64, 256, 1024; float32; five repeats
    python benchmarks/grad_cache.py --batches 64 --repeats 3 --dtype bf16 --lora

One step each (loss and backward, no optimizer) on the same weights, the same texts, dropout on, the same dtype and the same
torch kernels; texts are tokenized before the clock starts. Queries and documents come in turn from four shared retrieval sets
(KO_DATA_DIR; in two the documents are long, in one mixed, in one short), cut to --max_length pieces: 512 is all that the
encoder takes; a shorter cut makes the documents alike in length, and less is gained by sorting them. Every contender runs in a
process of its own with one thread. Time is CPU time of that process, which other work on the machine hardly moves; peak memory
is the largest resident set less that before the first step. The floor is what nobody can go below who encodes twice: one pass
without a graph, one forward and backward pass, in chunks of equally long texts. `error` is the norm of the gradient's
difference to one graph over the whole batch, dropout off.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import nullcontext
from itertools import islice, zip_longest
from pathlib import Path

import torch

from helpers.course.files import course_data_dir
from helpers.course.machine import detect_machine, peak_memory_mb, set_seed
from helpers.data.retrieval import read_beir
from helpers.embedding.contrastive import ContrastiveRows, InfoNCE
from helpers.embedding.encoder import Encoder
from helpers.embedding.grad_cache import GradCache

MODEL, BUDGET, TEMPERATURE = "sample_data/models/ko-mini-encoder", 2048, 0.05
SETS = ("petitions", "law_articles", "paraKQC", "wikinews")
OURS, KEPT, FLOOR = "course", "course, 1,024 MB of graphs kept", "floor"
MINI_BATCH, TOKENS = "library, mini-batch 32", "library, 2048 tokens"


def texts(batch: int) -> tuple[list[str], list[str]]:
    """`batch` queries and their documents, from the sets in turn; a set that is used up leaves its turn to the others."""
    pools = []
    for name in SETS:
        data = read_beir(course_data_dir("retrieval", name))
        found = [(data.queries[q], data.corpus[next(iter(grades))].full()) for q, grades in data.qrels.items()]
        pools.append(random.Random(13).sample(found, len(found)))
    in_turn = (pair for each in zip_longest(*pools) for pair in each if pair)
    queries, documents = zip(*islice(in_turn, batch), strict=True)
    return list(queries), list(documents)


def library_step(encoder: Encoder, sides, folder: Path, contender: str, lora: bool):
    """A function that runs one step of the library's loss on the weights in `folder`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = encoder.max_length
    if lora:
        model[0].model = encoder.model  # the same adapters on the same weights
    chunks = {"mini_batch_size": 32} if contender == MINI_BATCH else {"mini_batch_num_tokens": BUDGET}
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **chunks)
    features = [model.preprocess(side) for side in sides]

    def step():
        loss([dict(each) for each in features], None).backward()

    return model, step


def our_step(encoder: Encoder, sides, contender: str):
    """One step of the course's cache, or of the floor."""
    ids = [encoder.tokenize(side) for side in sides]
    loss = InfoNCE(ContrastiveRows.checked(*sides), TEMPERATURE)

    def encode(chunk):
        return encoder(*encoder.pad(chunk))

    cache = GradCache(encode, token_budget=BUDGET, keep_bytes=2**30 if contender == KEPT else 0)
    by_length = defaultdict(list)
    for text in {tuple(text): text for side in ids for text in side}.values():
        by_length[len(text)].append(text)
    chunks = [
        same[i : i + BUDGET // length]
        for length, same in by_length.items()
        for i in range(0, len(same), BUDGET // length)
    ]

    def floor():
        with torch.no_grad():
            for chunk in chunks:
                encode(chunk)
        for chunk in chunks:
            encode(chunk).sum().backward()

    return encoder, floor if contender == FLOOR else lambda: cache(loss, *ids).backward()


def child(contender: str, batch: int, max_length: int, repeats: int, dtype: str, lora: bool) -> dict:
    """Seconds of each repeat, peak memory, and the gradient's error (batches up to 64)."""
    torch.set_num_threads(1)
    set_seed(13)
    sides = texts(batch)
    encoder = Encoder.load(MODEL, max_length=max_length)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save(folder)
        if lora:
            encoder.add_lora(r=16, alpha=32)
        autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else nullcontext()
        if contender.startswith("library"):
            model, step = library_step(encoder, sides, Path(folder), contender, lora)
        else:
            model, step = our_step(encoder, sides, contender)
        model.train()
        before, seconds = peak_memory_mb(), []
        for _ in range(repeats):
            model.zero_grad()
            start = time.process_time()
            with autocast:
                step()
            seconds.append(time.process_time() - start)
        peak = peak_memory_mb() - before
        error = _error(encoder, model, step, sides, autocast) if batch <= 64 and contender != FLOOR else None
    return {"seconds": seconds, "peak_mb": peak, "error": error}


def _error(encoder: Encoder, model, step, sides, autocast) -> float:
    def gradient(module):
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    model.eval()
    model.zero_grad()
    with autocast:
        step()
    given = gradient(model)
    encoder.eval()
    encoder.zero_grad()
    whole = [encoder(*encoder.pad(encoder.tokenize(side))) for side in sides]
    InfoNCE(ContrastiveRows.checked(*sides), TEMPERATURE).whole(*whole).backward()
    exact = gradient(encoder)
    return ((given - exact).norm() / exact.norm()).item()


def main() -> None:
    """Every contender in its own process, one after the other, and a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--max_length", type=int, default=512, help="pieces a text is cut to")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--contenders", nargs="+", default=[OURS, KEPT, FLOOR, MINI_BATCH, TOKENS])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    same = (arguments.max_length, arguments.repeats, arguments.dtype, arguments.lora)
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.batches[0], *same)))
        return
    print(
        f"{detect_machine().cpu}; {arguments.dtype}{', LoRA' if arguments.lora else ''}; texts of at most "
        f"{arguments.max_length} pieces; one thread; CPU seconds"
    )
    options = [f"--{name}={getattr(arguments, name)}" for name in ("max_length", "repeats", "dtype")]
    options += ["--lora"] if arguments.lora else []
    for batch in arguments.batches:
        found = {}
        for name in arguments.contenders:
            command = [sys.executable, __file__, "--child", name, "--batches", str(batch), *options]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[name] = json.loads(output.strip().splitlines()[-1])
        ours = statistics.median(found[OURS]["seconds"])
        for name, result in found.items():
            seconds, error = result["seconds"], result["error"]
            told = "" if error is None else f"   error {error:.0e}"
            print(
                f"batch {batch:5}  {name:31} {statistics.median(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
                f"   {statistics.median(seconds) / ours:.2f} x course   + {result['peak_mb']:5.0f} MB{told}",
                flush=True,
            )


if __name__ == "__main__":
    main()
