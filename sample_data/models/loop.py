"""The training loop of both models: Muon beside AdamW, warm-up, flat, decay, and checkpoints that a kill cannot hurt.

Muon: kellerjordan.github.io/posts/muon, with the step size of arXiv 2502.16982. Warm-up, flat, decay: arXiv 2404.06395.
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path

import torch

from helpers.course.checksums import sha256
from helpers.course.errors import InputError
from helpers.course.files import short_path


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz steps, in float32 (torch's own runs in bfloat16,
    which a CPU without bfloat16 units takes seconds for). Matrices only; update scaled to AdamW's RMS of 0.2."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(buffer, group["momentum"])  # Nesterov
                tall = x.shape[0] > x.shape[1]
                x = (x.T if tall else x) / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x.T if tall else x, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))


def optimizers(model: torch.nn.Module, knobs: dict) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else, with a rate of its own for embeddings."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    tables = [p for name, p in model.named_parameters() if "embed" in name and p.ndim == 2]
    chosen = {id(p) for p in inner + tables}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": outer, "lr": knobs["lr_adam"]}, {"params": tables, "lr": knobs["lr_embeddings"]}]
    return [
        Muon(inner, lr=knobs["lr_muon"]),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def made_from(settings: dict, kind: str) -> dict[str, object]:
    """What a run's weights rest on: its settings less `tokens`, its precision, the hashes of its tokenizer and arrays."""
    knobs = {f"{kind}.{name}": value for name, value in settings[kind].items() if name != "tokens"}
    files = (f"{kind}.json", f"{kind}_ids.npy", f"{kind}_off.npy", "src.pkl")
    told = {name: settings[name] for name in ("seed", "dtype")}
    return told | knobs | {name: sha256(settings["run_dir"] / name) for name in files}


def load_checkpoint(settings: dict, kind: str, path: Path, device: str | torch.device = "cpu") -> dict:
    """A checkpoint of this very run. Raises InputError where it is another's, naming what differs."""
    state = torch.load(path, map_location=device, weights_only=True)
    before, now = state.get("made_from", {}), made_from(settings, kind)
    if other := [name for name in now if name not in before or before[name] != now[name]]:
        raise InputError(
            "this checkpoint was made with other settings or another `prepare`",
            file=short_path(path),
            place=", ".join(other),
            hint="give them as they were, name another run_dir, or delete the checkpoint to begin anew",
        )
    return state


def save_checkpoint(state: dict, path: Path) -> None:
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def train(model, batch_loss, held_out_loss, settings: dict, kind: str) -> None:
    """Loop with checkpoints until `tokens` have passed: the last one, and the one of the lowest held-out loss.

    `batch_loss(step, progress) -> (loss, positions, parts)`; `held_out_loss() -> nats`. Raises InputError where the
    checkpoint is of another run, and where a loss or gradient is not finite; the checkpoints stay as they are then.
    """
    knobs, run_dir = settings[kind], settings["run_dir"]
    last, best, log = run_dir / f"{kind}.pt", run_dir / f"{kind}.best.pt", run_dir / f"{kind}.log.jsonl"
    steps = optimizers(model, knobs)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in steps]
    step, tokens, seconds, lowest = 0, 0, 0.0, math.inf
    if last.exists():
        state = load_checkpoint(settings, kind, last, model.device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(steps, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        if best.exists():
            lowest = load_checkpoint(settings, kind, best)["held_out"]
    else:
        best.unlink(missing_ok=True)  # of a run that was begun anew
    rows = log.read_text().splitlines() if log.exists() else []
    log.write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] <= step))
    origin = made_from(settings, kind)
    start, saved_at, measured_at = time.monotonic() - seconds, time.monotonic(), time.monotonic()
    model.train()
    while tokens < knobs["tokens"] and step < settings.get("stop_after", math.inf):
        progress = tokens / knobs["tokens"]
        rate = min(1.0, (step + 1) / knobs["warmup_steps"], max(1 - progress, 1e-3) / knobs["decay_share"])
        for optimizer, rates in zip(steps, base, strict=True):
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * rate
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings["dtype"] == "bfloat16"):
            loss, positions, parts = batch_loss(step, progress)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise InputError(
                "training ran into numbers that are not finite",
                place=f"{kind}, step {step + 1}",
                given=f"loss {loss.item()}, norm of the gradient {norm.item()}",
                hint=f"lower {kind}.lr_muon, lr_adam or lr_embeddings, or raise warmup_steps, and begin anew",
            )
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + positions
        seconds = time.monotonic() - start
        row = {"step": step, "tokens": tokens, "seconds": round(seconds, 1)} | parts
        done = tokens >= knobs["tokens"]
        state = {"step": step, "tokens": tokens, "seconds": seconds, "made_from": origin, "model": model.state_dict()}
        if done or time.monotonic() - measured_at >= settings["held_out_seconds"]:
            with torch.no_grad():  # dropout is 0 in pretraining: train and eval mode are one
                held_out = float(held_out_loss())
            row["held_out"] = round(held_out, 4)
            if held_out < lowest:
                lowest = held_out
                save_checkpoint(state | {"held_out": held_out}, best)
            measured_at = time.monotonic()
        with open(log, "a") as file:
            file.write(json.dumps(row) + "\n")
        if done or time.monotonic() - saved_at >= settings["checkpoint_seconds"]:
            save_checkpoint(state | {"optimizers": [o.state_dict() for o in steps]}, last)
            saved_at = time.monotonic()
