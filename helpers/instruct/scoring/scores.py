"""Scores that count everything: an output that is no label is wrong, and how many there were stands beside the score."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix, f1_score

NO_LABEL = "[no label]"
"""What stands in place of a class where the output was none."""


@dataclass(frozen=True)
class Scores:
    """What one way of asking scored on one set.

    ``coverage``: share of outputs that were a label. ``accuracy``, ``macro_f1``, ``weighted_f1`` count all rows;
    ``low`` and ``high`` bound macro F1 (95 %, bootstrap over rows). ``macro_f1_dropped`` is macro F1 by the seeds' rule, rows
    without a label dropped (None where none is left). ``majority_*``: the class that is most frequent, always;
    ``chance_f1``: macro F1 of labels drawn by lot (:func:`chance_f1`). Both are bars, and unless one class has most of the
    rows the second is the higher: who always says one class has F1 0 of all others.
    """

    rows: int
    coverage: float
    accuracy: float
    macro_f1: float
    low: float
    high: float
    weighted_f1: float
    macro_f1_dropped: float | None
    majority_accuracy: float
    majority_f1: float
    chance_f1: float


def score(
    gold: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str], *, draws: int = 1000, seed: int = 13
) -> Scores:
    """Scores of predictions, None being an output that is no label. Metrics by scikit-learn."""
    told = _told(predicted)
    kept = [(a, b) for a, b in zip(gold, predicted, strict=True) if b is not None]
    low, high = interval(gold, predicted, classes, draws=draws, seed=seed)
    most = max(classes, key=list(gold).count)
    return Scores(
        rows=len(gold),
        coverage=len(kept) / len(gold),
        accuracy=float(accuracy_score(gold, told)),
        macro_f1=_f1(gold, told, classes),
        low=low,
        high=high,
        weighted_f1=_f1(gold, told, classes, "weighted"),
        macro_f1_dropped=_f1(*zip(*kept, strict=True), classes) if kept else None,
        majority_accuracy=float(accuracy_score(gold, [most] * len(gold))),
        majority_f1=_f1(gold, [most] * len(gold), classes),
        chance_f1=chance_f1(gold, classes),
    )


def chance_f1(gold: Sequence[str], classes: Sequence[str]) -> float:
    """Macro F1 of labels drawn uniformly, in closed form: F1 of the expected counts, not the expectation of F1.

    Of N rows N / L get each label, and so do 1 / L of a class's n rows: F1 = 2 (n / L) / (n + N / L). The two differ by
    less than 0.01 from a hundred rows on.
    """
    each = len(gold) / len(classes)
    return float(np.mean([2 * (n / len(classes)) / (n + each) for n in map(list(gold).count, classes)]))


def interval(
    gold: Sequence[str],
    predicted: Sequence[str | None],
    classes: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 13,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of macro F1 over rows, by :func:`macro_f1_of`.

    Rows that are drawn with replacement enter F1 only through the confusion matrix, and its cells are then multinomial: so
    the matrices are drawn, all at once, instead of the rows.
    """
    table = confusion(gold, predicted, classes).to_numpy()  # (L, L + 1)
    draw = np.random.default_rng(seed).multinomial(len(gold), table.ravel() / len(gold), size=draws)
    f1 = macro_f1_of(draw.reshape(draws, *table.shape))
    low, high = np.quantile(f1, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def macro_f1_of(tables: np.ndarray) -> np.ndarray:
    """Macro F1 of confusion matrices (..., L, L + 1): rows gold, columns predicted, the last column "no label".

    A class that is neither true nor answered anywhere in a matrix has no F1 and is left out of its mean.
    """
    size = tables.shape[-2]
    right = np.diagonal(tables[..., :size], axis1=-2, axis2=-1)  # (..., L)
    both = tables.sum(-1) + tables[..., :size].sum(-2)  # 2 TP + FN + FP
    return (2 * right / np.maximum(both, 1)).sum(-1) / (both > 0).sum(-1)


def confusion(gold: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str]) -> pd.DataFrame:
    """Rows: what is true; columns: what was answered, the last one "no label"."""
    names = [*classes, NO_LABEL]
    table = confusion_matrix(gold, _told(predicted), labels=names)[: len(classes)]
    return pd.DataFrame(table, index=list(classes), columns=names)


def per_class(gold: Sequence[str], predicted: Sequence[str | None], classes: Sequence[str]) -> pd.DataFrame:
    """Precision, recall, F1 and number of rows of every class; outputs without a label count against recall."""
    report = classification_report(gold, _told(predicted), labels=list(classes), output_dict=True, zero_division=0)
    return pd.DataFrame({name: report[name] for name in classes}).T.rename(columns={"support": "rows"})


def _told(predicted: Sequence[str | None]) -> list[str]:
    return [NO_LABEL if label is None else label for label in predicted]


def _f1(gold: Sequence[str], told: Sequence[str], classes: Sequence[str], average: str = "macro") -> float:
    """As :func:`macro_f1_of`: a class that is neither true nor answered anywhere has no F1 (nan: left out of the mean)."""
    return float(f1_score(gold, told, labels=list(classes), average=average, zero_division=np.nan))
