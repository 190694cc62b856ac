"""What clients get: the part of OpenAI's API that the server speaks, and what it says of itself."""

from typing import Literal

from pydantic import BaseModel, Field


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    index: int = 0
    message: Answer
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answer of /v1/chat/completions without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(BaseModel):
    index: int = 0
    text: str
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """Answer of /v1/completions without `stream`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class Delta(BaseModel):
    role: Literal["assistant"] | None = Field(None, description="in the first event only")
    content: str


class ChatChunkChoice(BaseModel):
    index: int
    delta: Delta
    finish_reason: Literal["stop", "length"] | None


class ChatChunk(BaseModel):
    """One event of /v1/chat/completions with `stream`."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = Field(None, description="in the last event, where it was asked for")


class TextChunkChoice(BaseModel):
    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None


class TextChunk(BaseModel):
    """One event of /v1/completions with `stream`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChunkChoice]
    usage: Usage | None = Field(None, description="in the last event, where it was asked for")


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "course"
    parent: str | None = Field(None, description="of an adapter: the base model's name")
    max_prompt_tokens: int
    max_tokens: int


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    status: Literal["ready", "restarting", "closing"]
    running: int = Field(description="answers that are generated or wait")
    limit: int
    restarts: int = Field(description="how often the engine was started anew")
    engine_pid: int | None = Field(None, description="where no key is asked for, that is on this machine only")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Every 4xx and 5xx."""

    error: ErrorDetail
