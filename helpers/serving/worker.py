"""The engine's own process: it takes jobs from the server, steps its batch, and sends tokens back.

In a process of its own the engine never waits for HTTP and HTTP never waits for it; and when it dies, the server lives to
tell its clients and to start another.
"""

import os
import socket

from helpers.serving.jobs import Batch, Job, Refused
from helpers.serving.settings import ServingSettings
from helpers.serving.wire import ServerGone, Wire

READY = "ready"


def main(end: socket.socket, settings: ServingSettings, context: int) -> None:
    """What the engine process runs. It ends when the server says so, or is gone."""
    end.set_inheritable(False)  # a child that held it too would hide from the server that the engine is dead
    if settings.backend == "vllm":
        batch = vllm_batch(settings, context)
    else:
        _use_threads(settings.threads)
        batch = transformers_batch(settings)
    wire = Wire(end)
    try:
        wire.send(READY)
        work(wire, batch)
    except ServerGone:
        pass
    os._exit(0)  # at once: nobody is left to hear of errors while threads and engines wind down


def work(wire: Wire, batch: Batch) -> None:
    """Take what has come, go one step, send what came of it; wait only when there is nothing to do. None ends it."""
    while True:
        while not batch.busy or wire.poll():
            message = wire.recv()
            if message is None:
                return
            if isinstance(message, Job):
                try:
                    batch.add(message)
                except ValueError as error:
                    wire.send([Refused(message.id, str(error))])
            else:
                batch.stop(message)
        tokens = batch.step()
        if tokens:
            wire.send(tokens)


def _use_threads(threads: int | None) -> None:
    """So many threads of torch's; None: what OMP_NUM_THREADS says, else a core less than there are.

    The threads of one product wait for each other: one that loses its core to HTTP for a moment holds up all of them.
    """
    import torch

    from helpers.course.machine import usable_cores

    if threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or max(1, usable_cores() - 1))


def transformers_batch(settings: ServingSettings) -> Batch:
    """The model with its adapters, each loaded once; a job names the one it wants."""
    from helpers.instruct.adapters import with_adapters
    from helpers.instruct.models import load_language_model
    from helpers.instruct.prompts import Prompt
    from helpers.serving.grouped_attention import group_heads
    from helpers.serving.transformers_batch import TransformersBatch

    tokenizer, model = load_language_model(settings.model, settings.dtype)
    group_heads(model)
    pad_id = Prompt.for_tokenizer(tokenizer, settings.template).pad_id
    own = {name: f"a{number}" for number, name in enumerate(settings.adapters)}  # peft takes no dot in a name
    model = with_adapters(model, {own[name]: folder for name, folder in settings.adapters.items()})
    return TransformersBatch(model, settings.batch_size, pad_id, adapters=own, seed=settings.seed)


def vllm_batch(settings: ServingSettings, context: int) -> Batch:
    """vLLM's engine in this very process: one process to watch, to kill and to replace."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from helpers.course.machine import chosen_dtype
    from helpers.serving.vllm_batch import VllmBatch

    return VllmBatch(
        settings.model, size=settings.batch_size, context=context, adapters=settings.adapters, seed=settings.seed,
        dtype=str(chosen_dtype(settings.dtype)).removeprefix("torch."), memory_share=settings.memory_share,
    )  # fmt: skip
