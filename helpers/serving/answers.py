"""From a checked request to an answer: prompt, job, pieces of text, and the two shapes in which OpenAI's API sends them."""

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from helpers.course.errors import InputError
from helpers.instruct.prompts import Prompt
from helpers.serving.answer_schema import Answer, ChatChoice, ChatCompletion, Completion, TextChoice, Usage
from helpers.serving.engine import Engine, EngineDied, EngineFailed, EngineNotReady, EngineRefused
from helpers.serving.errors import ApiError
from helpers.serving.jobs import Finish, Job, Sampling
from helpers.serving.metrics import Metrics
from helpers.serving.request_schema import ChatRequest, CompletionRequest
from helpers.serving.served import Served, find_served
from helpers.serving.settings import ServingSettings
from helpers.serving.text import AnswerText

NUMBERS = itertools.count(1)
Request = ChatRequest | CompletionRequest


@dataclass
class Piece:
    """Some new text of one answer. ``index``: of its prompt; ``tokens``: how many all answers of the order have by now."""

    index: int
    text: str
    tokens: int
    finish: Finish | None


@dataclass
class Order:
    """One request, understood: whom to ask what (a job for each prompt), and how to name the answer."""

    jobs: list[Job]
    served: Served
    stops: list[str]
    chat: bool
    started: float = field(default_factory=time.perf_counter)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + uuid.uuid4().hex
        self.read = sum(len(job.ids) for job in self.jobs)


def take_order(request: Request, served: dict[str, Served], settings: ServingSettings) -> Order:
    """Check a request against what is served and allowed. Raises :class:`ApiError` (400, 404)."""
    chosen, chat = find_served(served, request.model), isinstance(request, ChatRequest)
    prompts = _prompts(request, chosen, settings.max_requests)
    for ids in prompts:
        if len(ids) > settings.max_prompt_tokens:
            what, allowed = f"the prompt has {len(ids):,} tokens", f"{settings.max_prompt_tokens:,}"
            param = "messages" if chat else "prompt"
            raise ApiError(400, what, allowed=allowed, param=param, code="context_length_exceeded")
    limit, tokens = request.limit
    if tokens is not None and tokens > settings.max_tokens:
        allowed = f"1 to {settings.max_tokens:,}"
        raise ApiError(400, f"{limit} is {tokens:,}", allowed=allowed, param=limit, code="too_many_tokens")
    stop_ids = () if request.ignore_eos else chosen.prompt.stop_ids
    how = tokens or settings.default_tokens, stop_ids, chosen.adapter, _sampling(request, settings)
    return Order([Job(next(NUMBERS), tuple(ids), *how) for ids in prompts], chosen, request.stops, chat)


def _sampling(request: Request, settings: ServingSettings) -> Sampling:
    given = {name: getattr(request, name) for name in Sampling.__dataclass_fields__}
    own = {"temperature": settings.temperature, "repetition_penalty": settings.repetition_penalty}
    return Sampling(**own | {name: value for name, value in given.items() if value is not None})


def _prompts(request: Request, served: Served, most: int) -> list[list[int]]:
    """The ids of each prompt, of which there are ``most`` at most."""
    prompt = served.prompt
    if isinstance(request, ChatRequest):
        try:
            return [prompt.message_ids(joined([message.plain() for message in request.messages]))]
        except InputError as error:
            allowed = error.allowed if isinstance(error.allowed, str) else error.hint or ""
            raise ApiError(400, f"{error.what} ({error.place})", allowed=allowed, param="messages") from error
    if len(request.prompts) > most:
        what, allowed = f"the request has {len(request.prompts):,} prompts", f"1 to {most:,}"
        raise ApiError(400, what, allowed=allowed, param="prompt", code="too_many_prompts")
    return [_prompt_ids(each, prompt) for each in request.prompts]


def _prompt_ids(given: str | list[int], prompt: Prompt) -> list[int]:
    """The ids of a text that is to be continued as it stands."""
    if isinstance(given, str):
        first = [] if prompt.bos_id is None else [prompt.bos_id]
        return first + prompt.tokenizer(given, add_special_tokens=False, split_special_tokens=True).input_ids
    largest = len(prompt.tokenizer) - 1
    if max(given) > largest:
        what, allowed = "the prompt holds a token id that the model lacks", f"0 to {largest:,}"
        raise ApiError(400, what, allowed=allowed, param="prompt")
    return given


