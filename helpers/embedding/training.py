"""Train an encoder by contrast: SimCSE without labels (data_type 0) and with pairs (data_type 1)."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import AliasChoices, Field
from torch import Tensor

from helpers.course.errors import InputError
from helpers.course.files import atomic_write
from helpers.course.run_log import Logger, RunLog, run_log
from helpers.data.pairs import Pairs
from helpers.embedding.adapters import LoraWatch
from helpers.embedding.data_settings import DataSettings
from helpers.embedding.encoder import Encoder
from helpers.embedding.evaluation import check_scored, sts_spearman
from helpers.embedding.losses import cosent_loss, info_nce


class Diverged(InputError):
    """Training ran into numbers that are not finite: nothing that follows could be learned."""


class SimCSESettings(DataSettings):
    """The knobs of lesson 02, under the names of the script that it follows."""

    default_config: ClassVar[str | None] = "config/simcse.yaml"

    model: str = Field(validation_alias=AliasChoices("model", "model_name"), description="the encoder to start from")
    data_type: Literal[0, 1] = Field(0, description="0: sentences without labels; 1: pairs")
    fine_tune_model_yn: Literal[0, 1] = Field(0, description="1: go on from the adapter in adapter_dir")
    adapter_dir: Path | None = Field(None, description="the adapter to go on from")
    train_mode: bool = Field(True, description="False: search first, train with the best values found, save no model")
    test_set_shuffle: Literal[0, 1] = Field(0, description="1: shuffle the validation set before it is batched")
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    batch_size: int = Field(64, ge=2)
    lr: float = Field(3e-4, gt=0, le=1)
    loss_temperature: float = Field(0.05, gt=0, le=10)
    score_temperature: float = Field(0.2, gt=0, le=10, description="of the ranking loss for pairs with scores")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0)
    max_length: int = Field(48, ge=8, description="pieces kept of a sentence")
    pooling: Literal["mean", "cls"] | None = Field(
        None, description="null: what the model was saved with, else the mean"
    )
    piece_weights: bool = Field(False, description="pool by a weighted mean: rare pieces count more, and it is learned")
    use_lora: bool = True
    lora_r: int = Field(16, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    eval_every: int = Field(20, ge=1, description="steps between validations")
    validation_share: float = Field(0.05, gt=0, lt=0.5)
    sentences_file: str = Field("sentences/normal_sentences.txt", description="below data_dir")
    pairs_file: list[str] = Field(["sentences/strong_dataset.csv"], description="below data_dir; pairs or an STS file")
    sts_file: str = Field("sts/sts.tsv", description="below data_dir; chooses the best checkpoint, and tests")
    sts_test_file: str | None = Field(None, description="below data_dir; tests, and sts_file only chooses")
    logger: Logger = Field("tensorboard", description="where the curves go, in the folder of the run")
    max_sentences: int | None = Field(None, ge=10)
    trials: int = Field(6, ge=1, description="trials of a search")
    seeds: int = Field(3, ge=1, description="how many seeds the comparison over seeds runs")

    def encoder(self) -> Encoder:
        """The model to start from, without an adapter."""
        return Encoder.load(self.model, pooling=self.pooling, max_length=self.max_length)


@dataclass
class History:
    """What a run left: one row a step (`loss`) and one a validation (`step`, `validation_loss`, `spearman`)."""

    losses: list[float] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_spearman: float = -1.0


def pair_loss(encoder: Encoder, pairs: Pairs, temperature: float, score_temperature: float = 0.2) -> Tensor:
    """Loss of one batch of pairs in one pass through the encoder.

    Pairs with scores are ranked (CoSENT, at `score_temperature`): a low score says as much as a high one, and a hard
    negative is not looked at. All others are found among the batch (InfoNCE, at `temperature`). Two dropout views of one
    sentence are the pair (s, s). Candidates that are the same text as the positive, or as the anchor, are left out.
    """
    sides = [pairs.first, pairs.second]
    if pairs.negatives and pairs.scores is None:
        sides.append(pairs.negatives)
    vectors = encoder.embed(encoder.tokenize([text for side in sides for text in side]))  # (S * B, H)
    first, second, *negatives = vectors.split(len(pairs))
    if pairs.scores is not None:
        return cosent_loss(first, second, torch.tensor(pairs.scores, device=first.device), score_temperature)
    mask = _same_text(pairs).to(first.device)
    return info_nce(first, second, negatives[0] if negatives else None, temperature, mask=mask)


def _same_text(pairs: Pairs) -> Tensor:
    """(B, M) bool: candidates that would be false negatives because they equal the row's anchor or positive."""
    candidates = pairs.second + (pairs.negatives or [])
    mask = torch.tensor([[c in (a, b) for c in candidates] for a, b in zip(pairs.first, pairs.second, strict=True)])
    mask[torch.arange(len(pairs)), torch.arange(len(pairs))] = False
    return mask


