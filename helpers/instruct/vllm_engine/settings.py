"""What every lesson with an engine tells vLLM, under our name or under vLLM's own."""

from typing import Annotated

from pydantic import AliasChoices, Field

Context = Annotated[
    int,
    Field(
        ge=64,
        validation_alias=AliasChoices("context", "max_model_len"),
        description="vLLM: tokens of prompt and answer together",
    ),
]
MemoryShare = Annotated[
    float,
    Field(
        gt=0,
        lt=1,
        validation_alias=AliasChoices("memory_share", "gpu_memory_utilization"),
        description="vLLM: its share of the GPU's memory, on a CPU of the machine's",
    ),
]
