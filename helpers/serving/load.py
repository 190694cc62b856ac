"""A load on a server: so many clients, each asking the next question as soon as its answer is there."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from openai import AsyncOpenAI


@dataclass(frozen=True)
class Timing:
    """One answered request: its text, seconds to the first text and to the last, tokens of the answer."""

    question: int
    text: str
    first: float
    seconds: float
    tokens: int


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
    url: str, model: str, questions: Sequence[str], clients: int, tokens: int, *, key: str = "none",
    ignore_eos: bool = False, raw: bool = False,
) -> Load:  # fmt: skip
    """Ask every question once, greedily, with ``clients`` at once; answers come back in the order of the questions.

    ``raw``: the questions are beginnings that the model continues as they stand, instead of messages to answer.
    A request that fails is not hidden: its error (openai's) is raised when all have ended.
    """
    todo = iter(enumerate(questions))
    done: list[Timing] = []
    errors: list[Exception] = []
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=300) as client:

        async def ask(number: int, question: str) -> None:
            start, first, text, used = time.perf_counter(), None, "", 0
            options = dict(
                model=model, max_tokens=tokens, temperature=0, stream=True, stream_options={"include_usage": True},
                extra_body={"ignore_eos": ignore_eos},
            )  # fmt: skip
            if raw:
                stream = await client.completions.create(prompt=question, **options)
            else:
                messages = [{"role": "user", "content": question}]
                stream = await client.chat.completions.create(messages=messages, **options)
            async with stream:
                async for chunk in stream:
                    first = first or time.perf_counter() - start
                    for choice in chunk.choices:
                        text += choice.text if raw else choice.delta.content
                    used = chunk.usage.completion_tokens if chunk.usage else used
            done.append(Timing(number, text, first or 0.0, time.perf_counter() - start, used))

        async def one_client() -> None:
            for number, question in todo:
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