@torch.no_grad()
def validation_loss(encoder: Encoder, pairs: Pairs, batch_size: int, temperature: float, seed: int) -> float:
    """Mean InfoNCE over held-out pairs, the first side without dropout, the second with it (fixed draws).

    Without dropout on one side an unlabelled pair is one vector twice: the loss would be low whatever was learned.
    """
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    total, count = 0.0, 0
    for start in range(0, len(pairs) - 1, batch_size):
        batch = pairs.take(range(start, min(start + batch_size, len(pairs))))
        encoder.eval()
        first = encoder.embed(encoder.tokenize(batch.first))
        encoder.train()
        second = encoder.embed(encoder.tokenize(batch.second))
        mask = _same_text(Pairs(batch.first, batch.second)).to(first.device)
        total += info_nce(first, second, None, temperature, mask=mask).item() * len(batch)
        count += len(batch)
    torch.set_rng_state(state)
    return total / count


def batches(sets: list[Pairs], size: int, seed: int, epoch: int) -> Iterator[Pairs]:
    """One epoch: every set shuffled as pairs and cut into batches, the batches of all sets in random order."""
    draw = torch.Generator().manual_seed(seed * 100_003 + epoch)
    cut = []
    for pairs in sets:
        order = torch.randperm(len(pairs), generator=draw).tolist()
        cut += [(pairs, order[i : i + size]) for i in range(0, len(order) - 1, size)]
    for number in torch.randperm(len(cut), generator=draw).tolist():
        pairs, rows = cut[number]
        yield pairs.take(rows)


