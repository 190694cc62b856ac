"""A run of DPO: the tuned adapter twice on one base model (one learns, one is the reference), trained by trl."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from helpers.course.checkpoints import finish, resumable, run_fingerprint, step_of, weights_digest
from helpers.course.checksums import weights_fingerprint
from helpers.course.errors import InputError
from helpers.course.machine import chosen_dtype, set_seed
from helpers.course.paths import short_path
from helpers.instruct.adapters import by_peft, by_unsloth, need_adapter_for
from helpers.instruct.dpo.loss import REFERENCE
from helpers.instruct.dpo.settings import DpoSettings
from helpers.instruct.preferences import Pair
from helpers.instruct.prompts import Prompt
from helpers.instruct.unsloth_first import fast_language_model

if TYPE_CHECKING:
    from peft import PeftModel

NOT_IN_THE_WEIGHTS = {
    *("profile", "config", "output_dir", "data_dir", "smoke", "adapter", "logging_steps", "save_steps"),
    *("train_path", "test_path", "test_every"),  # the pairs are compared
    *("max_pairs", "max_test_pairs", "length_matched"),
    *("betas", "short_steps", "shown_answers", "bootstrap_draws"),
}
"""Settings that do not change what is learned, or only by the pairs: a run may go on under others."""


@dataclass
class DpoHistory:
    """What a run logged at each step: loss (nats a pair), rewards of both answers, their margin."""

    steps: list[int]
    losses: list[float]
    chosen: list[float]
    rejected: list[float]
    margins: list[float]
    seconds: float
    resumed_from: int = 0


def load_for_dpo(settings: DpoSettings, adapter: str | Path) -> tuple[PeftModel, Prompt]:
    """The base model under a tuned adapter that learns on, and the adapter's own prompt.

    ``settings.backend``: Unsloth's loader, or plain transformers and peft; trl trains either. Raises
    :class:`InputError` where the adapter belongs to another base model.
    """
    need_adapter_for(adapter, settings.model)
    fast_language_model()  # also for peft: trl's loss runs on a CPU only as Unsloth patches it
    set_seed(settings.seed)
    prompt = Prompt.load(adapter)
    model = _by_unsloth(settings, adapter) if settings.backend == "unsloth" else _by_peft(settings, adapter)
    model.config.pad_token_id = prompt.pad_id
    model.config.use_cache = False
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("no weight of this adapter can learn", file=short_path(Path(adapter)))
    return model.train(), prompt


def _by_unsloth(settings: DpoSettings, adapter: str | Path) -> PeftModel:
    return by_unsloth(
        settings.model,
        adapter,
        max_seq_length=settings.max_length,
        dtype=chosen_dtype(settings.dtype),
        load_in_4bit=settings.load_in_4bit,
        use_gradient_checkpointing=settings.use_gradient_checkpointing,
    )


def _by_peft(settings: DpoSettings, adapter: str | Path) -> PeftModel:
    from helpers.instruct.models import load_language_model

    _, base = load_language_model(settings.model, chosen_dtype(settings.dtype), load_in_4bit=settings.load_in_4bit)
    return by_peft(base, settings.model, adapter)


def prefer(
    model: PeftModel, prompt: Prompt, pairs: Sequence[Pair], settings: DpoSettings, callbacks: Sequence[Any] = ()
) -> DpoHistory:
    """Train the adapter in place by trl's ``DPOTrainer`` on pairs that carry our token ids.

    trl puts a frozen copy of the adapter beside it, named ``ref``, as the reference. So the first loss is ln 2: model
    and reference are the same, no answer has become more probable, and -log sigmoid(0) = ln 2. Raises RuntimeError where
    it is not (the reference is then another model than the start), at the first step, and where the trainer would read
    other ids; Diverged where a loss is no finite number. A run that was killed goes on from its last whole checkpoint in
    ``output_dir``, as instruction tuning does.
    """
    from helpers.instruct.dpo.trainer import make_trainer, same_ids

    adapter = weights_digest((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
    told = {key: value for key, value in settings if key not in NOT_IN_THE_WEIGHTS} | {"start": adapter}
    fingerprint = run_fingerprint(told | {"model": weights_fingerprint(settings.model)}, pairs)
    set_seed(settings.seed)
    trainer = make_trainer(model, prompt, pairs, settings, callbacks)
    same_ids(trainer, pairs)
    last = resumable(settings.output_dir, fingerprint)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finish(settings.output_dir, fingerprint)
    log = [row for row in trainer.state.log_history if "rewards/margins" in row]
    return DpoHistory(
        *([float(row[key]) for row in log] for key in ("step", "loss", "rewards/chosen", "rewards/rejected")),
        margins=[float(row["rewards/margins"]) for row in log],
        seconds=time.perf_counter() - start,
        resumed_from=step_of(last) if last else 0,
    )


def without_reference(model: PeftModel) -> PeftModel:
    """The model less its reference adapter, so that saving it writes one adapter, not two."""
    if REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)
    return model


def megabytes(model: torch.nn.Module, adapter: str | None = None) -> float:
    """Memory of the weights in MB (10^6 bytes); with ``adapter``, of that LoRA adapter alone."""
    weights = [
        weight.numel() * weight.element_size()
        for name, weight in model.named_parameters()
        if adapter is None or f".{adapter}." in name
    ]
    return sum(weights) / 1e6
