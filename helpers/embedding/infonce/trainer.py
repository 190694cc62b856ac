"""Contrastive training with the Hugging Face Trainer: InfoNCE in `compute_loss`, with or without the gradient cache."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from helpers.course.checkpoints import finish, resumable, run_fingerprint, step_of, weights_digest
from helpers.course.machine import torch_device
from helpers.course.training_faults import Diverged
from helpers.embedding.batching import DistinctBatches
from helpers.embedding.contrastive import ContrastiveRows, InfoNCE
from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.adapters import refuse_frozen
from helpers.embedding.encoding.fast_dropout import use_fast_dropout
from helpers.embedding.gather import world
from helpers.embedding.grad_cache import GradCache
from helpers.embedding.infonce.batches import Batch, refuse_long_rows, refuse_unequal_negatives, token_ids
from helpers.embedding.infonce.callbacks import (
    Checkpoints,
    ContrastiveHistory,
    EveryAdapterMoves,
    Progress,
    history_files,
)
from helpers.embedding.infonce.settings import InfoNCESettings
from helpers.embedding.schedule import MovesFromTheFirstStep

MEGABYTE = 2**20
NOT_IN_THE_WEIGHTS = {
    *(
        "profile",
        "config",
        "smoke",
        "output_dir",
        "test_set",
        "test_split",
        "max_queries",
        "compare_batches",
        "true_batch",
    ),
    *("model", "query_prompt", "document_prompt", "max_length"),  # the start and the token ids are compared
    *("data_dir", "train_set", "e5_files", "max_rows", "negatives_from"),
    *(name for name in InfoNCESettings.model_fields if name.startswith("mine_")),
}
"""Settings that do not change what is learned, or only by the start and the rows: a run may go on under others."""


class Arguments(TrainingArguments):
    """The Trainer's. Of several processes on a CPU accelerate numbers the device, and torch loads no checkpoint to "cpu:1"."""

    @property
    def device(self) -> torch.device:
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


class ContrastiveTrainer(MovesFromTheFirstStep, Trainer):
    """Hugging Face's Trainer with a batch sampler that keeps equal texts apart, and InfoNCE over whole batches.

    Mixed precision, accumulation, the content of a checkpoint and several processes are the Trainer's own. Every row of a
    batch has its first `hard_negatives` hard negatives with it. `groups` says what each row is about: see `DistinctBatches`.
    """

    def __init__(
        self,
        encoder: Encoder,
        rows: ContrastiveRows,
        settings: InfoNCESettings,
        args: TrainingArguments,
        groups: Sequence[Hashable] | None = None,
    ) -> None:
        self.settings, self.history, self.groups = settings, ContrastiveHistory(), groups
        kept = [texts[: settings.hard_negatives] for texts in rows.negatives]
        self.rows = replace(rows, negatives=kept)
        refuse_frozen(encoder)
        self.tokens = token_ids(encoder, self.rows)
        if settings.grad_cache:
            refuse_long_rows(self.rows, self.tokens, settings.chunk_tokens)
        if settings.piece_weights:
            encoder.weigh_pieces(self.tokens.values())
        use_fast_dropout(encoder.model)
        super().__init__(model=encoder, args=args, train_dataset=range(len(rows)), data_collator=self.collate)
        if world()[1] > 1:
            refuse_unequal_negatives(self.rows)
        if settings.use_lora:
            self.add_callback(EveryAdapterMoves(encoder.model))

    def collate(self, numbers: Sequence[int]) -> dict[str, Batch]:
        """Row numbers -> one batch."""
        return {"batch": Batch.of(self.rows.take(numbers), self.tokens, numbers)}

    def get_train_dataloader(self) -> DataLoader:
        """Batches in which no query and no document stands twice."""
        own = self.settings
        batches = DistinctBatches(
            self.rows.keys(), own.batch_size, own.seed, groups=self.groups, group_size=own.group_size
        )
        self.history.left_over = len(batches.left_over)
        loader = DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.collate)
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """AdamW by `optimizer_of`; the Trainer calls this once and puts its schedule over every rate."""
        self.optimizer = self.optimizer or optimizer_of(self.model, self.settings)
        return self.optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Batch], return_outputs: bool = False, **_: object
    ) -> Tensor:
        """InfoNCE of the batch; `backward()` of what it returns gives the gradient of the whole batch.

        Raises Diverged where a vector or the loss is not finite.
        """
        batch = inputs["batch"]
        loss = InfoNCE(batch.rows, self.settings.loss_temperature, both_directions=self.settings.both_directions)
        if self.settings.grad_cache:
            cache = GradCache(
                lambda texts: model(*self.model.pad(texts)),
                token_budget=self.settings.chunk_tokens,
                keep_bytes=int(self.settings.keep_mb * MEGABYTE),
                no_sync=getattr(model, "no_sync", nullcontext),
            )
            try:
                value = cache(loss, *batch.sides)
            except FloatingPointError as error:
                self.refuse("a vector", str(error), batch.numbers, error)
        else:
            value = loss.whole(*(model(*self.model.pad(side)) for side in batch.sides))
        if not math.isfinite(value.item()):
            self.refuse("the loss", value.item(), batch.numbers)
        self.history.losses.append(value.item())
        self.history.masked.append(loss.masked.share)
        return (value, None) if return_outputs else value

    def fingerprint(self) -> dict[str, str]:
        """All that the weights at the end rest on: start, settings, number of processes, rows and their token ids."""
        told = {name: value for name, value in self.settings if name not in NOT_IN_THE_WEIGHTS}
        told |= {"autocast": self.settings.precision(), "pooling": self.model.pooling, "processes": world()[1]}
        told["start"] = weights_digest(self.model.state_dict().items())
        rows, relevant = self.rows, sorted((query, sorted(found)) for query, found in self.rows.relevant.items())
        texts = zip(rows.queries, rows.documents, rows.negatives, strict=True)
        return run_fingerprint(told, texts, relevant, self.tokens.items(), map(str, self.groups or ()))

    def refuse(self, what: str, given: object, numbers: Sequence[int] = (), cause: Exception | None = None) -> NoReturn:
        """Raise Diverged with the step, the first rows of its batch, and the rate."""
        rows = ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
        hint = f"the training has diverged: lower lr (it is {self.settings.lr:g})"
        if self.state.global_step == 0 and numbers:
            hint = (
                "no step has been taken: the model you start from is damaged, or its numbers overflow in this precision"
            )
        place = f"step {self.state.global_step + bool(numbers)}" + (f", rows {rows}" if numbers else "")
        raise Diverged(f"{what} is not a finite number", place=place, given=given, hint=hint) from cause


