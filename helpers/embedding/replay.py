"""What the gradient cache needs to know of torch: the surroundings of a forward pass, the size of a graph, its leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Self

import torch
from torch import Tensor, nn


class Surroundings:
    """What a forward pass depends on beside its inputs: random state of CPU and GPUs, and autocast."""

    def __init__(self) -> None:
        gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        self._cpu = torch.get_rng_state()
        self._cuda = {gpu: torch.cuda.get_rng_state(gpu) for gpu in gpus}
        self._autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in ("cpu", *["cuda"][: len(gpus)])
        ]  # a backward pass runs outside the caller's autocast, on a GPU even in another thread

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Everything as it was at the first pass; afterwards the random state goes on as if nothing had happened."""
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=list(self._cuda)))
            torch.set_rng_state(self._cpu)
            for device, state in self._cuda.items():
                torch.cuda.set_rng_state(state, device)
            for kind, enabled, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield


class GraphBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts what the graph built inside holds in memory: each storage once, the weights themselves not.

    Second derivatives do not pass: what is saved is detached. A graph that saved its own output (tanh does) would hold
    itself for ever where no backward pass frees it, as behind BERT's pooler, which nobody asks for.
    """

    def __init__(self) -> None:
        self.total, self._seen = 0, set()
        super().__init__(self._count, lambda tensor: tensor)

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        if not weight and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor.detach()


def refuse_unknown_leaves(part: Tensor, known: list[Tensor]) -> None:
    """Raise ValueError where the graph behind `part` ends in a trainable tensor that is not in `known`."""
    names, waiting, seen = {id(tensor) for tensor in known}, [part.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if hasattr(node, "variable") and id(node.variable) not in names:
            raise ValueError(
                "the loss uses a trainable tensor that the cache does not know, so it would get no gradient: "
                "make the loss an nn.Module that owns it"
            )


def with_gradient(vectors: Tensor) -> Tensor:
    """The same vectors; RuntimeError with the likely reason where no graph stands behind them."""
    if not vectors.requires_grad:
        raise RuntimeError(
            "no gradient leads from the representations to a weight. Either nothing is trainable, or gradient "
            "checkpointing with use_reentrant=True cut the graph behind frozen embeddings (LoRA): "
            "pass gradient_checkpointing_kwargs={'use_reentrant': False}, or call model.enable_input_require_grads()"
        )
    return vectors
