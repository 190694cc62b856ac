"""One contrastive batch shared out to several processes: the right way to its gradient, and three that look right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn

from helpers.course.errors import InputError
from helpers.data.retrieval import Document, RetrievalSet, write_beir
from helpers.embedding.batching import DistinctBatches
from helpers.embedding.contrastive import ContrastiveRows, InfoNCE
from helpers.embedding.encoder import Encoder
from helpers.embedding.gather import average_gradients, world
from helpers.embedding.grad_cache import GradCache
from helpers.embedding.infonce.batches import batch_of
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.losses import info_nce


class ScalingSettings(InfoNCESettings):
    """Lesson A2: what lesson 03 has, shared out to several processes."""

    default_config: ClassVar[str | None] = "config/scaling.yaml"

    processes: int = Field(2, ge=2, le=16, description="processes started on this machine")
    train_batch_size: int = Field(16, ge=2, description="rows a process in the training run")
    train_steps: int = Field(3, ge=1, description="steps of the training run")
    launch_file: Path = Field(Path("config/accelerate/two_machines.yaml"), description="for accelerate")

    def shared_rows(self) -> ContrastiveRows:
        """`batch_size` rows that share no text, each with `hard_negatives` hard negatives, for all processes together."""
        if self.batch_size % self.processes:
            raise InputError(
                "the rows cannot be shared out evenly",
                place="batch_size",
                given=f"{self.batch_size} rows for {self.processes} processes",
                allowed=f"a multiple of {self.processes}",
            )
        rows = self.training_rows()
        rows = rows.take([i for i, texts in enumerate(rows.negatives) if len(texts) >= self.hard_negatives])
        rows = rows.take(DistinctBatches(rows.keys(), self.batch_size, self.seed).draw(0)[0])
        kept = [texts[: self.hard_negatives] for texts in rows.negatives]
        return ContrastiveRows(rows.queries, rows.documents, kept, rows.relevant)

    def distinct_set(self) -> Path:
        """A BEIR folder below output_dir of rows that share no text, enough for the training run, all in split train.

        Where rows do share texts, one process with 2 B rows and two with B compose their batches differently.
        """
        wanted = self.train_batch_size * self.processes * self.train_steps
        rows = self.changed(batch_size=wanted, hard_negatives=0).shared_rows()
        names = [str(number) for number in range(len(rows))]
        data = RetrievalSet(
            {name: Document("", text) for name, text in zip(names, rows.documents, strict=True)},
            dict(zip(names, rows.queries, strict=True)),
            {name: {name: 1} for name in names},
            dict.fromkeys(names, "train"),
        )
        return write_beir(self.output_dir / "distinct", data)

    def model_without_dropout(self) -> Path:
        """The model once more, below output_dir, with every dropout at 0: several processes draw other dropout than one."""
        encoder = self.encoder()
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            setattr(encoder.model.config, name, 0.0)
        return encoder.save(self.output_dir / "no_dropout")

    def exact_encoder(self) -> Encoder:
        """The encoder in float64 on the CPU, dropout off: what then differs is an error of method, not rounding or chance."""
        encoder = self.encoder().cpu().double().eval()
        for name, parameter in encoder.named_parameters():
            if "pooler" in name:  # no loss reaches it
                parameter.requires_grad_(False)
        return encoder


def flat_gradient(model: nn.Module) -> Tensor:
    """The gradient on all trainable weights, one after the other: (P,)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


def gather_without_gradient(vectors: Tensor) -> Tensor:
    """(B, H) -> (W * B, H) by `all_gather` as it comes: no gradient leads back but to this process's own rows."""
    parts = [torch.empty_like(vectors) for _ in range(world()[1])]
    dist.all_gather(parts, vectors.detach().contiguous())
    parts[world()[0]] = vectors
    return torch.cat(parts)


