"""The training loop of both models: Muon beside AdamW, warm-up, flat, decay, and checkpoints that a kill cannot hurt.

Muon: kellerjordan.github.io/posts/muon, with the step size of arXiv 2502.16982. Warm-up, flat, decay: arXiv 2404.06395.
"""

from __future__ import annotations

import json
import math
import os
import time

import torch


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


def train(model, batch_loss, settings: dict, kind: str) -> None:
    """Loop with checkpoints: `batch_loss(step, progress) -> (loss, positions, parts)` until `tokens` have passed."""
    knobs, run_dir = settings[kind], settings["run_dir"]
    checkpoint, log = run_dir / f"{kind}.pt", run_dir / f"{kind}.log.jsonl"
    steps = optimizers(model, knobs)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in steps]
    step, tokens, seconds = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=model.device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(steps, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        kept = [row for row in log.read_text().splitlines() if json.loads(row)["step"] <= step]
        log.write_text("".join(row + "\n" for row in kept))
    start, saved_at = time.monotonic() - seconds, time.monotonic()
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
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + positions
        seconds = time.monotonic() - start
        with open(log, "a") as file:
            row = {"step": step, "tokens": tokens, "seconds": round(seconds, 1)} | parts
            file.write(json.dumps(row) + "\n")
        if time.monotonic() - saved_at >= settings["checkpoint_seconds"] or tokens >= knobs["tokens"]:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in steps]}
            torch.save(state | {"step": step, "tokens": tokens, "seconds": seconds}, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
            saved_at = time.monotonic()
