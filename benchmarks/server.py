"""The model server under load: are answers lost or mixed up, how long do they take, and what does the server itself cost?

    python benchmarks/server.py                       # 64 clients, 1,000 requests, each answer checked; then the overhead
    python benchmarks/server.py --backend vllm --requests 200

The overhead is measured against the bare engine: the same batch object, stepped in this process, with as many answers
under way as the server has clients. Server and bare engine take turns; the medians of the rounds are compared.
"""

import argparse
import asyncio
import dataclasses
import statistics
import tempfile
import time
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


def drive(batch: Batch, jobs: list[Job], at_once: int) -> tuple[dict[int, list[int]], float, float]:
    """Answers, seconds for all, and median seconds to the first token, with ``at_once`` jobs under way."""
    answers: dict[int, list[int]] = {}
    begun, firsts, waiting = {}, [], list(reversed(jobs))
    start = time.perf_counter()
    open_jobs = 0
    while waiting or batch.busy:
        while waiting and open_jobs < at_once:
            job = waiting.pop()
            begun[job.id] = time.perf_counter()
            batch.add(job)
            open_jobs += 1
        for part in batch.step():
            if part.job not in answers:
                firsts.append(time.perf_counter() - begun[part.job])
            answers.setdefault(part.job, []).extend(part.ids)
            open_jobs -= part.finish is not None
    return answers, time.perf_counter() - start, statistics.median(firsts)


def jobs_for(texts: list[str], prompt: Prompt, tokens: int, *, endless: bool) -> list[Job]:
    stops, read = () if endless else prompt.stop_ids, prompt.tokenizer(texts, add_special_tokens=False).input_ids
    return [Job(number, (prompt.bos_id, *ids), tokens, stops) for number, ids in enumerate(read)]


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
    told = parser.parse_args()
    values = dict(backend=told.backend, tuned=False, dtype="float32", repetition_penalty=1.0, max_requests=told.clients)
    settings = ServingSettings.load(**values)
    [served] = load_served(settings).values()
    machine = detect_machine()
    print(f"{machine.cpu}, {machine.cores} cores, GPU {machine.gpu or 'none'}; backend {told.backend}, float32")
    if told.backend == "vllm":
        bare = worker.vllm_batch(settings, context_length(settings))
    else:
        bare = worker.transformers_batch(settings)
    alone, _, _ = drive(bare, jobs_for(TEXTS, served.prompt, told.tokens, endless=False), 1)
    expected = {text: served.prompt.answer_text(alone[number]) for number, text in enumerate(TEXTS)}
    with tempfile.TemporaryDirectory() as folder, model_server(Path(folder) / "log", **values) as server:
        asked = [TEXTS[number % len(TEXTS)] for number in range(told.requests)]
        load = asyncio.run(put_load(server.url, settings.name, asked, told.clients, told.tokens, raw=True))
        report_load(load, expected, asked)
        few = TEXTS[: 4 * told.at_once]
        jobs = jobs_for(few, served.prompt, 64, endless=True)
        speeds: dict[str, list[float]] = {"bare": [], "server": []}
        firsts: dict[str, list[float]] = {"bare": [], "server": []}
        for number in range(told.rounds):
            fresh = [dataclasses.replace(job, id=(number + 1) * 10_000 + job.id) for job in jobs]
            _, seconds, _ = drive(bare, fresh, told.at_once)
            speeds["bare"].append(64 * len(jobs) / seconds)
            load = asyncio.run(put_load(server.url, settings.name, few, told.at_once, 64, raw=True, ignore_eos=True))
            speeds["server"].append(load.tokens_per_second)
            single = [dataclasses.replace(job, id=(number + 1) * 10_000 + 5000 + job.id, max_tokens=1) for job in jobs]
            firsts["bare"].append(drive(bare, single, 1)[2])
            lone = asyncio.run(put_load(server.url, settings.name, few, 1, 1, raw=True, ignore_eos=True))
            firsts["server"].append(lone.percentiles(50, first=True)[0])
    for what, values_, unit in (("throughput", speeds, "tokens/s"), ("first token, one client", firsts, "s")):
        middle = {name: statistics.median(rounds) for name, rounds in values_.items()}
        print(f"{what}: bare engine {middle['bare']:.4g} {unit}, server {middle['server']:.4g} {unit}", end=", ")
        print(
            f"ratio {middle['server'] / middle['bare']:.2f}; rounds {[f'{x:.4g}' for r in values_.values() for x in r]}"
        )


if __name__ == "__main__":
    main()
