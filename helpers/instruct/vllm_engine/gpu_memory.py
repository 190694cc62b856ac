"""What a language model needs of each GPU: weights, and the keys and values (KV cache) of the tokens it has in hand.

Arithmetic from the shapes alone, for models of Mistral's and Llama's architecture. vLLM measures at its start what it really
has (it prints the number of tokens that its cache holds): plan with this, believe that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd
from transformers import PretrainedConfig

from helpers.course.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory depends on; `head_width`: numbers of one head; `tied`: input and output share one table."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_width: int
    tied: bool = False

    @classmethod
    def of(cls, name: str, config: PretrainedConfig) -> Self:
        """The shape that a transformers config describes."""
        numbers = (config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads)
        numbers += (config.num_key_value_heads, config.vocab_size)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(name, *numbers, width, bool(config.tie_word_embeddings))

    @property
    def kv_width(self) -> int:
        """Numbers that a key (or a value) of one token holds in one layer."""
        return self.head_width * self.kv_heads

    @property
    def weights(self) -> int:
        """How many weights the model has."""
        attention = 2 * self.hidden * (self.head_width * self.heads + self.kv_width)  # q and o; k and v
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden  # gate, up, down; two norms
        return self.layers * layer + (1 if self.tied else 2) * self.vocabulary * self.hidden + self.hidden

    def kv_bytes(self, number_bytes: int = 2) -> int:
        """Bytes that one token keeps in the cache: a key and a value in every layer."""
        return 2 * self.layers * self.kv_width * number_bytes


SOLAR = ModelShape("SOLAR 10.7B", 48, 4096, 14336, 32, 8, 32000, 128)
MISTRAL = ModelShape("Mistral 7B", 32, 4096, 14336, 32, 8, 32000, 128)
GPUS = {"T4": 14.6, "L4": 22.0, "A100 40 GB": 39.4, "A100 80 GB": 79.1}
"""Memory in GiB that torch reports for such a GPU, about: makers count differently, and a little is always taken."""
SHARE = 0.9
"""Of a GPU's memory, what vLLM takes unless it is told (``gpu_memory_utilization``)."""


@dataclass(frozen=True)
class Fit:
    """What one of the GPUs holds, in GiB, and how many tokens their shared cache takes (0: the model does not fit)."""

    weights: float
    cache: float
    tokens: int

    def sequences(self, length: int) -> int:
        """Sequences of `length` tokens that are in hand at one time."""
        return self.tokens // length


def fit(
    model: ModelShape,
    gpu_gb: float,
    tensor_parallel: int = 1,
    *,
    weight_bytes: float = 2,
    kv_number_bytes: int = 2,
    utilization: float = SHARE,
    working_gb: float = 1.5,
) -> Fit:
    """One copy of `model`, each weight matrix cut into `tensor_parallel` parts, one on each GPU of `gpu_gb` GiB.

    weight_bytes  2 for bfloat16 and float16, about 0.55 for 4-bit formats (scales and uncut tables included)
    utilization   vLLM's gpu_memory_utilization: the share of a GPU that it may take
    working_gb    activations, CUDA graphs and buffers. An assumption; vLLM measures it at its start

    Raises InputError where the heads cannot be shared out over so many GPUs.
    """
    if tensor_parallel < 1 or model.heads % tensor_parallel:
        raise InputError(
            "the attention heads cannot be shared out over so many GPUs",
            place="tensor_parallel",
            given=tensor_parallel,
            allowed=f"a divisor of {model.heads}",
        )
    weights = model.weights * weight_bytes / tensor_parallel / GIB
    heads = max(1, model.kv_heads / tensor_parallel)  # with fewer key heads than GPUs, GPUs hold the same ones
    token = model.kv_bytes(kv_number_bytes) * heads / model.kv_heads / GIB
    cache = max(0.0, gpu_gb * utilization - weights - working_gb)
    return Fit(weights, cache, int(cache / token))


def fit_table(
    models: Iterable[ModelShape], counts: Sequence[int] = (1, 2, 4), length: int = 2048, **options: float
) -> pd.DataFrame:
    """One row a model, GPU and `tensor_parallel_size`: GiB of weights and cache on each GPU, sequences of `length` in hand."""
    rows = []
    for model in models:
        for gpu, memory in GPUS.items():
            for count in counts:
                found = fit(model, memory, count, **options)
                row = {"model": model.name, "GPU": gpu, "tensor_parallel_size": count}
                row |= {"weights a GPU": round(found.weights, 1), "cache a GPU": round(found.cache, 1)}
                rows.append(row | {f"sequences of {length:,}": found.sequences(length) or "does not fit"})
    return pd.DataFrame(rows)


def serve_command(model: str, tensor_parallel: int = 1, data_parallel: int = 1, length: int = 2048) -> list[str]:
    """vLLM's own server over `tensor_parallel * data_parallel` GPUs of one machine, as a command line.

    tensor_parallel  GPUs that share one copy of the model: each matrix is cut, and every layer waits for its parts
    data_parallel    copies, each with its own requests: twice the throughput, twice the memory
    """
    parallel = ["--tensor-parallel-size", str(tensor_parallel), "--data-parallel-size", str(data_parallel)]
    memory = ["--max-model-len", str(length), "--gpu-memory-utilization", str(SHARE), "--dtype", "auto"]
    return ["vllm", "serve", model, *parallel, *memory]
