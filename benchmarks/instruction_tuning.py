"""Instruction tuning on a CPU: the lesson's recipe against Unsloth with its defaults, same rows, same batch, same loss.

    python benchmarks/instruction_tuning.py [--rows 512] [--repeats 3] [--output figures.json]

Each contender runs in a process of its own, in turn with the others: validation first (the loss on the same tokens, and
a warm-up), then one epoch. Tokens are real ones, PAD not counted. Of the repeats the fastest counts, for every contender:
what else the machine does only ever slows a run down. Rows: the permissive instruction mix of KO_DATA_DIR, or
the course's products where that is absent (it says which).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from helpers.course.errors import InputError
from helpers.course.jsonl import write_jsonl
from helpers.course.machine import detect_machine, measure
from helpers.course.paths import REPOSITORY, course_data_dir
from helpers.course.rejects import Rejects
from helpers.instruct.product_rows import product_rows
from helpers.instruct.rows import read_rows
from helpers.instruct.sft.settings import InstructionSettings

CONTENDERS: dict[str, dict[str, Any]] = {
    "Unsloth's defaults": {"use_gradient_checkpointing": "unsloth", "group_by_length": False},
    "grouped by length": {"use_gradient_checkpointing": "unsloth", "group_by_length": True},
    "the lesson's recipe": {"use_gradient_checkpointing": False, "group_by_length": True},
}


def contend(name: str, rows: Path, folder: Path, batch: int) -> dict[str, Any]:
    """One epoch of one contender in this process: tokens a second of wall and of CPU time, peak memory, losses."""
    from helpers.instruct.sft.course_rows import prepared
    from helpers.instruct.sft.loss import response_loss
    from helpers.instruct.tuning import load_for_tuning

    settings = InstructionSettings.load(
        train_path=rows,
        output_dir=folder,
        smoke=False,
        num_train_epochs=1,
        max_rows=10**9,
        train_batch_size=batch,
        eval_batch_size=batch,
        evaluation_strategy="no",
        load_best_model_at_end=False,
        save_steps=10**6,
        **CONTENDERS[name],
    )
    model, prompt = load_for_tuning(settings)
    from helpers.instruct.sft.trainer import make_trainer

    made = prepared(settings, prompt)
    trainer = make_trainer(model, prompt, made.train, made.validation, settings, shown=False)
    first = response_loss(model, prompt, made.validation, batch)
    tokens = sum(len(one.input_ids) for one in made.train)
    used = time.process_time()
    with measure() as taken:
        trainer.train()
    used = time.process_time() - used
    return {
        "contender": name,
        "rows": len(made.train),
        "tokens": tokens,
        "tokens_per_second": tokens / taken.seconds,
        "tokens_per_cpu_second": tokens / used,
        "peak_mb": taken.peak_mb,
        "loss_before": first,
        "loss_after": response_loss(model, prompt, made.validation, batch),
    }


def rows_to_train_on(folder: Path, limit: int) -> tuple[Path, str]:
    """A jsonl file of ``limit`` rows, and where they come from."""
    try:
        source = course_data_dir("instruct/mix_permissive.jsonl.gz")
        rows, said = read_rows(source, Rejects(folder / "mix"), limit), "the permissive instruction mix"
    except InputError:
        rows, said = product_rows(limit), "the course's products (KO_DATA_DIR is not there)"
    return write_jsonl(folder / "rows.jsonl", rows), said


def main() -> None:
    parser = argparse.ArgumentParser(description="tokens per second of instruction tuning on a CPU")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if told.contender:
            print(json.dumps(contend(told.contender, told.data, folder, told.batch)))
            return
        rows, said = rows_to_train_on(folder, told.rows)
        print(f"rows: {said}", flush=True)
        runs = [one_process(each, rows, told.batch) for _ in range(told.repeats) for each in CONTENDERS]
    table = pd.DataFrame(
        {"contender": each}
        | {
            key: combined(key)(run[key] for run in runs if run["contender"] == each)
            for key in runs[0]
            if key != "contender"
        }
        for each in CONTENDERS
    )
    for key in ("tokens_per_second", "tokens_per_cpu_second"):
        table[f"times_{key}"] = (table[key] / table[key][0]).round(2)
    print(table.round(3).T.to_string(header=False))
    machine = detect_machine()
    print(f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb} GB, bfloat16 in hardware: {machine.bf16}")
    if told.output:
        told.output.write_text(json.dumps({"machine": vars(machine), "rows": said, "runs": runs}, indent=2) + "\n")


def combined(key: str) -> Callable[[Iterable[float]], float]:
    """How repeats become one figure."""
    return max if key.startswith("tokens_per") else median


def one_process(contender: str, rows: Path, batch: int) -> dict[str, Any]:
    """The figures of one contender, measured in a fresh process."""
    command = [sys.executable, __file__, "--contender", contender, "--data", str(rows), "--batch", str(batch)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
