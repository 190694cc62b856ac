"""Instruction tuning by Unsloth and trl, one code path for CPU and GPU; and the adapter that other lessons start from.

python -m helpers.instruct.tuning --config_path config/mistral.yaml [--profile cpu] [-p learning_rate 0.001]
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.course.checkpoints import finish, resumable, run_fingerprint, step_of
from helpers.course.checksums import verify_where_listed, weights_fingerprint
from helpers.course.errors import InputError
from helpers.course.machine import chosen_dtype, set_seed
from helpers.course.paths import REPOSITORY, repository_path, short_path
from helpers.instruct.adapters import belongs_to
from helpers.instruct.prompts import Example, Prompt
from helpers.instruct.rows import trained_share
from helpers.instruct.sft.settings import InstructionSettings
from helpers.instruct.unsloth_first import fast_language_model

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

BASE = "sample_data/models/ko-mini-mistral"
LESSON_ADAPTER = "outputs/07_instruction_lora_unsloth/adapter"
SHARED_ADAPTER = "outputs/shared/adapter"
NOT_IN_THE_WEIGHTS = {
    *("profile", "config", "output_dir", "data_dir", "smoke"),
    *("logging_steps", "save_steps", "save_total_limit", "eval_batch_size", "model_use_cache"),
    *("train_path", "val_path", "val_share", "max_rows", "max_val_rows", "template", "system"),  # the rows are compared
    *("short_rows", "short_steps", "ranks"),
}
"""Settings that do not change what is learned, or only by the rows: a run may go on under others."""


@dataclass
class History:
    """What a run left: losses by step (nats a learned token), its best step and how fast it was."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    validations: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    steps: int = 0
    seconds: float = 0.0
    resumed_from: int = 0


def deepened(settings: InstructionSettings) -> InstructionSettings:
    """The settings with a depth up-scaled copy of their model, where they ask for one (``depth_up_scale_dropped``).

    The copy goes to ``output_dir/base``; it is made once, after Unsloth has been imported.
    """
    if settings.depth_up_scale_dropped is None:
        return settings
    fast_language_model()
    from helpers.instruct.sft.depth import save_up_scaled

    folder = save_up_scaled(settings.model, settings.depth_up_scale_dropped, settings.output_dir / "base")
    return settings.changed(model=str(folder), depth_up_scale_dropped=None)


def load_for_tuning(settings: InstructionSettings) -> tuple[PeftModel, Prompt]:
    """The base model with a fresh LoRA adapter, by ``unsloth.FastLanguageModel``, and its prompt.

    Raises :class:`InputError` where the model is not to be had or has no layer of a name in ``lora_target_modules``, and
    for 4 bits where the machine cannot.
    """
    unsloth = fast_language_model()
    verify_where_listed(repository_path(settings.model))
    set_seed(settings.seed)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a banner at every load
            model, tokenizer = unsloth.from_pretrained(
                settings.model,
                max_seq_length=settings.max_seq_length,
                dtype=chosen_dtype(settings.dtype),
                load_in_4bit=settings.load_in_4bit,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            "Unsloth could not load this model",
            place="model",
            given=settings.model,
            hint=f"it says: {str(error).strip().splitlines()[0]}",
        ) from error
    need_layers(model, settings.lora_target_modules)
    prompt = Prompt.for_tokenizer(tokenizer, settings.template, settings.system)
    model = unsloth.get_peft_model(
        model,
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_target_modules),
        use_gradient_checkpointing=settings.use_gradient_checkpointing,
        use_rslora=settings.use_rslora,
        random_state=settings.seed,
        bias="none",
    )
    model.config.use_cache = settings.model_use_cache
    model.config.pad_token_id = prompt.pad_id
    return model, prompt


