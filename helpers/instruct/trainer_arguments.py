"""What every trainer of this wing is told, whatever it trains for: lessons 07 and 08."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from helpers.course.machine import torch_device

if TYPE_CHECKING:
    from helpers.instruct.dpo.settings import DpoSettings
    from helpers.instruct.sft.settings import InstructionSettings


def common_arguments(settings: InstructionSettings | DpoSettings, dtype: torch.dtype) -> dict[str, Any]:
    """Our settings under the names of transformers' ``TrainingArguments``; ``dtype``: in what the model computes."""
    gpu = torch_device().type == "cuda"
    return {
        "output_dir": str(settings.output_dir),
        "remove_unused_columns": False,
        "per_device_train_batch_size": settings.train_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "num_train_epochs": settings.num_train_epochs,
        "max_steps": settings.max_steps or -1,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "optim": settings.optim,
        "gradient_checkpointing": bool(settings.use_gradient_checkpointing),  # trl's default is on
        "logging_steps": settings.logging_steps,
        "logging_nan_inf_filter": False,  # by default a loss that is not finite is left out of the log
        "report_to": [],
        "disable_tqdm": True,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "use_cpu": not gpu,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "dataloader_pin_memory": gpu,
    }
