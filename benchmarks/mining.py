"""Mining hard negatives beside the bare search that it rests on: time and peak memory.

    python benchmarks/mining.py                                             # 20,000 queries x 100,000 documents x 256
    python benchmarks/mining.py --queries 2000 --documents 20000 --repeats 3

`helpers.embedding.mining.mine` searches, leaves known positives out, and applies rank window and margin; faiss's flat index
alone only searches (the same library, the same kernels). Unit vectors drawn at random, one positive a query. Every contender
runs in a process of its own with one thread. Time is CPU time of that process, which other work on the machine hardly moves;
peak memory is the largest resident set less what was resident before the first search, the vectors themselves included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import faiss
import numpy as np
import torch

from helpers.course.machine import detect_machine, forget_peak, peak_memory_mb
from helpers.embedding.mining import mine

TOP = 30
FLAT, OURS, MATMUL = "faiss flat, search only", "course, faiss", "course, matmul"


def vectors(count: int, width: int, seed: int) -> np.ndarray:
    """(count, width) unit vectors in float32."""
    drawn = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def child(contender: str, queries: int, documents: int, width: int, repeats: int) -> dict:
    """Seconds of each repeat and peak memory."""
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    asked, bank = vectors(queries, width, 0), vectors(documents, width, 1)
    positives = [[number % documents] for number in range(queries)]

    def search():
        index = faiss.IndexFlatIP(width)
        index.add(bank)
        index.search(asked, TOP)

    def mined():
        mine(asked, bank, positives, top=TOP, search="faiss" if contender == OURS else "matmul")

    forget_peak()
    before, seconds = peak_memory_mb(), []
    for _ in range(repeats):
        start = time.process_time()
        search() if contender == FLAT else mined()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds, "peak_mb": peak_memory_mb() - before}


def main() -> None:
    """Every contender in its own process, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"queries": 20_000, "documents": 100_000, "width": 256, "repeats": 5}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        print(json.dumps(child(told.child, told.queries, told.documents, told.width, told.repeats)))
        return
    print(
        f"{detect_machine().cpu}; {told.queries:,} x {told.documents:,} x {told.width}, top {TOP}; one thread; CPU seconds"
    )
    flat = None
    for name in (FLAT, OURS, MATMUL):
        command = [sys.executable, __file__, "--child", name]
        command += [part for size in sizes for part in (f"--{size}", str(getattr(told, size)))]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(output.strip().splitlines()[-1])
        middle = statistics.median(found["seconds"])
        flat = flat or middle
        spread = f"({min(found['seconds']):.2f} to {max(found['seconds']):.2f})"
        print(
            f"{name:26} {middle:7.2f} s {spread}   {middle / flat:.2f} x faiss flat   + {found['peak_mb']:5.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
