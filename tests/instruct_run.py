"""Small tuning runs in processes of their own, some of which are killed: ``python -m tests.instruct_run FOLDER[@KILL] ...``.

Without arguments: one run that is left alone and one that is killed three times with SIGKILL, and the checksums of the
two adapters, which are one and the same on a CPU. (Half a minute of CPU time.)

KILL is ``step:3`` (SIGKILL when step 3 is done) or ``save:4`` (while checkpoint 4 is half written), or
``labels``: no run of ours, but what the trainer learns and does. The libraries are imported
once, then every run is a fork, one after the other. Prints one line of JSON a run: exit status, and what its history says.
"""

import hashlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from helpers.course.machine import set_seed
from helpers.course.training_faults import Diverged
from helpers.instruct.product_rows import product_rows
from helpers.instruct.rows import split_by_text, to_examples
from helpers.instruct.sft.settings import InstructionSettings
from helpers.instruct.tuning import load_for_tuning, tune
from helpers.instruct.unsloth_first import fast_language_model

ADAPTER = "adapter/adapter_model.safetensors"
KILLED_AT = ("step:3", "save:4", "step:6")
"""Between two checkpoints (there is one every second step), while one is half written, and after the last step."""


def main(runs: list[str]) -> None:
    """Each run after the other; see above."""
    fast_language_model()
    import helpers.instruct.sft.trainer

    assert helpers.instruct.sft.trainer
    for run in runs:
        folder, _, kill_at = run.partition("@")
        child = os.fork()
        if not child:
            labels_kept(folder) if kill_at == "labels" else one_run(folder, kill_at)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        said = Path(folder, "said.json")
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)} | _taken(said)), flush=True)


def show() -> None:
    """Kill three times, go on, and compare the two adapters byte by byte."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "left_alone"), Path(folder, "killed")
        main([str(whole), *(f"{killed}@{kill_at}" for kill_at in KILLED_AT), str(killed)])
        sums = [hashlib.sha256((each / ADAPTER).read_bytes()).hexdigest() for each in (whole, killed)]
    for name, checksum in zip(("left alone", "killed three times"), sums, strict=True):
        print(f"{checksum}  {name}")
    sys.exit(sums[0] != sums[1])


def _taken(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    said = json.loads(path.read_text())
    path.unlink()
    return said


def one_run(folder: str, kill_at: str) -> None:
    settings = InstructionSettings.load(
        output_dir=folder, smoke=False, max_steps=6, eval_steps=2, save_steps=2, logging_steps=1, lora_r=4,
        train_batch_size=2, eval_batch_size=2, gradient_accumulation_steps=2, lora_dropout=0.1, warmup_steps=2,
    )  # fmt: skip
    model, prompt = load_for_tuning(settings)
    train, aside = split_by_text(product_rows(40), 0.1, 4, 13)
    examples, held_out = (to_examples(rows, prompt, 256)[1] for rows in (train, aside))
    set_seed(len(kill_at))  # what the process drew before must not matter
    history = tune(model, prompt, examples, held_out, settings, [killer(kill_at)] if kill_at else [])
    model.save_pretrained(str(Path(folder) / "adapter"), save_embedding_layers=False)
    said = {"resumed_from": history.resumed_from, "steps": history.steps}
    Path(folder, "said.json").write_text(json.dumps(said))


def labels_kept(folder: str) -> None:
    """What the trainer really learns and does: rows as given, rows packed; and its runs, one beside the other."""
    from helpers.instruct.sft.trainer import make_trainer, same_labels

    told = {"evaluation_strategy": "no", "load_best_model_at_end": False, "smoke": False, "output_dir": folder}
    settings = InstructionSettings.load(max_steps=2, logging_steps=1, warmup_steps=0, lora_r=4, **told)
    said = {}
    rows, _ = split_by_text(product_rows(24), 0.1, 4, 13)
    for name, changes in {
        "packed": {"packing": True, "train_batch_size": 2},
        "4 x 1": {"train_batch_size": 4, "gradient_accumulation_steps": 1},
        "2 x 2": {"train_batch_size": 2, "gradient_accumulation_steps": 2},
        "checkpointed": {"train_batch_size": 4, "use_gradient_checkpointing": "unsloth"},
    }.items():
        own = settings.changed(**changes)
        model, prompt = load_for_tuning(own)
        examples = to_examples(rows, prompt, 256)[1]
        trainer = make_trainer(model, prompt, examples, examples[:2], own, shown=False)
        same_labels(trainer.train_dataset, examples)
        if name == "packed":
            said["packed rows"] = len(trainer.train_dataset)
            continue
        said["sampler"] = type(trainer._get_train_sampler()).__name__
        batch = next(iter(trainer.get_train_dataloader()))
        found = {
            tuple(row[mask.bool()].tolist()) for row, mask in zip(batch["labels"], batch["attention_mask"], strict=True)
        }
        said["as given"] = found <= {tuple(one.labels) for one in examples}
        forwards, layer = [], next(part for name, part in model.named_modules() if name.endswith(".layers.0"))
        layer.register_forward_pre_hook(lambda layer, _, seen=forwards: seen.append(layer.training))
        trainer.train()
        said[name] = {
            "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row],
            "forwards": sum(forwards),
        }
    wild = settings.model_copy(update={"learning_rate": 1e30, "output_dir": Path(folder, "wild")})  # no file may say it
    model, prompt = load_for_tuning(wild)
    try:
        tune(model, prompt, *(to_examples(rows[part], prompt, 256)[1] for part in (slice(2, None), slice(2))), wild)
    except Diverged as error:
        said["diverged"] = str(error)
    Path(folder, "said.json").write_text(json.dumps(said | {"rows": len(rows)}))


def killer(kill_at: str):
    """A callback that ends this process as a power cut would."""
    from transformers import Trainer, TrainerCallback

    kind, _, number = kill_at.partition(":")
    step = int(number)
    if kind == "save":
        finish = Trainer._save_rng_state

        def cut(trainer, folder):
            if trainer.state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            finish(trainer, folder)

        Trainer._save_rng_state = cut

    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            if kind == "step" and state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    return Kill()


if __name__ == "__main__":
    main(sys.argv[1:]) if sys.argv[1:] else show()
