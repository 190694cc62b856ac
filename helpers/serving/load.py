"""A load on a server: so many clients, each asking the next question as soon as its answer is there."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np


@dataclass(frozen=True)
class Timing:
    """One answered request: its text, seconds to the first text and to the last, tokens of the answer."""

    question: int
    text: str
    tokens: int
    first: float
    seconds: float


class Failed(Exception):
    """A request that got no complete answer, in the server's words."""


@dataclass(frozen=True)
class Load:
    """What a load gave. ``wall``: seconds from the first request to the last answer."""

    clients: int
    wall: float
    timings: list[Timing]

    @property
    def tokens_per_second(self) -> float:
        return sum(timing.tokens for timing in self.timings) / self.wall

    def percentiles(self, *which: int, first: bool = False) -> list[float]:
        """Latency percentiles in seconds; ``first``: of the first text instead of the whole answer."""
        values = [timing.first if first else timing.seconds for timing in self.timings]
        return [float(value) for value in np.percentile(values, which)]


async def put_load(
    url: str, model: str, questions: Sequence[str], clients: int, tokens: int | Sequence[int], *,
    ignore_eos: bool = False, raw: bool = False, pause: float = 0,
) -> Load:  # fmt: skip
    """Ask every question once, greedily, with ``clients`` at once; answers come back in the order of the questions.

    ``tokens``: how long an answer may get, for all or for each. ``pause``: seconds that a client waits before it asks.
    ``raw``: the questions are beginnings that the model continues as they stand, instead of messages to answer.
    The clients are light, so that on a small machine they take little from the server they measure: events are kept as
    they come and read when an answer is complete. A request that fails is not hidden: its error (:class:`Failed`, or
    aiohttp's) is raised when all have ended.
    """
    path = f"{url}/v1/completions" if raw else f"{url}/v1/chat/completions"
    options = dict(
        model=model, temperature=0, stream=True, stream_options={"include_usage": True}, ignore_eos=ignore_eos
    )
    lengths = [tokens] * len(questions) if isinstance(tokens, int) else tokens
    todo = iter(enumerate(questions))
    done: list[Timing] = []
    errors: list[Exception] = []
    limits = dict(connector=aiohttp.TCPConnector(limit=clients), timeout=aiohttp.ClientTimeout(total=300))
    async with aiohttp.ClientSession(**limits) as client:

        async def ask(number: int, question: str) -> None:
            asked = {"prompt": question} if raw else {"messages": [{"role": "user", "content": question}]}
            asked |= {"max_tokens": lengths[number]}
            start, first, body = time.perf_counter(), 0.0, bytearray()
            async with client.post(path, json=options | asked) as answer:
                async for part in answer.content.iter_any():
                    first = first or time.perf_counter() - start
                    body += part
            seconds = time.perf_counter() - start
            done.append(Timing(number, *read_answer(answer.status, body.decode()), first, seconds))

        async def one_client() -> None:
            for number, question in todo:
                await asyncio.sleep(pause)
                try:
                    await ask(number, question)
                except Exception as error:
                    errors.append(error)

        begin = time.perf_counter()
        await asyncio.gather(*(one_client() for _ in range(clients)))
        wall = time.perf_counter() - begin
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(questions)} requests failed", errors)
    return Load(clients, wall, sorted(done, key=lambda timing: timing.question))


def read_answer(status: int, body: str) -> tuple[str, int]:
    """Text and number of tokens of a complete answer. Raises :class:`Failed`."""
    if status != 200:
        raise Failed(f"status {status}: {body[:500]}")
    *lines, last = [line.removeprefix("data: ") for line in body.split("\n\n") if line] or [""]
    events = [json.loads(line) for line in lines]
    if wrong := [event["error"]["message"] for event in events if "error" in event]:
        raise Failed(f"the stream ended with an error: {wrong[0]}")
    if last != "[DONE]":
        raise Failed("the stream broke off")
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(choice["text"] if "text" in choice else choice["delta"]["content"] for choice in choices)
    return text, events[-1]["usage"]["completion_tokens"]
