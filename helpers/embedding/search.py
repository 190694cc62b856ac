"""Search hyper-parameters (the script we follow calls it train_mode False): short runs, no model saved."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd

from helpers.data.pairs import Pairs
from helpers.embedding.encoder import Encoder
from helpers.embedding.training import SimCSESettings, train


def search(
    new_encoder: Callable[[], Encoder], sets: list[Pairs], validation: Pairs, sts: Pairs, settings: SimCSESettings
) -> pd.DataFrame:
    """Optuna over lr, loss_temperature and batch_size: one row a trial, best first, column `spearman` on `sts`.

    `new_encoder()` must give a fresh encoder with the same weights each time. Every trial gets its own settings object, so
    that what was suggested is what runs; the suggested values stand in the table beside the score. Seeded.
    """
    rows = []

    def trial_score(trial: optuna.Trial) -> float:
        suggested = {
            "lr": trial.suggest_float("lr", 3e-5, 3e-3, log=True),
            "loss_temperature": trial.suggest_float("loss_temperature", 0.02, 0.3, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32, 64]),
        }
        with tempfile.TemporaryDirectory() as folder:
            own = settings.changed(output_dir=Path(folder), **suggested)
            history = train(new_encoder(), sets, validation, sts, own)
        used = {name: getattr(own, name) for name in suggested}
        rows.append({"trial": trial.number, **used, "spearman": history.best_spearman})
        return history.best_spearman

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=settings.seed))
    study.optimize(trial_score, n_trials=settings.trials)
    return pd.DataFrame(rows).sort_values("spearman", ascending=False, ignore_index=True)
