"""Search hyper-parameters (the script we follow calls it train_mode False): short runs, no model saved."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable

import optuna
import pandas as pd

from helpers.course.errors import InputError
from helpers.course.files import write_table
from helpers.course.training_faults import Diverged
from helpers.data.pairs import Pairs
from helpers.embedding.encoder import Encoder
from helpers.embedding.simcse_settings import SimCSESettings
from helpers.embedding.training import train

SEARCHED = ("lr", "loss_temperature", "batch_size")
TABLE = "trials.csv"


def search(
    new_encoder: Callable[[], Encoder], sets: list[Pairs], validation: Pairs, sts: Pairs, settings: SimCSESettings
) -> pd.DataFrame:
    """Optuna over lr, loss_temperature and batch_size: one row a trial, best first, column `spearman` on `sts`.

    `new_encoder()` must give a fresh encoder with the same weights each time. Every trial gets its own settings object, so
    that what was suggested is what runs; the values that ran stand in the table beside the score. With `max_steps`, all
    trials read as many pairs as so many steps of `batch_size` do, and each is validated once, at its end. Seeded. The
    table is left in `output_dir/trials.csv`, written anew after every trial, and each trial is one run of
    `settings.logger`. A trial that diverged has no `spearman`.
    """
    rows: list[dict[str, float]] = []
    pairs = settings.max_steps and settings.max_steps * settings.batch_size

    def trial_score(trial: optuna.Trial) -> float:
        suggested = {
            "lr": trial.suggest_float("lr", 3e-5, 3e-3, log=True),
            "loss_temperature": trial.suggest_float("loss_temperature", 0.02, 0.3, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
        }
        folder = settings.output_dir / f"trial_{trial.number}"
        shutil.rmtree(folder, ignore_errors=True)
        if pairs:  # a larger batch must not win by having read more
            suggested["max_steps"] = suggested["eval_every"] = math.ceil(pairs / suggested["batch_size"])
        own = settings.changed(output_dir=folder, **suggested)
        try:
            history = train(new_encoder(), sets, validation, sts, own)
            steps, spearman = len(history.losses), history.best_spearman
        except Diverged:  # a rate too high for this model is an answer too
            steps, spearman = 0, math.nan
        used = {name: getattr(own, name) for name in SEARCHED}
        rows.append({"trial": trial.number, **used, "steps": steps, "spearman": spearman})
        write_table(settings.output_dir / TABLE, _ranked(rows))
        return spearman

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings.seed))
    study.optimize(trial_score, n_trials=settings.trials)
    return _ranked(rows)


def best_values(trials: pd.DataFrame) -> dict[str, float]:
    """The values of the best trial, to train with: `settings.changed(**best_values(trials))`.

    Raises InputError where every trial diverged.
    """
    if trials["spearman"].isna().all():
        raise InputError(
            f"all {len(trials)} trials diverged, so there is no best one",
            place="trials",
            given="lr " + ", ".join(f"{rate:.2g}" for rate in trials["lr"]),
            hint="rates this low fail where the model or its texts are at fault: train once with train_mode true",
        )
    best = trials.loc[trials["spearman"].idxmax(), list(SEARCHED)].to_dict()
    return {**best, "batch_size": int(best["batch_size"])}


def _ranked(rows: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows).sort_values("spearman", ascending=False, ignore_index=True)
