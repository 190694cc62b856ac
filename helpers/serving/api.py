"""The model server's routes: OpenAI's API over the course's models. `make serve` starts it.

POST /v1/chat/completions and /v1/completions (streamed or not), GET /v1/models, /health and /metrics.
"""

import contextlib
from collections.abc import AsyncIterator
from itertools import takewhile
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from helpers.serving import answers, protocol
from helpers.serving.engine import Engine
from helpers.serving.errors import ApiError
from helpers.serving.gate import Gate
from helpers.serving.metrics import Metrics
from helpers.serving.responses import EventStream, Whole
from helpers.serving.served import Served
from helpers.serving.settings import ServingSettings
from helpers.serving.turns import Turns

ERRORS = {
    status: {"model": protocol.ErrorBody, "description": text}
    for status, text in {
        400: "The request asks for what is not allowed; the message says what is",
        401: "The key is missing or wrong",
        404: "There is no such model",
        405: "Another method is needed",
        408: "The body came too slowly",
        413: "The body is too large",
        429: "Too many requests at once",
        503: "The engine is down or the server is closing",
        504: "The answer took too long",
    }.items()
}


REFERENCE = "#/components/schemas/{model}"


def streamed(chunk: type[BaseModel]) -> dict[str, Any]:
    """An event stream in OpenAPI's words (`itemSchema`, as FastAPI writes it): each event is a chunk, an error or [DONE]."""
    bodies = [{"$ref": REFERENCE.format(model=model.__name__)} for model in (chunk, protocol.ErrorBody)]
    body = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": bodies}}
    event = {"type": "object", "required": ["data"], "properties": {"data": {"anyOf": [{"const": "[DONE]"}, body]}}}
    return {"description": "The answer", "content": {"text/event-stream": {"itemSchema": event}}}


def make_app(settings: ServingSettings, served: dict[str, Served], engine: Engine) -> FastAPI:
    """The application. ``app.state.turns.close()`` ends what is under way."""
    turns, metrics = Turns(settings.max_requests, settings.request_seconds), Metrics()

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
        if request.stream:
            return EventStream(turns, lambda: answers.events(order, engine, metrics, usage=request.wants_usage))
        return Whole(turns, lambda: answers.whole(order, engine, metrics))

    def answers_with(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[str, Any]:
        return {"response_class": JSONResponse, "response_model": whole, "responses": ERRORS | {200: streamed(chunk)}}

    @app.post("/v1/chat/completions", **answers_with(protocol.ChatCompletion, protocol.ChatChunk))
    async def chat(request: protocol.ChatRequest) -> Response:
        return respond(request)

    @app.post("/v1/completions", **answers_with(protocol.Completion, protocol.TextChunk))
    async def completions(request: protocol.CompletionRequest) -> Response:
        return respond(request)

    def card(entry: Served) -> protocol.ModelCard:
        return protocol.ModelCard(
            id=entry.name, created=entry.created, parent=settings.name if entry.adapter else None,
            max_prompt_tokens=settings.max_prompt_tokens, max_tokens=settings.max_tokens,
        )  # fmt: skip

    @app.get("/v1/models", responses={401: ERRORS[401]})
    async def models() -> protocol.ModelList:
        return protocol.ModelList(data=[card(entry) for entry in served.values()])

    @app.get("/v1/models/{name}", responses={status: ERRORS[status] for status in (400, 401, 404)})
    async def model(name: str) -> protocol.ModelCard:
        if name not in served:
            names = ", ".join(served)
            raise ApiError(404, "there is no such model", allowed=names, param="model", code="model_not_found")
        return card(served[name])

    @app.get("/health", responses={503: {"model": protocol.Health, "description": "No engine at the moment"}})
    async def health() -> Response:
        status = "closing" if turns.closing else "ready" if engine.ready else "restarting"
        body = protocol.Health(
            status=status, running=len(turns.open), limit=turns.limit, restarts=engine.restarts, engine_pid=engine.pid
        )
        return JSONResponse(body.model_dump(), 200 if status == "ready" else 503)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def counters() -> Response:
        metrics.running.set(len(turns.open))
        metrics.restarts.set(engine.restarts)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _say_what_is_allowed(app, settings, served)
    return app


def _say_what_is_allowed(app: FastAPI, settings: ServingSettings, served: dict[str, Served]) -> None:
    """Put the names that are served and the longest answer into the OpenAPI description."""
    description = app.openapi()  # kept by FastAPI, and served from there
    chunks = [(chunk, "serialization") for chunk in (protocol.ChatChunk, protocol.TextChunk)]
    description["components"]["schemas"] |= models_json_schema(chunks, ref_template=REFERENCE)[1]["$defs"]
    for name in ("ChatRequest", "CompletionRequest"):
        fields = description["components"]["schemas"][name]["properties"]
        fields["model"]["enum"] = list(served)
        for limit in {"max_tokens", "max_completion_tokens"} & set(fields):
            fields[limit]["anyOf"][0]["maximum"] = settings.max_tokens
    [parameter] = description["paths"]["/v1/models/{name}"]["get"]["parameters"]
    parameter["schema"]["enum"] = list(served)


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    """The first key that is wrong, in one line, as a 400 like OpenAI's. A key of several types has an error for each."""
    errors = [each for each in error.errors() if each["loc"][:2] == error.errors()[0]["loc"][:2]]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*(each["loc"] for each in errors), strict=False))
    place = ".".join(str(parts[0]) for parts in alike if parts[0] != "body")
    what = " or ".join(dict.fromkeys(each["msg"] for each in errors))
    return ApiError(400, f"{place or 'the body'}: {what}", param=place or None).response()


async def _known(_: Request, error: HTTPException) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    headers = error.headers or {}  # of 405: what is allowed
    other = ApiError(error.status_code, error.detail, allowed=headers.get("Allow", ""))
    other.headers = headers
    return other.response()


async def _unknown(_: Request, __: Exception) -> Response:
    return ApiError(500, "the server has a fault; its log says which").response()
