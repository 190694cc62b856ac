"""Answers a second: vLLM's engine beside batched, length-sorted `generate`; constrained choice beside free answers.

    python benchmarks/vllm_engine.py                                  # 64 rows, 256 tokens: ten minutes on one core
    python benchmarks/vllm_engine.py --rows 32 --tokens 64

Same merged model, prompts, dtype and number of tokens in one run. `free` writes exactly `--tokens` tokens for every row.
`mixed` gives every row a length of its own (evenly spread from 4 to `--tokens`, shuffled), as answers have: the engine ends
each at its length, `generate` runs a batch to its longest, told beforehand how long that is. Only tokens that were asked for
count. `generate` sorts by prompt length and is asked at each of `--batch_sizes`, the best of which counts. The engine's prefix
cache is off, so that nothing is read from an earlier repeat. They take turns, `--repeats` times, and the median counts; times
are wall times, because the engine works in a process of its own. The first line says how busy the machine was.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from helpers.course.machine import detect_machine
from helpers.instruct.export import save_merged
from helpers.instruct.generation import LocalModel
from helpers.instruct.product_rows import DOMAINS, product_rows
from helpers.instruct.tuning import tuned_adapter
from helpers.instruct.vllm_engine.engine import Engine

MODEL = "sample_data/models/ko-mini-mistral"
SEED = 13


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def by_generate(model: LocalModel, prompts: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """Batches of like prompt length, each run to its longest answer, each answer cut at its own length."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    written: list[list[int]] = [[]] * len(prompts)
    for start in range(0, len(order), model.batch_size):
        rows = order[start : start + model.batch_size]
        longest = max(lengths[row] for row in rows)
        answers = model.generate([prompts[row] for row in rows], longest, min_new_tokens=longest)
        for row, answer in zip(rows, answers, strict=True):
            written[row] = answer[: lengths[row]]
    return written


def by_engine(engine: Engine, prompts: Sequence[list[int]], lengths: Sequence[int]) -> list[list[int]]:
    """All at once, each row with a length of its own."""
    from vllm import SamplingParams

    rules = [SamplingParams(temperature=0.0, max_tokens=n, ignore_eos=True, detokenize=False) for n in lengths]
    done = engine.llm.generate([{"prompt_token_ids": ids} for ids in prompts], rules, use_tqdm=False)
    return [list(one.outputs[0].token_ids) for one in done]


def main() -> None:
    """Measure and print a Markdown table."""
    told = arguments()
    if told.threads:
        torch.set_num_threads(told.threads)
    with tempfile.TemporaryDirectory() as folder:
        merged = save_merged(told.model, tuned_adapter(base=told.model), Path(folder) / "merged")
        local = LocalModel.load(merged, dtype=getattr(torch, told.dtype))
        rows = product_rows(told.rows, SEED)
        prompts = [local.prompt.prompt_ids(row["instruction"], row["input"]) for row in rows]
        spread = [4 + (told.tokens - 4) * place // max(1, len(rows) - 1) for place in range(len(rows))]
        random.Random(SEED).shuffle(spread)
        lengths = {"free": [told.tokens] * len(rows), "mixed": spread}
        busy = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
        print(
            f"{detect_machine().cpu}, {torch.get_num_threads()} thread(s) of torch, {busy}, {told.dtype}, {told.model}\n"
        )
        log = Path(folder) / "engine.log"
        with Engine(merged, dtype=told.dtype, at_once=told.at_once, prefix_caching=False, log=log) as engine:
            measure(told, local, engine, prompts, lengths)


def measure(
    told: argparse.Namespace, local: LocalModel, engine: Engine, prompts: list[list[int]], lengths: dict[str, list[int]]
) -> None:
    """Both contenders in turns, then constrained choice; prints the table."""
    from vllm.sampling_params import StructuredOutputsParams

    choice = StructuredOutputsParams(choice=[engine.prompt.spelled(domain) for domain in DOMAINS])

    def choose(some: Sequence[list[int]] = prompts) -> None:
        engine.ask(some, structured_outputs=choice)

    local.generate(prompts[:2], 2), by_engine(engine, prompts[:2], [2, 2]), choose(prompts[:2])
    seconds: dict[tuple[str, str | int], list[float]] = {}
    for _ in range(told.repeats):
        for name, each in lengths.items():
            for local.batch_size in told.batch_sizes:
                taken = timed(lambda each=each: by_generate(local, prompts, each))
                seconds.setdefault((name, local.batch_size), []).append(taken)
            seconds.setdefault((name, "vLLM"), []).append(timed(lambda each=each: by_engine(engine, prompts, each)))
        seconds.setdefault(("choice", "vLLM"), []).append(timed(choose))
    middle = {key: statistics.median(each) for key, each in seconds.items()}
    print("| what | rows | tokens | generate, rows/s (batch) | vLLM, rows/s | vLLM / generate |")
    print("|---|---|---|---|---|---|")
    for name, each in lengths.items():
        best = min(told.batch_sizes, key=lambda size: middle[name, size])
        theirs, ours = len(prompts) / middle[name, best], len(prompts) / middle[name, "vLLM"]
        print(
            f"| {name} | {len(prompts)} | {sum(each):,} | {theirs:.2f} ({best}) | {ours:.2f} | {ours / theirs:.1f} |",
            flush=True,
        )
    choice = len(prompts) / middle["choice", "vLLM"]
    print(f"\nconstrained choice: {choice:.0f} rows/s, {choice * middle['free', 'vLLM'] / len(prompts):.1f} times free")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="vllm_engine.py"
    )
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256, help="of the longest answer")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--at_once", type=int, default=64, help="answers that the engine writes together")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[16, 64], help="of generate; the best counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="of torch in this process; left out: torch decides")
    return parser.parse_args()


if __name__ == "__main__":
    main()
