"""Settings of lesson 09: export, its gate, vLLM's engine."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from helpers.course.settings import LessonSettings
from helpers.instruct.vllm_engine.settings import Context, MemoryShare

Dtype = Literal["float32", "bfloat16", "float16"]


class ExportSettings(LessonSettings):
    """The common settings and what an export and an engine need."""

    default_config: ClassVar[str | None] = "config/export.yaml"

    adapter: Path | None = Field(None, description="the adapter to export; null: lesson 07's, or one made now")
    weights: Literal["bfloat16", "float16"] = Field(description="the 16 bits of merged_16bit")
    compute: Dtype = Field(description="in which transformers and vLLM compute when they are compared")
    with_unsloth: bool = Field(description="export by Unsloth's own call too, in a process of its own")
    with_serve: bool = Field(description="start `vllm serve` with the merged model and ask it, too")
    probes: int = Field(ge=4, le=200, description="questions of the gate")
    probe_tokens: int = Field(ge=2, description="the longest answer to a probe")
    tolerance: float = Field(gt=0, description="nats: the largest difference of a log-probability")
    context: Context
    at_once: int = Field(
        ge=1, validation_alias=AliasChoices("at_once", "max_num_seqs"), description="answers that vLLM writes together"
    )
    memory_share: MemoryShare
    batch_size: int = Field(ge=1, description="rows that transformers' generate takes together")
    questions: int = Field(ge=4, description="of the throughput comparison")
    max_new_tokens: int = Field(ge=8, description="the longest answer there")
    manner_steps: int = Field(ge=0, description="training steps of the adapter with another manner; 0: none")
