"""Lesson 02's training loop beside the sentence-transformers trainer: SimCSE with LoRA, the same batches in the same order.

    python benchmarks/simcse.py                              # batch 64, 30 steps, float32, five repeats
    python benchmarks/simcse.py --dtype bf16 --repeats 3

Sentences are lines of the shared corpus (KO_DATA_DIR), cut to 48 pieces as in the lesson or to --max_length: the less is cut,
the less alike they are in length, and the more is gained by sorting. Both train the same adapters on the same weights with
AdamW, dropout on, a temperature of 0.05: the library its MultipleNegativesRankingLoss over (sentence, sentence), we
`helpers.embedding.training.train` over the same. Every run is a process of its own with one thread, contenders in turn; time
is CPU time of the process from the call of train to its return, tokenization, clipping and our checkpoint included. Losses
differ by dropout alone: their means over all steps are printed beside each other.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from helpers.course.machine import detect_machine, forget_peak, peak_memory_mb, set_seed
from helpers.course.paths import course_data_dir
from helpers.data.pairs import Pairs
from helpers.data.sentences import read_sentences
from helpers.embedding.encoder import Encoder
from helpers.embedding.simcse_settings import SimCSESettings
from helpers.embedding.training import batches, train, views

OURS, LIBRARY = "course", "library"


def settings_of(batch: int, max_length: int | None, folder: Path) -> SimCSESettings:
    """The lesson's settings, without validations on the way."""
    given = dict(batch_size=batch, max_length=max_length, output_dir=folder)
    return SimCSESettings.load(eval_every=10**6, logger="none", **given)


def run_ours(encoder: Encoder, sentences: list[str], settings: SimCSESettings) -> list[float]:
    """The loss of every step."""
    few = Pairs(sentences[:2], sentences[2:4], scores=[1.0, 2.0])  # one validation of two pairs ends the run
    return train(encoder, [views(sentences)], Pairs(few.first, few.second), few, settings).losses


def run_library(encoder: Encoder, sentences: list[str], settings: SimCSESettings, bf16: bool) -> list[float]:
    """The loss of every step."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.utils.data import BatchSampler, SequentialSampler

    model = SentenceTransformer(settings.model, device="cpu", model_kwargs={"dtype": torch.float32})
    model.max_seq_length = settings.max_length
    model[0].model = encoder.model  # the same adapters on the same weights
    assert sum(p.requires_grad for p in model.parameters()) == sum(p.requires_grad for p in encoder.parameters())
    ordered = [
        text for batch in batches([views(sentences)], settings.batch_size, settings.seed, 0) for text in batch.first
    ]
    arguments = SentenceTransformerTrainingArguments(
        output_dir=settings.output_dir,
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        batch_sampler=lambda dataset, batch_size, drop_last, **_: BatchSampler(
            SequentialSampler(dataset), batch_size, drop_last
        ),
        use_cpu=True,
        bf16=bf16,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor": ordered, "positive": ordered}),
        loss=MultipleNegativesRankingLoss(model, scale=1 / settings.loss_temperature),
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def child(contender: str, batch: int, steps: int, max_length: int | None, bf16: bool) -> dict:
    """CPU seconds, peak memory beside the start, and the mean loss."""
    torch.set_num_threads(1)
    set_seed(13)
    sentences = read_sentences(course_data_dir("corpus", "corpus_ko.txt.gz"), batch * steps)
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(batch, max_length, Path(folder))
        encoder = Encoder.load(settings.model, max_length=settings.max_length)
        encoder.add_lora(r=settings.lora_r, alpha=settings.lora_alpha, dropout=settings.lora_dropout)
        forget_peak()
        before, start = peak_memory_mb(), time.process_time()
        if contender == OURS:
            if bf16:  # one autocast around all steps would go on using the first step's weights from its cache
                encoder.forward = torch.autocast("cpu", torch.bfloat16)(encoder.forward)
            losses = run_ours(encoder, sentences, settings)
        else:
            losses = run_library(encoder, sentences, settings, bf16)
        seconds = time.process_time() - start
    assert len(losses) == steps, f"{len(losses)} steps instead of {steps}"
    return {"seconds": seconds, "peak_mb": peak_memory_mb() - before, "loss": statistics.fmean(losses)}


def main() -> None:
    """Contenders in turn, each run in its own process, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max_length", type=int, help="pieces kept of a sentence")
    parser.add_argument("--dtype", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--child", choices=[OURS, LIBRARY], help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.child:
        print(json.dumps(child(told.child, told.batch, told.steps, told.max_length, told.dtype == "bf16")))
        return
    print(f"{detect_machine().cpu}; {told.dtype}; {told.steps} steps of {told.batch}; one thread; CPU seconds")
    found: dict[str, list[dict]] = {LIBRARY: [], OURS: []}
    for _ in range(told.repeats):
        for name, runs in found.items():
            command = [sys.executable, __file__, "--child", name, "--batch", str(told.batch)]
            command += ["--steps", str(told.steps), "--dtype", told.dtype]
            command += ["--max_length", str(told.max_length)] if told.max_length else []
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            runs.append(json.loads(output.strip().splitlines()[-1]))
    ours = statistics.median(run["seconds"] for run in found[OURS])
    for name, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        print(
            f"{name:8} {statistics.median(seconds):7.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            f"   {statistics.median(seconds) / ours:.2f} x course   + {runs[0]['peak_mb']:5.0f} MB"
            f"   mean loss {runs[0]['loss']:.3f}"
        )


if __name__ == "__main__":
    main()
