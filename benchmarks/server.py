"""The model server under load: are answers lost or mixed up, how long do they take, and what does the server itself cost?

    python benchmarks/server.py                       # 64 clients, 1,000 requests, each answer checked; then the overhead
    python benchmarks/server.py --backend vllm --requests 200
    python benchmarks/server.py --threads 2           # threads of the engine, bare and served

Without --threads the bare engine has all cores, and the served one as many as the server gives it: one less.

The overhead is measured against the bare engine: the same batch object, stepped in this process, with as many answers
(of 16 to 112 tokens) under way as the server has clients. The first token is timed with one client, who asks again at once
or after a pause of 50 ms, in which processors and thread pools fall asleep; the bare engine has the same pause. Server and
bare engine take turns; the medians of the rounds are compared.
"""

import argparse
import asyncio
import dataclasses
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.course.machine import detect_machine
from helpers.instruct.prompts import Prompt
from helpers.serving import worker
from helpers.serving.background import model_server
from helpers.serving.jobs import Batch, Job
from helpers.serving.load import Load, put_load
from helpers.serving.served import context_length, load_served
from helpers.serving.settings import ServingSettings

PLACES = (
    "부산",
    "제주도",
    "시골 학교",
    "우주 정거장",
    "오래된 시장",
    "기차역",
    "바닷가",
    "산속 절",
    "도서관",
    "놀이공원",
)
THINGS = ("고양이", "첫눈", "빵집 주인", "김치", "잃어버린 우산", "할머니", "축구공", "일기장", "무지개", "오래된 시계")
TEXTS = [f"{place}에서 본 {thing}" for place in PLACES for thing in THINGS]
"""To be continued as they stand: unlike answers to questions, the continuations differ whatever the weights are."""
PAUSES = {"first token, asked at once": 0.0, "first token, after a pause": 0.05}
UNITS = {"throughput": "tokens/s"} | dict.fromkeys(PAUSES, "s")


def drive(batch: Batch, jobs: list[Job], at_once: int) -> tuple[dict[int, list[int]], float]:
    """Answers, and seconds for all, with ``at_once`` jobs under way."""
    answers: dict[int, list[int]] = {}
    waiting, open_jobs = list(reversed(jobs)), 0
    start = time.perf_counter()
    while waiting or batch.busy:
        while waiting and open_jobs < at_once:
            batch.add(waiting.pop())
            open_jobs += 1
        for part in batch.step():
            answers.setdefault(part.job, []).extend(part.ids)
            open_jobs -= part.finish is not None
    return answers, time.perf_counter() - start


def first_token(batch: Batch, jobs: list[Job], pause: float) -> float:
    """Median seconds to the first token of one job at a time, each after a pause."""
    taken = []
    for job in jobs:
        time.sleep(pause)
        start = time.perf_counter()
        batch.add(dataclasses.replace(job, max_tokens=1))
        while not batch.step():
            pass
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def jobs_for(texts: list[str], prompt: Prompt, lengths: list[int], *, endless: bool) -> list[Job]:
    stops, read = () if endless else prompt.stop_ids, prompt.tokenizer(texts, add_special_tokens=False).input_ids
    return [Job(number, (prompt.bos_id, *ids), lengths[number], stops) for number, ids in enumerate(read)]


def continuation(prompt: Prompt, before: Sequence[int], ids: Sequence[int]) -> str:
    """What the ids add to the text before them, its first space included."""
    return prompt.raw_answer_text([*before, *ids])[len(prompt.raw_answer_text(before)) :]


def renumbered(jobs: list[Job], numbers: Iterator[int]) -> list[Job]:
    return [dataclasses.replace(job, id=next(numbers)) for job in jobs]


