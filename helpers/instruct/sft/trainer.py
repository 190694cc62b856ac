"""trl's ``SFTTrainer`` on rows that carry our own token ids and labels; import it after Unsloth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTConfig, SFTTrainer

from helpers.instruct.prompts import IGNORED, Example, Prompt
from helpers.instruct.sft.settings import InstructionSettings
from helpers.instruct.trainer_arguments import common_arguments
from helpers.instruct.watching import DivergenceWatch, LoraWatch, Progress

if TYPE_CHECKING:
    from peft import PeftModel


class ShuffledGroups(LengthGroupedSampler):
    """Rows of like length side by side, as transformers groups them, but the batches in random order.

    transformers goes from the longest rows to the shortest, some fifty batches on end, and again: one length for many steps.
    """

    def __iter__(self) -> Iterator[int]:
        """Row numbers; a last batch that is not full stays last, or all behind it would be cut elsewhere."""
        rows = list(super().__iter__())
        full = len(rows) // self.batch_size
        batches = torch.tensor(rows[: full * self.batch_size]).view(full, self.batch_size)
        return iter([*batches[torch.randperm(full)].flatten().tolist(), *rows[full * self.batch_size :]])


class RowTrainer(SFTTrainer):
    """The trainer, with batches of like length in random order."""

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = self.train_dataset if train_dataset is None else train_dataset
        rows_a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return ShuffledGroups(rows_a_step, lengths=[len(ids) for ids in rows["input_ids"]])


def make_trainer(
    model: PeftModel,
    prompt: Prompt,
    train: Sequence[Example],
    validation: Sequence[Example],
    settings: InstructionSettings,
    callbacks: Sequence[Any] = (),
    shown: bool = True,
) -> SFTTrainer:
    """The trainer of :func:`helpers.instruct.tuning.tune`. The rows are tokenised already: trl must leave them alone."""
    trainer = RowTrainer(
        model=model,
        processing_class=prompt.tokenizer,
        train_dataset=as_dataset(train),
        eval_dataset=as_dataset(validation),
        args=trainer_arguments(settings, model.dtype),
        callbacks=[LoraWatch(), DivergenceWatch(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if shown:
        trainer.add_callback(Progress(tokens_a_row(trainer.train_dataset) * settings.rows_a_step))
    return trainer


def as_dataset(examples: Sequence[Example]) -> Dataset:
    """Columns ``input_ids`` and ``labels``, one row an example."""
    return Dataset.from_list([{"input_ids": one.input_ids, "labels": one.labels} for one in examples])


def tokens_a_row(dataset: Dataset) -> float:
    """Mean tokens of the rows as the trainer has them: a packed row holds several examples."""
    return sum(len(ids) for ids in dataset["input_ids"]) / len(dataset)


def trainer_arguments(settings: InstructionSettings, dtype: torch.dtype) -> SFTConfig:
    """Our settings under trl's names."""
    return SFTConfig(
        **common_arguments(settings, dtype),
        max_length=settings.max_seq_length,
        packing=settings.packing,
        eval_packing=False,
        dataset_kwargs={"skip_prepare_dataset": not settings.packing},
        train_sampling_strategy="group_by_length" if settings.group_by_length and not settings.packing else "random",
        per_device_eval_batch_size=settings.eval_batch_size,
        eval_strategy=settings.evaluation_strategy,
        eval_steps=settings.eval_steps,
        save_strategy="epoch" if settings.evaluation_strategy == "epoch" else "steps",
        save_steps=settings.save_steps,
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=settings.load_best_model_at_end,
        metric_for_best_model="eval_loss" if settings.load_best_model_at_end else None,
        greater_is_better=False,
    )


def same_labels(dataset: Dataset, examples: Sequence[Example]) -> None:
    """Raise RuntimeError where the trainer would learn other tokens than the examples say (a library changed them)."""
    wanted = sorted(label for one in examples for label in one.labels if label != IGNORED)
    found = sorted(label for labels in dataset["labels"] for label in labels if label != IGNORED)
    if wanted != found:
        raise RuntimeError(
            f"the trainer changed the labels: {len(wanted):,} tokens should be learned, {len(found):,} would be"
        )