def train(encoder: Encoder, sets: list[Pairs], validation: Pairs, sts: Pairs, settings: SimCSESettings) -> History:
    """Train in place; leave the encoder at its best Spearman on `sts`.

    `output_dir/checkpoint.pt` is written at every validation and removed at the end: a run that was killed goes on from
    it, one with other settings or data begins anew. Draws of step n depend on the seed and n alone, so a run that was
    killed ends at the weights of one that was not. Nothing else in `output_dir` is touched but the log of `logger`.
    Raises InputError where a set has fewer than two pairs or scores that are all the same, Diverged where the loss or the
    Spearman is no longer a finite number, LoraDidNotMove where an adapter does not learn.
    """
    if any(len(pairs) < 2 for pairs in sets) or len(validation) < 2:
        raise InputError("training needs at least two pairs in every set", given=f"{[len(pairs) for pairs in sets]}")
    for pairs in sets:
        if pairs.scores is not None:
            check_scored(pairs.first, pairs.second, pairs.scores)
    if settings.piece_weights:
        encoder.weigh_pieces(encoder.tokenize([text for pairs in sets for text in pairs.first + pairs.second]))
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    per_epoch = sum(-(-(len(pairs) - 1) // settings.batch_size) for pairs in sets)
    steps = min(settings.epochs * per_epoch, settings.max_steps or 10**9)
    folder = settings.output_dir
    checkpoint, history, done = folder / "checkpoint.pt", History(), 0
    best = {name: p.detach().clone() for name, p in trained.items()}  # a copy: parameters go on changing in place
    if settings.test_set_shuffle:
        order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(settings.seed))
        validation = validation.take(order.tolist())
    same_run = _same_run(sets, validation, sts, settings)
    if checkpoint.exists() and (state := torch.load(checkpoint, weights_only=True)).get("run") == same_run:
        _load(trained, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        history, done, best = History(**json.loads(state["history"])), state["step"], state["best"]
        print(f"a run that was stopped goes on after step {done} of {steps}")
    with run_log(settings.logger, folder, folder.name, dict(settings), anew=done == 0) as log:
        for step, batch in _numbered(sets, settings, steps):
            if step <= done:
                continue
            watch = LoraWatch(encoder.model) if settings.use_lora and step == 1 else None
            rise = step / max(1, settings.warmup * steps)
            rate = settings.lr * min(1.0, rise, (steps - step + 1) / max(1, (1 - settings.warmup) * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(settings.seed * 1_000_003 + step)
            encoder.train()
            loss = pair_loss(encoder, batch, settings.loss_temperature, settings.score_temperature)
            refuse_not_finite("loss", loss.item(), step, settings.lr)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            if watch:
                watch.check(encoder.model, rate)
            optimizer.zero_grad(set_to_none=True)
            history.losses.append(loss.item())
            log.log({"loss": loss.item(), "lr": rate}, step)
            if step % settings.eval_every == 0 or step == steps:
                _validate(encoder, validation, sts, settings, history, step, log)
                if history.best_step == step:
                    best = {name: p.detach().clone() for name, p in trained.items()}
                state = {"weights": dict(trained), "optimizer": optimizer.state_dict(), "best": best, "step": step}
                state["run"] = same_run
                with atomic_write(checkpoint, "wb") as file:
                    torch.save(state | {"history": json.dumps(vars(history))}, file)
    checkpoint.unlink(missing_ok=True)
    _load(trained, best)
    encoder.eval()
    return history


def _same_run(sets: list[Pairs], validation: Pairs, sts: Pairs, settings: SimCSESettings) -> str:
    """A hash of all that the weights of a run rest on: settings (but not where it writes) and texts."""
    told = {name: str(value) for name, value in settings if name not in ("output_dir", "config", "logger")}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for pairs in [*sets, validation, sts]:
        for texts in (pairs.first, pairs.second, pairs.negatives or [], map(str, pairs.scores or [])):
            digest.update("\n".join(texts).encode() + b"\0")
    return digest.hexdigest()


def _numbered(sets: list[Pairs], settings: SimCSESettings, steps: int) -> Iterator[tuple[int, Pairs]]:
    step = 0
    for epoch in range(settings.epochs):
        for batch in batches(sets, settings.batch_size, settings.seed, epoch):
            step += 1
            yield step, batch
            if step == steps:
                return


def _validate(
    encoder: Encoder,
    validation: Pairs,
    sts: Pairs,
    settings: SimCSESettings,
    history: History,
    step: int,
    log: RunLog,
) -> None:
    loss = validation_loss(encoder, validation, settings.batch_size, settings.loss_temperature, settings.seed)
    spearman = sts_spearman(encoder, sts.first, sts.second, sts.scores)
    refuse_not_finite("Spearman on the dev side", spearman, step, settings.lr)
    history.validations.append({"step": step, "validation_loss": loss, "spearman": spearman})
    log.log({"validation_loss": loss, "spearman": spearman}, step)
    if spearman > history.best_spearman:
        history.best_step, history.best_spearman = step, spearman


def refuse_not_finite(what: str, value: float, step: int, lr: float) -> None:
    """Raise :class:`Diverged` where a loss or a score is NaN or infinite."""
    if not math.isfinite(value):
        hint = f"the training has diverged: lower lr (it is {lr:g})"
        raise Diverged(f"the {what} is not a finite number", place=f"step {step}", given=value, hint=hint)


@torch.no_grad()
def _load(trained: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, parameter in trained.items():
        parameter.copy_(weights[name])


def views(sentences: list[str]) -> Pairs:
    """Every sentence with itself: dropout makes two views of it (unsupervised SimCSE)."""
    return Pairs(sentences, copy.copy(sentences))
