"""An adapter in its smallest form, for lessons that want one and find none: plain transformers and peft, a minute's work.

    python -m helpers.instruct.smallest --output_dir outputs/shared/adapter

It teaches one task (:mod:`helpers.instruct.product_rows`), and with it to answer in the form asked for and to stop.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from helpers.course.atomic import replaced_folder
from helpers.course.machine import set_seed
from helpers.course.paths import REPOSITORY, repository_path
from helpers.instruct.adapters import save_adapter
from helpers.instruct.models import load_language_model
from helpers.instruct.product_rows import product_rows
from helpers.instruct.prompts import Prompt
from helpers.instruct.sft.loss import batch_loss
from helpers.instruct.sft.settings import SEVEN_PROJECTIONS
from helpers.instruct.tuning import BASE

PROJECTIONS = list(SEVEN_PROJECTIONS)
STEPS, BATCH, RATE, RANK, SEED = 40, 8, 5e-3, 8, 13


def train_smallest(output_dir: Path, steps: int = STEPS) -> float:
    """Train ``steps`` batches, write the adapter whole or not at all, and return the last batch's loss."""
    set_seed(SEED)
    tokenizer, base = load_language_model(BASE)
    prompt = Prompt.for_tokenizer(tokenizer)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    model = get_peft_model(base.float(), config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    examples = [prompt.example(r["instruction"], r["output"], r["input"]) for r in product_rows(steps * BATCH, SEED)]
    rows = itertools.cycle(examples)  # there are 650 products at most
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / steps)
        loss = batch_loss(model, list(itertools.islice(rows, BATCH)), prompt.pad_id)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with replaced_folder(output_dir) as folder:
        save_adapter(model, prompt, folder, base=BASE)
    return loss.item()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="train an adapter in its smallest form")
    parser.add_argument("--output_dir", type=Path, default=REPOSITORY / "outputs/shared/adapter")
    parser.add_argument("--steps", type=int, default=STEPS)
    told = parser.parse_args()
    print(f"last loss {train_smallest(repository_path(told.output_dir), told.steps):.3f}")


if __name__ == "__main__":
    main()
