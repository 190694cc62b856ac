"""The model server's routes: OpenAI's API over the course's models. `make serve` starts it.

POST /v1/chat/completions and /v1/completions (streamed or not), GET /v1/models, /health and /metrics.
"""

import contextlib
import functools
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from helpers.serving import answers
from helpers.serving.answer_schema import (
    ChatChunk,
    ChatCompletion,
    Completion,
    ErrorBody,
    Health,
    ModelCard,
    ModelList,
    TextChunk,
)
from helpers.serving.engine import Engine
from helpers.serving.errors import ApiError
from helpers.serving.gate import Gate
from helpers.serving.metrics import Metrics
from helpers.serving.request_schema import INSIDE, ChatRequest, CompletionRequest
from helpers.serving.responses import EventStream, Whole
from helpers.serving.served import Served, find_served
from helpers.serving.settings import ServingSettings
from helpers.serving.turns import Turns

ERRORS = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The request asks for what is not allowed; the message says what is",
        401: "The key is missing or wrong",
        404: "There is no such model",
        405: "Another method is needed",
        408: "The body came too slowly",
        413: "The body is too large",
        429: "Too many requests at once",
        500: "The engine failed at this request",
        503: "The engine is down or the server is closing",
        504: "The answer took too long",
    }.items()
}


REFERENCE = "#/components/schemas/{model}"


def streamed(chunk: type[BaseModel]) -> dict[str, Any]:
    """An event stream in OpenAPI's words (`itemSchema`, as FastAPI writes it): each event is a chunk, an error or [DONE]."""
    bodies = [{"$ref": REFERENCE.format(model=model.__name__)} for model in (chunk, ErrorBody)]
    body = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": bodies}}
    event = {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, body]}}}
    return {"description": "The answer", "content": {"text/event-stream": {"itemSchema": event}}}