def joined(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages of one role in a row become one, a blank line between their texts: the prompt's roles take turns."""
    runs = ((role, list(run)) for role, run in itertools.groupby(messages, key=lambda message: message["role"]))
    return [
        {"role": role, "content": "\n\n".join(each["content"] for each in run if each["content"].strip())}
        for role, run in runs
    ]


async def pieces(order: Order, engine: Engine, metrics: Metrics) -> AsyncIterator[Piece]:
    """The answers as they are written, piece by piece. Raises :class:`ApiError` where the engine fails."""
    prompt, tokens, read, first = order.served.prompt, 0, set(), True
    writers = {
        job.id: (index, job, AnswerText(prompt, order.stops, None if order.chat else job.ids))
        for index, job in enumerate(order.jobs)
    }
    try:
        async with contextlib.aclosing(engine.generate(order.jobs)) as generated:
            async for part in generated:
                if part.job not in writers:
                    continue  # on its way when a stop text ended this answer
                index, job, writer = writers[part.job]
                if index not in read:  # an answer that nobody waits for any more may end before its prompt is read
                    read.add(index)
                    metrics.prompt_tokens.inc(len(job.ids))
                tokens += len(part.ids)
                shown = part.ids if job.stop_ids else without(prompt.stop_ids, part.ids)
                text = writer.feed(shown, last=part.finish is not None)
                finish = "stop" if writer.stopped else part.finish
                if finish:
                    del writers[part.job]
                    engine.stop(job)
                if first and (text or finish):
                    metrics.first.observe(time.perf_counter() - order.started)
                    first = False
                if text or finish:
                    yield Piece(index, text, tokens, finish)
                if not writers:
                    return
    except EngineDied:
        raise ApiError(503, "the engine died while it wrote this answer", code="engine_died", retry_after=5) from None
    except EngineNotReady:
        raise ApiError(503, "the engine is being restarted", code="engine_restarting", retry_after=5) from None
    except EngineRefused as error:
        raise ApiError(400, f"the engine refused this request: {error}", code="engine_refused") from None
    except EngineFailed as error:
        raise ApiError(500, f"the engine failed: {error}", code="engine_failed") from None
    finally:
        metrics.tokens.labels(order.served.name).inc(tokens)


def without(stop_ids: tuple[int, ...], ids: tuple[int, ...]) -> tuple[int, ...]:
    """An answer that may not end goes on after a stop token; the token itself has no text."""
    return tuple(token for token in ids if token not in stop_ids)


async def events(order: Order, engine: Engine, metrics: Metrics, *, usage: bool) -> AsyncIterator[str]:
    """The answers as the data of server-sent events."""
    kind = "chat.completion.chunk" if order.chat else "text_completion"
    head = {"id": order.id, "object": kind, "created": order.created, "model": order.served.name}
    head |= {"usage": None} if usage else {}  # as OpenAI's: a key of every chunk, its value in the last
    first = {"role": "assistant"}
    async with contextlib.aclosing(pieces(order, engine, metrics)) as written:
        async for piece in written:
            body = {"delta": first | {"content": piece.text}} if order.chat else {"text": piece.text}
            first, last = {}, piece
            choice = {"index": piece.index, **body, "finish_reason": piece.finish}
            yield json.dumps(head | {"choices": [choice]}, ensure_ascii=False)
    if usage:
        yield json.dumps(head | {"choices": [], "usage": usage_of(order, last.tokens).model_dump()})
    yield "[DONE]"


async def whole(order: Order, engine: Engine, metrics: Metrics) -> ChatCompletion | Completion:
    """The answers in one."""
    texts, finishes = [""] * len(order.jobs), {}
    async with contextlib.aclosing(pieces(order, engine, metrics)) as written:
        async for piece in written:
            texts[piece.index] += piece.text
            finishes[piece.index], tokens = piece.finish, piece.tokens
    head = {"id": order.id, "created": order.created, "model": order.served.name}
    usage = usage_of(order, tokens)
    if order.chat:
        choice = ChatChoice(message=Answer(content=texts[0]), finish_reason=finishes[0])
        return ChatCompletion(**head, choices=[choice], usage=usage)
    choices = [TextChoice(index=n, text=text, finish_reason=finishes[n]) for n, text in enumerate(texts)]
    return Completion(**head, choices=choices, usage=usage)


def usage_of(order: Order, tokens: int) -> Usage:
    """``tokens``: all that were generated, those of a stop text and the stop token among them."""
    return Usage(prompt_tokens=order.read, completion_tokens=tokens, total_tokens=order.read + tokens)
