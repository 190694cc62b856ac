"""trl's ``DPOTrainer`` on pairs that carry our own token ids; import it after Unsloth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import DPOConfig, DPOTrainer

from helpers.instruct.dpo.loss import REFERENCE, need_ln_2
from helpers.instruct.dpo.settings import DpoSettings
from helpers.instruct.preferences import Pair
from helpers.instruct.prompts import Prompt
from helpers.instruct.trainer_arguments import common_arguments
from helpers.instruct.watching import DivergenceWatch, LoraWatch

if TYPE_CHECKING:
    from peft import PeftModel


class PairTrainer(DPOTrainer):
    """The trainer with its own tokenisation left out: the prompt object has made the ids already.

    trl would join question and answer as text and tokenise them together: other ids where a token spans the border.
    """

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Read the adapter that learned; the reference is the start's copy already.

        transformers reads adapters in subfolders only, where there are any: it would take the reference alone.
        """
        self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)


class FirstLoss(TrainerCallback):
    """Stops a run with a wrong reference at its first step. Raises RuntimeError (:func:`need_ln_2`)."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.global_step == 1 and logs and "loss" in logs:
            need_ln_2(float(logs["loss"]))


class PolicyWatch(LoraWatch):
    """:class:`LoraWatch` without the reference adapter: that one must stay where it is."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Remember the adapter that learns."""
        super().on_pre_optimizer_step(args, state, control, **given | {"model": _Policy(given["model"])})

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Compare it."""
        super().on_optimizer_step(args, state, control, **given | {"model": _Policy(given["model"])})


class _Policy:
    def __init__(self, model: PeftModel) -> None:
        self._model = model

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, weight) for name, weight in self._model.named_parameters() if f".{REFERENCE}." not in name)


def make_trainer(
    model: PeftModel, prompt: Prompt, pairs: Sequence[Pair], settings: DpoSettings, callbacks: Sequence[Any] = ()
) -> PairTrainer:
    """The trainer of :func:`helpers.instruct.dpo.run.prefer`."""
    from_ln_2 = settings.loss_type.startswith("sigmoid") and not settings.sft_weight
    trainer = PairTrainer(
        model=model,
        processing_class=prompt.tokenizer,
        train_dataset=Dataset.from_list([pair.columns() for pair in pairs]),
        args=trainer_arguments(settings, model.dtype),
        callbacks=[PolicyWatch(), DivergenceWatch(), *([FirstLoss()] if from_ln_2 else []), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def trainer_arguments(settings: DpoSettings, dtype: torch.dtype) -> DPOConfig:
    """Our settings under trl's names."""
    losses = {settings.loss_type: 1.0} | ({"sft": settings.sft_weight} if settings.sft_weight else {})
    return DPOConfig(
        **common_arguments(settings, dtype),
        beta=settings.beta,
        loss_type=list(losses),
        loss_weights=list(losses.values()),
        max_length=settings.max_length,
        disable_dropout=True,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
    )


def same_ids(trainer: PairTrainer, pairs: Sequence[Pair]) -> None:
    """Raise RuntimeError where the batches that the trainer makes would hold other ids than the pairs do.

    What the trainer reads of a pair is [question, chosen] and [question, rejected], and it scores the answers' ids only.
    """
    rows = [trainer.train_dataset[number] for number in range(len(trainer.train_dataset))]
    batch = trainer.data_collator(rows)
    real = batch["attention_mask"].bool()
    read = [ids[kept].tolist() for ids, kept in zip(batch["input_ids"], real, strict=True)]
    scored = [ids[kept.bool()].tolist() for ids, kept in zip(batch["input_ids"], batch["completion_mask"], strict=True)]
    answers = [pair.chosen_ids for pair in pairs] + [pair.rejected_ids for pair in pairs]
    wanted = [[*pair.prompt_ids, *answer] for pair, answer in zip([*pairs, *pairs], answers, strict=True)]
    if read != wanted or scored != answers:
        raise RuntimeError("the trainer would read other token ids than the prompt object made")