def need_layers(model: torch.nn.Module, wanted: Sequence[str]) -> None:
    """Raise :class:`InputError` for a name under which the model has no linear layer."""
    linear = {name for name, part in model.named_modules() if hasattr(part, "in_features")}
    if missing := [each for each in wanted if not any(f".{name}".endswith(f".{each}") for name in linear)]:
        raise InputError(
            "this model has no linear layer of this name",
            place="lora_target_modules",
            given=missing[0],
            allowed=sorted({name.rsplit(".", 1)[-1] for name in linear}),
        )


def tune(
    model: PeftModel,
    prompt: Prompt,
    train: Sequence[Example],
    validation: Sequence[Example],
    settings: InstructionSettings,
    callbacks: Sequence[Any] = (),
    shown: bool = True,
) -> History:
    """Train the adapter in place by trl's ``SFTTrainer``; it ends at its best checkpoint where the settings say so.

    A run that was killed goes on from its last whole checkpoint in ``output_dir`` and ends, on a CPU, at bitwise the
    weights of one that was not; checkpoints of other settings or rows are moved aside first. ``shown``: a progress bar.
    Raises :class:`InputError` where nothing or everything would be trained, Diverged where a loss is no finite number,
    LoraDidNotMove where an adapter does not learn, RuntimeError where the trainer would learn other labels than ours.
    """
    from helpers.instruct.sft.trainer import make_trainer, same_labels

    trained_share([*train, *validation])
    told = {key: value for key, value in settings if key not in NOT_IN_THE_WEIGHTS}
    fingerprint = run_fingerprint(told | {"model": weights_fingerprint(settings.model)}, train, validation)
    set_seed(settings.seed)
    trainer = make_trainer(model, prompt, train, validation, settings, callbacks, shown)
    same_labels(trainer.train_dataset, train)
    last = resumable(settings.output_dir, fingerprint)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finish(settings.output_dir, fingerprint)
    log, best = trainer.state.log_history, trainer.state.best_model_checkpoint
    return History(
        losses=[(row["step"], float(row["loss"])) for row in log if "loss" in row],
        validations=[(row["step"], float(row["eval_loss"])) for row in log if "eval_loss" in row],
        best_step=step_of(best) if best else None,
        steps=trainer.state.global_step,
        seconds=time.perf_counter() - start,
        resumed_from=step_of(last) if last else 0,
    )


def tuned_adapter(output_dir: str | Path = SHARED_ADAPTER, *, base: str = BASE) -> Path:
    """A tuned adapter of ``base``: the one that lesson 07 left, or, of the small model, one trained now in its smallest form.

    The second goes to ``output_dir`` (a minute of one core, in a process of its own, kept for the next lesson). An
    adapter whose base model has been replaced since is not taken. Prints which one it is. The folder holds
    adapter_model.safetensors, adapter_config.json, the tokenizer and prompt.json. Raises :class:`InputError` where
    another base model has none: it takes a GPU and hours to train, so nobody does it unasked.
    """
    for folder in (repository_path(LESSON_ADAPTER), repository_path(output_dir)):
        if belongs_to(folder, base):
            print(f"tuned adapter: {short_path(folder)}")
            return folder
    if weights_fingerprint(base) != weights_fingerprint(BASE):
        raise InputError(
            "lesson 07 has left no adapter for this base model, and only the small one is trained here",
            place="adapter",
            given=base,
            hint="run lesson 07 under the same profile and with this model, or train one by config/mistral.yaml or "
            "config/solar.yaml (python -m helpers.instruct.tuning --config_path ...) and name its folder as `adapter`",
        )
    folder = repository_path(output_dir)
    print(
        f"lesson 07 has left no adapter for this base model: training one in its smallest form to {short_path(folder)}"
    )
    command = [sys.executable, "-m", "helpers.instruct.smallest", "--output_dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode or not belongs_to(folder, base):
        raise InputError(
            "the smallest adapter could not be trained", file=short_path(folder), hint=done.stderr.strip()[-600:]
        )
    return folder


if __name__ == "__main__":
    from helpers.instruct.sft.command import main

    sys.exit(main())