def report_load(load: Load, expected: dict[str, str], asked: list[str]) -> None:
    texts = set(expected.values())
    wrong = [t for t in load.timings if t.text != expected[asked[t.question]]]
    mixed = sum(timing.text in texts for timing in wrong)
    print(
        f"{load.clients} clients, {len(asked)} requests: {len(load.timings)} answered, {len(texts)} different answers"
    )
    print(f"equal to the answer alone: {len(load.timings) - len(wrong)}, another text's answer: {mixed}")
    for name, first in (("whole answer", False), ("first text", True)):
        p50, p95, p99 = load.percentiles(50, 95, 99, first=first)
        print(f"{name}: p50 {p50:.3f} s, p95 {p95:.3f} s, p99 {p99:.3f} s")
    print(f"{len(load.timings) / load.wall:.1f} requests/s, {load.tokens_per_second:.0f} tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="transformers", choices=("transformers", "vllm"))
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--at_once", type=int, default=16, help="clients of the overhead measurement")
    parser.add_argument("--threads", type=int, help="of the engine, bare and served")
    told = parser.parse_args()
    if told.threads:
        import torch  # after helpers, which says how torch's threads wait

        torch.set_num_threads(told.threads)
    values = dict(
        threads=told.threads,
        backend=told.backend,
        tuned=False,
        dtype="float32",
        repetition_penalty=1.0,
        max_requests=told.clients,
    )
    settings = ServingSettings.load(**values)
    [served] = load_served(settings).values()
    machine = detect_machine()
    print(f"{machine.cpu}, {machine.cores} cores, GPU {machine.gpu or 'none'}; backend {told.backend}, float32")
    if told.backend == "vllm":
        bare = worker.vllm_batch(settings, context_length(settings))
    else:
        bare = worker.transformers_batch(settings)
    jobs = jobs_for(TEXTS, served.prompt, [told.tokens] * len(TEXTS), endless=False)
    alone, _ = drive(bare, jobs, 1)
    expected = {
        text: continuation(served.prompt, job.ids, alone[job.id]) for text, job in zip(TEXTS, jobs, strict=True)
    }
    name = settings.name
    with (
        tempfile.TemporaryDirectory() as folder,
        model_server(Path(folder) / "log", **values) as server,
    ):
        asked = [TEXTS[number % len(TEXTS)] for number in range(told.requests)]
        load = asyncio.run(put_load(server.url, name, asked, told.clients, told.tokens, raw=True))
        report_load(load, expected, asked)
        few = TEXTS[: 5 * told.at_once]
        lengths = [random.Random(13 + number).randint(16, 112) for number in range(len(few))]
        jobs = jobs_for(few, served.prompt, lengths, endless=True)
        measured: dict[str, dict[str, list[float]]] = {what: {"bare engine": [], "server": []} for what in UNITS}
        numbers = itertools.count(10_000)  # of jobs: none twice
        for _ in range(told.rounds):
            bare_seconds = drive(bare, renumbered(jobs, numbers), told.at_once)[1]
            load = asyncio.run(put_load(server.url, name, few, told.at_once, lengths, raw=True, ignore_eos=True))
            measured["throughput"]["bare engine"].append(sum(lengths) / bare_seconds)
            measured["throughput"]["server"].append(load.tokens_per_second)
            for what, pause in PAUSES.items():
                lone = asyncio.run(put_load(server.url, name, few, 1, 1, raw=True, ignore_eos=True, pause=pause))
                measured[what]["bare engine"].append(first_token(bare, renumbered(jobs, numbers), pause))
                measured[what]["server"].append(lone.percentiles(50, first=True)[0])
    for what, rounds in measured.items():
        middle = {who: statistics.median(values) for who, values in rounds.items()}
        ratio = middle["server"] / middle["bare engine"]
        print(f"{what}, {UNITS[what]}:", ", ".join(f"{who} {value:.4g}" for who, value in middle.items()), end="; ")
        print(f"ratio {ratio:.2f}; rounds {[f'{value:.4g}' for values in rounds.values() for value in values]}")


if __name__ == "__main__":
    main()
