"""Train an encoder by contrast: SimCSE without labels (data_type 0) and with pairs (data_type 1)."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers.course.atomic import atomic_write
from helpers.course.checkpoints import finish, resumable, run_fingerprint, step_of, weights_digest
from helpers.course.errors import InputError
from helpers.course.run_log import RunLog, run_log
from helpers.course.training_faults import refuse_not_finite
from helpers.data.pairs import Pairs
from helpers.embedding.encoder import Encoder
from helpers.embedding.encoding.adapters import LoraWatch, refuse_frozen
from helpers.embedding.encoding.fast_dropout import use_fast_dropout
from helpers.embedding.evaluation import check_scored, sts_spearman
from helpers.embedding.losses import cosent_loss, info_nce
from helpers.embedding.schedule import rate_share
from helpers.embedding.simcse_settings import SimCSESettings

STATE_FILE, HISTORY_FILE = "state.pt", "history.json"
"""Of a checkpoint; the history is written last."""
NOT_IN_THE_WEIGHTS = {
    *("profile", "config", "smoke", "output_dir", "logger", "trials", "seeds"),
    *("data_dir", "sentences_file", "pairs_file", "sts_file", "sts_test_file", "max_sentences", "validation_share"),
}
"""Settings that do not change what is learned, or only by the texts: a run may go on under others."""


@dataclass
class History:
    """What a run left: one row a step (`loss`) and one a validation (`step`, `validation_loss`, `spearman`)."""

    losses: list[float] = field(default_factory=list)
    validations: list[dict[str, float]] = field(default_factory=list)
    best_step: int = 0
    best_spearman: float = -1.0


def pair_loss(
    encoder: Encoder,
    pairs: Pairs,
    temperature: float,
    score_temperature: float = 0.2,
    known: Mapping[str, frozenset[str]] | None = None,
) -> Tensor:
    """Loss of one batch of pairs in one pass through the encoder.

    Pairs with scores are ranked (CoSENT, at `score_temperature`): a low score says as much as a high one, and a hard
    negative is not looked at. All others are found among the batch (InfoNCE, at `temperature`). Two dropout views of one
    sentence are the pair (s, s). Candidates that are the same text as the anchor or as one of its positives are left out.

    known  all positives of each anchor (:func:`known_positives`); None: those of the batch
    """
    sides = [pairs.first, pairs.second]
    if pairs.negatives and pairs.scores is None:
        sides.append(pairs.negatives)
    vectors = encoder.embed(encoder.tokenize([text for side in sides for text in side]))  # (S * B, H)
    first, second, *negatives = vectors.split(len(pairs))
    if pairs.scores is not None:
        return cosent_loss(first, second, torch.tensor(pairs.scores, device=first.device), score_temperature)
    mask = _false_negatives(pairs, known_positives([pairs]) if known is None else known).to(first.device)
    return info_nce(first, second, negatives[0] if negatives else None, temperature, mask=mask)


def known_positives(sets: list[Pairs]) -> dict[str, frozenset[str]]:
    """All positives of each anchor in these sets; a pair with a score is none."""
    found: dict[str, set[str]] = {}
    for pairs in sets:
        for anchor, positive in zip(pairs.first, pairs.second, strict=True) if pairs.scores is None else ():
            found.setdefault(anchor, set()).add(positive)
    return {anchor: frozenset(positives) for anchor, positives in found.items()}


def _false_negatives(pairs: Pairs, known: Mapping[str, frozenset[str]]) -> Tensor:
    """(B, M) bool: candidates that equal the row's anchor or one of its positives."""
    candidates = pairs.second + (pairs.negatives or [])
    same = [{a, b, *known.get(a, ())} for a, b in zip(pairs.first, pairs.second, strict=True)]
    mask = torch.tensor([[candidate in texts for candidate in candidates] for texts in same])
    mask[torch.arange(len(pairs)), torch.arange(len(pairs))] = False
    return mask