def make_app(settings: ServingSettings, served: dict[str, Served], engine: Engine) -> FastAPI:
    """The application. ``app.state.turns.close()`` ends what is under way."""
    turns = Turns(settings.max_requests, settings.request_seconds, on_timeout=engine.kill_if_silent)
    metrics = Metrics()

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            await engine.start()
            yield
        finally:
            engine.close()

    app = FastAPI(title="Korean fine-tuning course", version="1", lifespan=life, docs_url=None, redoc_url=None)
    app.state.turns = turns
    app.add_middleware(
        Gate, metrics=metrics, api_key=settings.api_key, body_bytes=settings.max_body_kb * 1024,
        seconds=settings.body_seconds,
    )  # fmt: skip
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _known)
    app.add_exception_handler(Exception, _unknown)

    def respond(request: answers.Request) -> Response:
        order = answers.take_order(request, served, settings)
        take = functools.partial(turns.take, len(order.jobs))
        if request.stream:
            return EventStream(take, lambda: answers.events(order, engine, metrics, usage=request.wants_usage))
        return Whole(take, lambda: answers.whole(order, engine, metrics))

    def answers_with(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[str, Any]:
        return {"response_class": JSONResponse, "response_model": whole, "responses": ERRORS | {200: streamed(chunk)}}

    @app.post("/v1/chat/completions", **answers_with(ChatCompletion, ChatChunk))
    async def chat(request: ChatRequest) -> Response:
        return respond(request)

    @app.post("/v1/completions", **answers_with(Completion, TextChunk))
    async def completions(request: CompletionRequest) -> Response:
        return respond(request)

    def card(entry: Served) -> ModelCard:
        return ModelCard(
            id=entry.name, created=entry.created, parent=settings.name if entry.adapter else None,
            max_prompt_tokens=settings.max_prompt_tokens, max_tokens=settings.max_tokens,
        )  # fmt: skip

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> ModelList:
        return ModelList(data=[card(entry) for entry in served.values()])

    @app.get("/v1/models/{name}", responses={status: ERRORS[status] for status in (400, 401, 404)})
    async def model(name: str) -> ModelCard:
        return card(find_served(served, name))

    @app.get("/health", responses={503: {"model": Health, "description": "No engine at the moment"}})
    async def health() -> Response:
        status = "closing" if turns.closing else "ready" if engine.ready else "restarting"
        body = Health(
            status=status, running=turns.running, limit=turns.limit, restarts=engine.restarts,
            engine_pid=None if settings.api_key else engine.pid,
        )  # fmt: skip
        return JSONResponse(body.model_dump(exclude_none=True), 200 if status == "ready" else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def counters() -> Response:
        metrics.running.set(turns.running)
        metrics.restarts.set(engine.restarts)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _say_what_is_allowed(app, settings, served)
    return app


def _say_what_is_allowed(app: FastAPI, settings: ServingSettings, served: dict[str, Served]) -> None:
    """Put the names that are served, the longest answer and the most prompts into the OpenAPI description."""
    description = app.openapi()  # kept by FastAPI, and served from there
    chunks = [(chunk, "serialization") for chunk in (ChatChunk, TextChunk)]
    description["components"]["schemas"] |= models_json_schema(chunks, ref_template=REFERENCE)[1]["$defs"]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = description["components"]["schemas"][name]["properties"]
        fields["model"]["enum"] = list(served)
        for limit in {"max_tokens", "max_completion_tokens"} & set(fields):
            fields[limit]["anyOf"][0]["maximum"] = settings.max_tokens
    for several in fields["prompt"]["anyOf"][2:]:  # a text, ids, texts, lists of ids
        several["maxItems"] = settings.max_requests
    [parameter] = description["paths"]["/v1/models/{name}"]["get"]["parameters"]
    parameter["schema"]["enum"] = list(served)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    """The first key that is wrong, in one line, as a 400 like OpenAI's; ``code`` is pydantic's word for what is wrong.

    A key that takes several types has an error for each; where one of them looked inside the value, that one counts.
    """
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        what = f"the body is no valid JSON, character {first['loc'][-1] + 1}: {first['ctx']['error']}"
        return ApiError(400, what, code="json_invalid").response()
    places = [_place(each, error.body) for each in error.errors()]
    deepest = max((place for place in places if place[: len(places[0])] == places[0]), key=len)
    wrong = [each for each, place in zip(error.errors(), places, strict=True) if place == deepest]
    name, code = ".".join(map(str, deepest)), wrong[0]["type"]
    if code == "extra_forbidden":
        owner = next((INSIDE[part] for part in reversed(deepest[:-1]) if part in INSIDE), None)
        chat = request.url.path.endswith("/chat/completions")
        owner = owner or (ChatRequest if chat else CompletionRequest)
        what, allowed = "not offered here", ", ".join(owner.model_fields)
    else:
        what, allowed = " or ".join(dict.fromkeys(each["msg"] for each in wrong)), ""
    if not name and "json" not in request.headers.get("content-type", ""):
        allowed = "JSON, with the header Content-Type: application/json"
    return ApiError(400, f"{name or 'the body'}: {what}", allowed=allowed, param=name or None, code=code).response()


def _place(error: dict[str, Any], body: Any) -> tuple[str | int, ...]:
    """Keys and indexes down to what is wrong, without pydantic's names of the types that it tried on the way."""
    place: list[str | int] = []
    value, last = body, len(error["loc"]) - 1
    for depth, part in enumerate(error["loc"][1:], 1):  # the first is "body"
        inside = part in value if isinstance(value, dict) else isinstance(value, list) and isinstance(part, int)
        if inside:
            value = value[part]
        if inside or (depth == last and error["type"] == "missing"):
            place.append(part)
    return tuple(place)


async def _known(_: Request, error: HTTPException) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    headers = error.headers or {}  # of 405: what is allowed
    other = ApiError(error.status_code, error.detail, allowed=headers.get("Allow", ""))
    other.headers = headers
    return other.response()


async def _unknown(_: Request, __: Exception) -> Response:
    return ApiError(500, "the server has a fault; its log says which").response()
