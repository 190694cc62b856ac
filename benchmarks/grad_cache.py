"""The course's gradient cache beside sentence-transformers' CachedMultipleNegativesRankingLoss: time, memory, error.

    python benchmarks/grad_cache.py                                   # batches 64, 256, 1024; float32; five repeats
    python benchmarks/grad_cache.py --batches 64 --repeats 3 --dtype bf16 --lora

One step each (loss and backward, no optimizer) on the same weights, the same texts, dropout on, the same dtype; the course
with its own dropout and attention (`use_fast_dropout`), the library with torch's, and each once more with the other's, so
that both run the same kernels; the library's chunks hold so many texts or so many tokens. Texts are tokenized before the
clock starts. Queries and documents come in turn from four shared retrieval sets (KO_DATA_DIR; in two the documents are
long, in one mixed, in one short), cut to --max_length pieces: 512 is all that the encoder takes; a shorter cut makes the
documents alike in length, and less is gained by sorting them. Every contender has a process of its own with one thread, and
they take their steps in turn. Time is CPU time of that process, which other work on the machine hardly moves; peak memory
is the largest resident set of all steps less what was resident before the first. The floor is what nobody can go below who
encodes twice: one pass without a graph, one forward and backward pass, over as many tokens in full chunks without padding
(each text is cut, or repeated, to the mean length of its chunk); its ratio is the share of what can be reached that the
course reaches. `error` is the norm of the gradient's difference to one graph over the whole batch, dropout off, for batches
up to --error.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice, zip_longest
from pathlib import Path

import torch

from helpers.course.files import course_data_dir
from helpers.course.machine import detect_machine, forget_peak, peak_memory_mb, set_seed
from helpers.data.retrieval import read_beir
from helpers.embedding.contrastive import ContrastiveRows, InfoNCE
from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.fast_dropout import use_fast_dropout
from helpers.embedding.grad_cache import GradCache

MODEL, BUDGET, TEMPERATURE = "sample_data/models/ko-mini-encoder", 2048, 0.05
SETS = ("petitions", "law_articles", "paraKQC", "wikinews")
FLOOR = "floor"
COURSE = "course(?:, ([0-9]+) tokens)?(, torch's kernels)?(?:, ([0-9]+) MB of graphs kept)?"
LIBRARY = "library, ([0-9]+) (texts|tokens)(, our kernels)?"
CONTENDERS = (
    *("course", "course, torch's kernels", "course, 1024 MB of graphs kept", FLOOR),
    *("library, 1 texts", "library, 32 texts", "library, 2048 tokens", "library, 2048 tokens, our kernels"),
)


def texts(batch: int) -> tuple[list[str], list[str]]:
    """`batch` queries and their documents, from the sets in turn; a set that is used up leaves its turn to the others."""
    pools = []
    for name in SETS:
        data = read_beir(course_data_dir("retrieval", name))
        found = [(data.queries[q], data.corpus[next(iter(grades))].full()) for q, grades in data.qrels.items()]
        pools.append(random.Random(13).sample(found, len(found)))
    if sum(map(len, pools)) < batch:
        raise SystemExit(f"a batch of {batch} was asked for, and the sets hold {sum(map(len, pools))} pairs")
    in_turn = (pair for each in zip_longest(*pools) for pair in each if pair)
    queries, documents = zip(*islice(in_turn, batch), strict=True)
    return list(queries), list(documents)


def known(contender: str) -> str:
    """The name, where it says what to measure."""
    if any(re.fullmatch(pattern, contender) for pattern in (COURSE, FLOOR, LIBRARY)):
        return contender
    raise argparse.ArgumentTypeError(f"{contender!r}; allowed, for instance: {'; '.join(CONTENDERS)}")


def library_step(encoder: Encoder, sides, folder: Path, contender: str, lora: bool):
    """A function that runs one step of the library's loss on the weights in `folder`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = encoder.max_length
    if lora:
        model[0].model = encoder.model  # the same adapters on the same weights
    size, unit, ours = re.fullmatch(LIBRARY, contender).groups()
    if ours:
        use_fast_dropout(model[0].model)
    chunks = {"mini_batch_size" if unit == "texts" else "mini_batch_num_tokens": int(size)}
    loss = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, **chunks)
    features = [model.preprocess(side) for side in sides]

    def step():
        loss([dict(each) for each in features], None).backward()

    return model, step