def train_contrastive(
    encoder: Encoder,
    rows: ContrastiveRows,
    settings: InfoNCESettings,
    groups: Sequence[Hashable] | None = None,
    *,
    shown: bool = True,
) -> ContrastiveHistory:
    """Train the encoder in place by `settings`; returns losses, masked shares, steps and seconds.

    groups  for each row what it is about: `group_size` rows of a group then stand together in a batch
    shown   a line of progress, where the run takes more than a few seconds

    Every five minutes a checkpoint is written below `output_dir/trainer`, and removed at the end: a run of the same start,
    rows and settings that was killed goes on from it, and one of another run is moved aside. On a CPU it ends, bit for bit,
    at the weights of one that was not (where all epochs have as many batches: the Trainer counts epochs by the first).
    Raises Diverged where vectors, losses or weights are no longer finite, and InputError where all weights are frozen, a text
    is longer than `chunk_tokens`, or there are several processes and rows have hard negatives in unequal numbers.
    """
    folder = settings.output_dir / "trainer"
    arguments = Arguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        gradient_accumulation_steps=settings.accumulation,
        warmup_steps=settings.warmup,
        seed=settings.seed,
        save_strategy="no",  # `Checkpoints` says when
        save_total_limit=2,  # the newest may be half written
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=torch_device().type == "cpu",  # bf16 on a CPU wants to be told
        bf16=settings.precision() == "bf16",
        fp16=settings.precision() == "fp16",
    )
    trainer = ContrastiveTrainer(encoder, rows, settings, arguments, groups)
    trainer.remove_callback(PrinterCallback)
    fingerprint = trainer.fingerprint()
    last = resumable(folder, fingerprint, written_last=history_files())
    checkpoints = Checkpoints(trainer.history)
    trainer.add_callback(checkpoints)
    if last:
        checkpoints.load(last)
    first = world()[0] == 0
    if first and last:
        print(f"a run that was stopped goes on after step {step_of(last)}")
    if first and shown:
        trainer.add_callback(Progress(trainer.history))
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.accelerator.unwrap_model(encoder, keep_fp32_wrapper=False).eval()  # forward is out of autocast again
    if not all(p.isfinite().all() for p in encoder.parameters() if p.requires_grad):
        trainer.refuse("a weight", "NaN or infinity after the last step")
    finish(folder, fingerprint, keep=False)
    return trainer.history


def optimizer_of(encoder: Encoder, settings: InfoNCESettings) -> AdamW:
    """AdamW over what is trainable: biases and norms do not decay, and word vectors may have a rate of their own.

    A word vector has a gradient only in the steps whose batch holds its piece. In a few dozen steps most of them would hardly
    move at the rate that suits the layers.
    """
    words = {id(parameter) for parameter in encoder.model.get_input_embeddings().parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in encoder.parameters():
        if parameter.requires_grad:
            rate = settings.embedding_lr if settings.embedding_lr and id(parameter) in words else settings.lr
            groups.setdefault((rate, settings.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    return AdamW([{"params": each, "lr": rate, "weight_decay": decay} for (rate, decay), each in groups.items()])


def negatives_per_query(rows: ContrastiveRows, settings: InfoNCESettings) -> str:
    """How many negatives a query meets in one loss, in words; hard ones are counted in the rows, not in the settings.

    Hard negatives that the rows had to do without, since they answer their query, are told as well.
    """
    processes, kept = world()[1], [len(texts[: settings.hard_negatives]) for texts in rows.negatives]
    together = processes * settings.batch_size
    hard, about = together * sum(kept) / max(1, len(kept)), "about " * (len(set(kept)) > 1)
    many = f"({processes} process{'es' * (processes > 1)})"
    lost = f"; {rows.left_out} hard negatives left out, which answer their query" if rows.left_out else ""
    return f"{together - 1} documents of other queries + {about}{hard:.0f} hard negatives {many}{lost}"
