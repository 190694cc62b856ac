"""Pretrain the course's two small Korean models; lesson A1 explains every step.

    python sample_data/models/pretrain.py prepare|encoder|lm [--config F] [--set lm.tokens=1e6]
    python sample_data/models/pretrain.py export-encoder|export-lm --out FOLDER (or --replace: the shipped model)

A step's batch depends on the seed and the step's number alone, so a run that was killed goes on exactly where its last
checkpoint stood. In reading order: recipe.py, corpus.py, arrays.py, loop.py, encoder_model.py, encoder_run.py, lm_run.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import torch
from arrays import documents, prepare, read_arrays
from encoder_model import encoder_config, word_vectors
from encoder_run import pretrain_encoder
from lm_run import new_lm, pretrain_lm
from loop import Muon, load_checkpoint
from recipe import FIRST, LAST, MASK, PAD, ROOT, SAMPLE, SPECIALS, UNK, load_settings
from tokenizers import Tokenizer
from transformers import BertModel, PreTrainedTokenizerFast

from helpers.course.checksums import write_checksums
from helpers.course.errors import InputError
from helpers.course.files import atomic_write
from helpers.course.plots import line_figure, use_course_style

__all__ = [  # what lesson A1 and the tests take from here
    "FIRST", "LAST", "MASK", "PAD", "SPECIALS", "UNK", "Muon", "Tokenizer", "documents", "export", "load_settings", "new_lm",
    "prepare", "pretrain_encoder", "pretrain_lm", "read_arrays", "word_vectors",
]  # fmt: skip


def export(settings: dict, kind: str, folder: Path) -> None:
    """Weights and tokenizer as transformers loads them: safetensors, half precision.

    The weights are those of the lowest held-out loss so far, or the last ones where none was measured yet.
    """
    best = settings["run_dir"] / f"{kind}.best.pt"
    state = load_checkpoint(settings, kind, best if best.exists() else best.with_name(f"{kind}.pt"))
    backend = Tokenizer.from_file(str(settings["run_dir"] / f"{kind}.json"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    if kind == "encoder":
        # The encoder alone, as AutoModel loads it: the heads of pretraining stay in the checkpoint. BERT's pooler is
        # not trained here; as an identity it is at least the same after every load.
        model, dtype = BertModel(encoder_config(settings)), torch.float16
        weights = {n.removeprefix("bert."): value for n, value in state["model"].items() if n.startswith("bert.")}
        weights["pooler.dense.weight"] = torch.eye(settings["encoder"]["hidden"])
        weights["pooler.dense.bias"] = torch.zeros(settings["encoder"]["hidden"])
    else:
        names = ("pad_token", "unk_token", "bos_token", "eos_token")
        model, weights, dtype = new_lm(settings), state["model"], torch.bfloat16
    model.load_state_dict(weights)
    model.to(dtype).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512 if kind == "encoder" else 1024,
        **dict(zip(names, SPECIALS[kind], strict=True)),
    )
    tokenizer.save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)
    rows = [json.loads(row) for row in (settings["run_dir"] / f"{kind}.log.jsonl").read_text().splitlines()]
    fields = ["step", "tokens", "seconds", *(["mlm", "bow", "pairs"] if kind == "encoder" else ["loss"]), "held_out"]
    with atomic_write(folder / "training_log.csv") as file:
        writer = csv.DictWriter(file, fields, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row["step"] <= state["step"])
    curves = {name: [(r["tokens"] / 1e6, r[name]) for r in rows if name in r] for name in fields[3:]}
    lines = {name: tuple(zip(*points, strict=True)) for name, points in curves.items() if points}
    use_course_style()
    line_figure(lines, folder.name, "million pieces", "loss, nats").savefig(folder / "loss.png")
    write_checksums(folder)
    held_out = f", held-out loss {state['held_out']:.3f}" if "held_out" in state else ""
    hours = state["seconds"] / 3600
    print(f"{folder}: {state['step']} steps, {state['tokens']:,} tokens, {hours:.2f} hours{held_out}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "encoder", "lm", "export-encoder", "export-lm"])
    parser.add_argument("--config", type=Path, default=ROOT / "config/pretraining.yaml")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--out", type=Path, help="folder of an export")
    parser.add_argument("--replace", action="store_true", help="export over the shipped model and its checksums")
    arguments = parser.parse_args(argv)
    exporting = arguments.step.startswith("export-")
    if exporting and (arguments.out is None) != arguments.replace:
        parser.error("an export needs --out FOLDER, or else --replace to write over the shipped model")
    try:
        settings = load_settings(arguments.config, arguments.set, arguments.profile)
        torch.set_num_threads(settings["threads"])
        if exporting:
            kind = arguments.step.removeprefix("export-")
            name = "ko-mini-encoder" if kind == "encoder" else "ko-mini-mistral"
            export(settings, kind, arguments.out or SAMPLE / "models" / name)
        else:
            {"prepare": prepare, "encoder": pretrain_encoder, "lm": pretrain_lm}[arguments.step](settings)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
