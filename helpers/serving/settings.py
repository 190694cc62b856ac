"""Settings of lesson 11: the model server and the chat page."""

import ipaddress
import os
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from helpers.course.settings import LessonSettings
from helpers.instruct.vllm_engine.settings import MemoryShare

API_KEY = "COURSE_API_KEY"
"""The environment variable that holds the server's key: a key in a settings file would end up in git."""


class ServingSettings(LessonSettings):
    """What is served, over which engine, and what one client may ask for."""

    default_config: ClassVar[str | None] = "config/serving.yaml"

    name: str = Field("ko-mini", pattern=r"^[\w.:-]+$", description="what clients call the base model")
    adapters: dict[str, Path] = Field(default_factory=dict, description="LoRA adapters: name for clients: folder")
    tuned: bool = Field(
        True, description="also serve lesson 07's adapter; only the small model's is made where missing"
    )
    template: Literal["seed", "chat"] = Field("seed", description="the base model's prompt; adapters bring their own")
    backend: Literal["transformers", "vllm"] = Field("transformers", description="which engine generates")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="of the weights")
    threads: int | None = Field(
        None, ge=1, description="of the transformers engine on a CPU; null: all cores but one, which is the server's"
    )
    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="0: any free one")
    batch_size: int = Field(16, ge=1, le=1024, description="answers that are generated at once")
    max_requests: int = Field(64, ge=1, le=4096, description="answers that are generated or wait; more get 429")
    max_prompt_tokens: int = Field(768, ge=1, description="a longer prompt gets 400")
    max_tokens: int = Field(256, ge=1, description="the longest answer that a client may ask for")
    default_tokens: int = Field(128, ge=1, description="the longest answer where a client asks for none")
    temperature: float = Field(0.0, ge=0, le=2, description="where a client gives none; 0 is greedy")
    repetition_penalty: float = Field(1.0, ge=0.5, le=2, description="where a client gives none")
    max_body_kb: int = Field(64, ge=1, le=65536, description="a larger request gets 413")
    body_seconds: float = Field(10, gt=0, description="a body that arrives more slowly gets 408")
    request_seconds: float = Field(120, gt=0, description="an answer that takes longer is ended")
    shutdown_seconds: float = Field(10, ge=0, description="after SIGTERM: how long running answers may go on")
    max_restarts: int = Field(3, ge=0, description="engine deaths within ten minutes before the server gives up")
    memory_share: MemoryShare = 0.1
    chat_host: str = Field("127.0.0.1", description="the chat page's address")
    chat_port: int = Field(8501, ge=0, le=65535, description="0: any free one")
    chat_history: Path = Field(Path("outputs/chat/history.sqlite"), description="conversations of the chat page")
    clients: int = Field(8, ge=1, le=256, description="lesson 11: clients of the load figure")
    requests: int = Field(64, ge=1, le=100_000, description="lesson 11: requests of the load figure")

    @field_validator("adapters", mode="after")
    @classmethod
    def _adapters_from_the_root(cls, value: dict[str, Path]) -> dict[str, Path]:
        return {name: cls._from_the_root(path) for name, path in value.items()}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.default_tokens > self.max_tokens:
            raise ValueError(f"default_tokens ({self.default_tokens}) is above max_tokens ({self.max_tokens})")
        if self.name in self.adapters:
            raise ValueError(f"the base model and an adapter are both called {self.name!r}")
        return self

    @property
    def api_key(self) -> str | None:
        """The key that clients must send, None where none is asked for."""
        return os.environ.get(API_KEY) or None


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