def full_chunks(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """As many tokens in chunks of at most `BUDGET`, each of texts of one length; long texts together, short ones together."""
    chunks: list[list[list[int]]] = [[]]
    for text in sorted(texts, key=len):
        if sum(map(len, chunks[-1])) + len(text) > BUDGET:
            chunks.append([])
        chunks[-1].append(text)
    left = 0  # tokens by which lengths so far were rounded down
    for chunk in chunks:
        tokens = sum(map(len, chunk)) + left
        length = min(round(tokens / len(chunk)), len(chunk[-1]))
        left = tokens - length * len(chunk)
        yield [(text * (length // len(text) + 1))[:length] for text in chunk]


def our_step(encoder: Encoder, sides, contender: str):
    """One step of the course's cache, or of the floor."""
    tokens, torchs, kept = (None,) * 3 if contender == FLOOR else re.fullmatch(COURSE, contender).groups()
    if not torchs:
        use_fast_dropout(encoder.model)
    ids = [encoder.tokenize(side) for side in sides]
    loss = InfoNCE(ContrastiveRows.checked(*sides), TEMPERATURE)

    def encode(chunk):
        return encoder(*encoder.pad(chunk))

    cache = GradCache(encode, token_budget=int(tokens or BUDGET), keep_bytes=2**20 * int(kept or 0))
    chunks = list(full_chunks([list(text) for text in {tuple(text) for side in ids for text in side}]))

    def floor():
        with torch.no_grad():
            for chunk in chunks:
                encode(chunk)
        for chunk in chunks:
            encode(chunk).sum().backward()

    return encoder, floor if contender == FLOOR else lambda: cache(loss, *ids).backward()


def child(contender: str, batch: int, max_length: int, dtype: str, lora: bool, with_error: bool) -> None:
    """One step for each line that comes in, answered by its seconds; at the end peak memory and the gradient's error."""
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
        forget_peak()
        before = peak_memory_mb()
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            model.zero_grad()
            start = time.process_time()
            with autocast:
                step()
            print(json.dumps({"seconds": time.process_time() - start}), flush=True)
        told = {"peak_mb": peak_memory_mb() - before}
        with_error = with_error and contender != FLOOR
        print(json.dumps(told | {"error": _error(encoder, model, step, sides, autocast) if with_error else None}))


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


def answer(process: subprocess.Popen) -> dict:
    """The next JSON line of a child; other lines are a library's talk."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(process.wait() or 1)  # it has told why


def measure(contenders: list[str], batch: int, repeats: int, options: list[str]) -> dict[str, dict]:
    """Seconds of every step, peak memory and error, by contender."""
    command = [sys.executable, __file__, "--batches", str(batch), *options, "--child"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = {name: subprocess.Popen([*command, name], **pipes) for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    try:
        for process in children.values():
            answer(process)
        for _ in range(repeats):
            for name, process in children.items():
                print("step", file=process.stdin, flush=True)
                seconds[name].append(answer(process)["seconds"])
        for process in children.values():
            process.stdin.close()
        found = {name: {"seconds": seconds[name]} | answer(process) for name, process in children.items()}
        for process in children.values():
            process.wait()
    finally:
        for process in children.values():
            process.kill()  # where one of them failed; the others have ended
    return found


def main() -> None:
    """Every contender in its own process, their steps in turn, and a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--max_length", type=int, default=512, help="pieces a text is cut to")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument(
        "--error", type=int, default=64, help="largest batch whose gradient is compared (one whole graph)"
    )
    parser.add_argument("--contenders", nargs="+", type=known, default=CONTENDERS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        batch = told.batches[0]
        child(told.child, batch, told.max_length, told.dtype, told.lora, batch <= told.error)
        return
    print(
        f"{detect_machine().cpu}; {told.dtype}{', LoRA' if told.lora else ''}; texts of at most "
        f"{told.max_length} pieces; one thread; CPU seconds"
    )
    options = [f"--{name}={getattr(told, name)}" for name in ("max_length", "dtype", "error")]
    options += ["--lora"] if told.lora else []
    peer = "course" if "course" in told.contenders else told.contenders[0]
    for batch in told.batches:
        found = measure(list(dict.fromkeys(told.contenders)), batch, told.repeats, options)
        whole = statistics.median(found[peer]["seconds"])
        for name, result in found.items():
            seconds, error = result["seconds"], result["error"]
            off = "" if error is None else f"   error {error:.0e}"
            print(
                f"batch {batch:5}  {name:35} {statistics.median(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
                f"   {statistics.median(seconds) / whole:.2f} x {peer}   + {result['peak_mb']:5.0f} MB{off}",
                flush=True,
            )


if __name__ == "__main__":
    main()