@torch.no_grad()
def validation_loss(encoder: Encoder, pairs: Pairs, batch_size: int, temperature: float, seed: int) -> float:
    """Mean InfoNCE over held-out pairs, the first side without dropout, the second with it (fixed draws).

    Without dropout on one side an unlabelled pair is one vector twice: the loss would be low whatever was learned.
    """
    state, known = torch.get_rng_state(), known_positives([pairs])
    torch.manual_seed(seed)
    total, count = 0.0, 0
    for start in range(0, len(pairs) - 1, batch_size):
        batch = pairs.take(range(start, min(start + batch_size, len(pairs))))
        encoder.eval()
        first = encoder.embed(encoder.tokenize(batch.first))
        encoder.train()
        second = encoder.embed(encoder.tokenize(batch.second))
        mask = _false_negatives(Pairs(batch.first, batch.second), known).to(first.device)
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

    A checkpoint is written to `output_dir` at every validation and removed at the end: a run that was killed goes on from
    it, and one of a run with other settings, texts or start weights is moved aside. Draws of step n depend on the seed
    and n alone, so a run that was killed ends at the weights of one that was not. Nothing else in `output_dir` is touched
    but the log of `logger`.
    Raises InputError where a set has fewer than two pairs or scores that are all the same or all weights are frozen, Diverged
    where the loss or the Spearman is no longer a finite number, LoraDidNotMove where an adapter does not learn.
    """
    refuse_frozen(encoder)
    if any(len(pairs) < 2 for pairs in sets) or len(validation) < 2:
        raise InputError("training needs at least two pairs in every set", given=f"{[len(pairs) for pairs in sets]}")
    for pairs in sets:
        if pairs.scores is not None:
            check_scored(pairs.first, pairs.second, pairs.scores)
    if settings.piece_weights:
        encoder.weigh_pieces(encoder.tokenize([text for pairs in sets for text in pairs.first + pairs.second]))
    use_fast_dropout(encoder.model)
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    per_epoch = sum(-(-(len(pairs) - 1) // settings.batch_size) for pairs in sets)
    steps = min(settings.epochs * per_epoch, settings.max_steps or 10**9)
    folder = settings.output_dir
    history, done = History(), 0
    best = {name: p.detach().clone() for name, p in trained.items()}  # a copy: parameters go on changing in place
    if settings.test_set_shuffle:
        order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(settings.seed))
        validation = validation.take(order.tolist())
    known = known_positives(sets)
    told = {name: value for name, value in settings if name not in NOT_IN_THE_WEIGHTS}
    start = weights_digest(encoder.state_dict().items())
    fingerprint = run_fingerprint(told | {"start": start, "pooling": encoder.pooling}, [*sets, validation, sts])
    if checkpoint := resumable(folder, fingerprint, [HISTORY_FILE]):
        state = torch.load(checkpoint / STATE_FILE, map_location="cpu", weights_only=True)  # it may be a GPU's
        _load(trained, state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        history = History(**json.loads((checkpoint / HISTORY_FILE).read_text(encoding="utf-8")))
        done, best = step_of(checkpoint), state["best"]
        print(f"a run that was stopped goes on after step {done} of {steps}")
    with run_log(settings.logger, folder, folder.name, dict(settings), anew=done == 0) as log:
        for step, batch in _numbered(sets, settings, steps):
            if step <= done:
                continue
            watch = LoraWatch(encoder.model) if settings.use_lora and step == 1 else None
            rate = settings.lr * rate_share(step, steps, settings.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate
            torch.manual_seed(settings.seed * 1_000_003 + step)
            encoder.train()
            loss = pair_loss(encoder, batch, settings.loss_temperature, settings.score_temperature, known)
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
                before, checkpoint = checkpoint, folder / f"checkpoint-{step}"
                with atomic_write(checkpoint / STATE_FILE, "wb") as file:
                    torch.save({"weights": trained, "optimizer": optimizer.state_dict(), "best": best}, file)
                with atomic_write(checkpoint / HISTORY_FILE) as file:
                    json.dump(vars(history), file)
                if before:
                    shutil.rmtree(before)
    finish(folder, fingerprint, keep=False)
    _load(trained, best)
    encoder.eval()
    return history


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


@torch.no_grad()
def _load(trained: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, parameter in trained.items():
        parameter.copy_(weights[name])


def views(sentences: list[str]) -> Pairs:
    """Every sentence with itself: dropout makes two views of it (unsupervised SimCSE)."""
    return Pairs(sentences, copy.copy(sentences))
