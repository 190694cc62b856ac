"""What clients send: the part of OpenAI's API that the server understands. Anything else is refused by name."""

import unicodedata
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Text = Annotated[str, Field(max_length=200_000)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]
Ids = Annotated[list[Annotated[int, Field(ge=0, le=2**31)]], Field(min_length=1, max_length=200_000)]
LARGEST_SEED = 2**63 - 1
Nothing = dict[str, tuple[Any, ...]]
"""A key, and the values of it that ask for nothing."""


def _say_what_asks_for_nothing(schema: dict[str, Any], model: type["Strict"]) -> None:
    schema["additionalProperties"] = {"type": "null"}
    schema["properties"] |= {name: {"enum": [*values, None]} for name, values in model.nothing.items()}


class Strict(BaseModel):
    """A key that is not offered may still be sent with a value that asks for nothing: null, or one in ``nothing``."""

    model_config = ConfigDict(
        extra="forbid", allow_inf_nan=False, strict=True, json_schema_extra=_say_what_asks_for_nothing
    )
    nothing: ClassVar[Nothing] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None and not cls._is_nothing(name, value)}

    @classmethod
    def _is_nothing(cls, name: Any, value: Any) -> bool:
        return any(type(value) is type(each) and value == each for each in cls.nothing.get(name, ()))  # 0 is not False


class StreamOptions(Strict):
    nothing: ClassVar[Nothing] = {"include_obfuscation": (False,)}

    include_usage: bool | None = None


class Common(Strict):
    """What both ways of asking share. None: the server's settings decide."""

    nothing: ClassVar[Nothing] = {"logprobs": (False,), "logit_bias": ({},)}

    model: str = Field(max_length=200, description="one of the names of /v1/models")
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="as in vLLM; 0 or -1: all")
    repetition_penalty: float | None = Field(None, ge=0.5, le=2, description="as in vLLM; 1: none")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED)
    ignore_eos: bool | None = Field(None, description="as in vLLM: go on to max_tokens; for measuring")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    user: str | None = Field(None, max_length=200)

    @property
    def stops(self) -> list[str]:
        """Every stop text in NFC, as answers are: some keyboards and files hold Hangul as single letters."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [unicodedata.normalize("NFC", stop) for stop in stops]

    @property
    def limit(self) -> tuple[str, int | None]:
        """The longest answer in tokens, after the name under which the client gave it."""
        return "max_tokens", self.max_tokens

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Strict):
    type: Literal["text"]
    text: Text


class Message(Strict):
    nothing: ClassVar[Nothing] = {"tool_calls": ([],), "annotations": ([],)}

    role: Literal["system", "developer", "user", "assistant"] = Field(description="developer: the newer name of system")
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: str | None = Field(None, max_length=200, description="may be sent; the model's prompt has no names")

    def plain(self) -> dict[str, str]:
        """Role and text, as the prompt object takes them."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return {"role": "system" if self.role == "developer" else self.role, "content": "".join(parts)}


class ChatRequest(Common):
    """Body of /v1/chat/completions."""

    nothing: ClassVar[Nothing] = Common.nothing | {
        "tools": ([],),
        "tool_choice": ("none",),
        "parallel_tool_calls": (True, False),
        "top_logprobs": (0,),
        "response_format": ({"type": "text"},),
        "modalities": (["text"],),
        "metadata": ({},),
        "service_tier": ("auto", "default"),
        "store": (False,),
    }

    messages: list[Message] = Field(min_length=1, max_length=512)
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens")

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            what = "max_tokens and max_completion_tokens differ: give one of them"
            raise PydanticCustomError("two_limits", what)  # of a ValueError the client would read "Value error, ..."
        return self

    @property
    def limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is None:
            return super().limit
        return "max_completion_tokens", self.max_completion_tokens


class CompletionRequest(Common):
    """Body of /v1/completions: texts to be continued as they stand, or their token ids."""

    nothing: ClassVar[Nothing] = Common.nothing | {
        "echo": (False,),
        "best_of": (1,),
        "suffix": ("",),
    }

    prompt: Text | Ids | Annotated[list[Text], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)] = Field(
        description="a text or its ids, or a list of either: each is continued by a choice of its own"
    )

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, also where there is one and no list around it."""
        return self.prompt if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else [self.prompt]


INSIDE = {"messages": Message, "content": TextPart, "stream_options": StreamOptions}
"""What stands under a key of a request that holds objects."""
