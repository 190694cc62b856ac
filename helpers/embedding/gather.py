"""Candidates of all processes in every process, with exact gradients: W processes times B rows see W * B documents.

Each process computes the loss of its own rows. A document helps or hurts the rows of every process, so the gradient on it
is the sum over processes; averaged over processes (as DistributedDataParallel does with the weights'), it is the gradient
of the mean loss over all rows.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from helpers.course.errors import InputError


def world() -> tuple[int, int]:
    """(number of this process, number of processes); (0, 1) where there is one only."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gather(vectors: Tensor) -> Tensor:
    """(N, H) of each process -> (W * N, H) in every process, in the order of the processes; gradients flow back."""
    return vectors if world()[1] == 1 else _Gather.apply(vectors)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, vectors):
        ctx.rows = len(vectors)
        parts = [torch.empty_like(vectors) for _ in range(world()[1])]
        dist.all_gather(parts, vectors.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)  # every process's loss has something to say to every document
        rank = world()[0]
        return gradient[rank * ctx.rows : (rank + 1) * ctx.rows]


def gather_texts(*sides: Sequence[str]) -> list[list[str]]:
    """Each side's texts of all processes, in the order in which `gather` lays out their vectors.

    Raises InputError (in every process) where the processes hold different numbers of texts.
    """
    parts = [tuple(list(side) for side in sides)]
    if world()[1] > 1:
        parts = [None] * world()[1]
        dist.all_gather_object(parts, tuple(list(side) for side in sides))
    counts = [tuple(map(len, part)) for part in parts]
    if len(set(counts)) > 1:
        raise InputError(
            "the processes hold different numbers of queries, documents or hard negatives", given=f"{counts}"
        )
    return [[text for part in parts for text in part[side]] for side in range(len(sides))]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes (what DistributedDataParallel does by itself)."""
    for parameter in parameters if world()[1] > 1 else ():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= world()[1]


def end_group() -> None:
    """Leave the process group, if there is one, after everything that refers to it has been freed.

    A DistributedDataParallel that outlives its group frees it while it holds Python's lock, and gloo's thread may be waiting
    for that lock: then the process never ends. So delete such models before; those in reference cycles are collected here.
    """
    gc.collect()
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