def no_gather(loss: InfoNCE, *vectors: Tensor) -> Tensor:
    """Each process looks at its own rows alone: what in-batch negatives become when nobody gathers."""
    rank, rows, extra = world()[0], loss.sizes[0], loss.sizes[2]
    own = [rank * rows + i for i in range(rows)] + [world()[1] * rows + rank * extra + i for i in range(extra)]
    mask = loss.masked.mask(loss.first, loss.first + rows)[:, own]
    return info_nce(*vectors, temperature=loss.temperature, mask=mask)


def cut_gather(loss: InfoNCE, *vectors: Tensor) -> Tensor:
    """The right loss value, but a document learns only from the queries of its own process."""
    queries, others = vectors[0], [gather_without_gradient(side) for side in vectors[1:]]
    mask = loss.masked.mask(loss.first, loss.first + len(queries))
    return info_nce(queries, *others, temperature=loss.temperature, mask=mask, first=loss.first)


def loss_everywhere(loss: InfoNCE, *vectors: Tensor) -> Tensor:
    """Every process computes the loss of all rows, and the average then divides by the processes once too often."""
    everything = [gather_without_gradient(side) for side in vectors]
    return info_nce(*everything, temperature=loss.temperature, mask=loss.masked.mask(0, len(everything[0])))


WAYS: dict[str, Callable[..., Tensor]] = {
    "gathered": InfoNCE.whole,
    "nothing gathered": no_gather,
    "gathered, gradient cut": cut_gather,
    "whole loss in every process": loss_everywhere,
}
CACHED, WRAPPED = "gathered, gradient cache", "the same in DistributedDataParallel"


def gradient(
    encoder: Encoder, rows: ContrastiveRows, settings: ScalingSettings, way: str = "gathered"
) -> tuple[Tensor, float]:
    """Gradient (P,) and loss of `rows`, the share of this process, by a way of `WAYS`, CACHED or WRAPPED.

    Both are averaged over the processes; in one process alone, `rows` are the whole batch.
    """
    encoder.zero_grad()
    ids, loss = batch_of(encoder, rows).sides, InfoNCE(rows, settings.loss_temperature)
    if way in (CACHED, WRAPPED):
        model = nn.parallel.DistributedDataParallel(encoder) if way == WRAPPED else encoder
        cache = GradCache(
            lambda texts: model(*encoder.pad(texts)),
            token_budget=settings.chunk_tokens,
            no_sync=getattr(model, "no_sync", nullcontext),
        )
        value = cache(loss, *ids)
    else:
        value = WAYS[way](loss, *(encoder(*encoder.pad(side)) for side in ids))
    value.backward()
    if way != WRAPPED:  # that one averages by itself
        average_gradients(encoder.parameters())
    return flat_gradient(encoder), mean_over_processes(value.item())


def mean_over_processes(value: float) -> float:
    """The mean of one number of each process."""
    total = torch.tensor(value, dtype=torch.float64)
    if world()[1] > 1:
        dist.all_reduce(total)
    return (total / world()[1]).item()


def compared(given: Tensor, reference: Tensor) -> dict[str, float]:
    """How a gradient (P,) differs from the right one: relative error, cosine, and its length as a share of the right one."""
    cosine = (given @ reference / (given.norm() * reference.norm())).item()
    error = ((given - reference).norm() / reference.norm()).item()
    return {"error": error, "cosine": cosine, "length": (given.norm() / reference.norm()).item()}


def spread(given: Tensor) -> float:
    """The largest difference between the processes' copies of a tensor; 0.0 when all hold the same."""
    highest, lowest = given.clone(), given.clone()
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    return (highest - lowest).max().item()


def share_of(rows: ContrastiveRows, rank: int, processes: int) -> ContrastiveRows:
    """The rows of one process: the first of `processes` equal parts for rank 0, and so on."""
    each: Sequence[int] = range(len(rows))
    size = len(rows) // processes
    return rows.take(each[rank * size : (rank + 1) * size])
