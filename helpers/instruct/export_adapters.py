"""Adapters beside the first: the same one scaled (at -1 it undoes a merge), and one that answers in another manner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from helpers.course.machine import set_seed
from helpers.instruct.adapters import WEIGHTS, save_adapter
from helpers.instruct.export import save_lora
from helpers.instruct.prompts import Example, Prompt
from helpers.instruct.sft.loss import batch_loss
from helpers.instruct.smallest import PROJECTIONS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def save_scaled(adapter: str | Path, folder: str | Path, factor: float) -> Path:
    """The same adapter with every B times ``factor``: W + factor * BA.

    At -1 it undoes a merge: over the merged model, W + BA - BA is the base again.
    """
    from safetensors.torch import load_file, save_file

    folder = save_lora(adapter, folder)
    weights = load_file(folder / WEIGHTS)
    scaled = {name: factor * weight if "lora_B" in name else weight for name, weight in weights.items()}
    save_file(scaled, folder / WEIGHTS, {"format": "pt"})
    return folder


def manner_rows(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of products with the answer in a whole, polite sentence instead of one word."""
    return [row | {"output": f"이 상품은 {row['output']} 분야입니다."} for row in rows]


def train_manner(
    model: PreTrainedModel, prompt: Prompt, rows: Sequence[dict[str, str]], folder: Path, *, base: str, steps: int, seed: int
) -> list[float]:  # fmt: skip
    """Train an adapter over ``model`` (its weights stay) and save it; returns the loss of every step, nats a token."""
    from peft import LoraConfig, get_peft_model

    set_seed(seed)
    tuned = get_peft_model(
        model, LoraConfig(r=8, lora_alpha=16, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    ).train()
    optimizer = torch.optim.AdamW([each for each in tuned.parameters() if each.requires_grad], lr=4e-3)
    examples = [prompt.example(row["instruction"], row["output"], row["input"]) for row in rows]
    losses = []
    for step in range(steps):
        loss = batch_loss(tuned, _batch(examples, step), prompt.pad_id)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    save_adapter(tuned.eval(), prompt, folder, base=base)
    tuned.unload()
    return losses


def _batch(examples: Sequence[Example], step: int, size: int = 8) -> list[Example]:
    return [examples[number % len(examples)] for number in range(step * size, (step + 1) * size)]
