"""MTEB's evaluation on data that lies in local folders, and on its own tasks where the model hub can be reached."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks import AbsTask
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from sentence_transformers import SentenceTransformer

from helpers.course.errors import InputError
from helpers.course.files import read_table, short_path
from helpers.data.pairs import Pairs, read_sts
from helpers.data.retrieval import RetrievalSet, read_beir
from helpers.embedding.retrieval_metrics import KS
from helpers.embedding.scoring.runs import judged_queries, tell_unjudged

HUB = "huggingface.co"
SPLIT = "test"
SAME_SPLIT = {"dev": "validation", "validation": "dev"}
RANKED = ("ndcg", "mrr", "recall")
"""What MTEB and :mod:`helpers.embedding.retrieval_metrics` both know (MTEB gives no F1 of single queries)."""


def retrieval_task(name: str, data: RetrievalSet) -> AbsTask:
    """A retrieval set as an MTEB task; its main score is NDCG@10. Queries without a positive are left out, and named."""
    queries = judged_queries(data)
    tell_unjudged(name, data)
    split = {
        "corpus": Dataset.from_list([{"id": key, "title": d.title, "text": d.text} for key, d in data.corpus.items()]),
        "queries": Dataset.from_list([{"id": key, "text": text} for key, text in queries.items()]),
        "relevant_docs": {query: dict(data.qrels[query]) for query in queries},
        "top_ranked": None,
    }
    return _task(AbsTaskRetrieval, name, "Retrieval", "ndcg_at_10", {"default": {SPLIT: split}})


def sts_task(name: str, pairs: Pairs) -> AbsTask:
    """Scored pairs (0 to 5) as an MTEB task; its main score is Spearman's correlation of cosine and score."""
    if pairs.scores is None:
        raise InputError("an STS task needs pairs with scores", place=name)
    rows = {"sentence1": pairs.first, "sentence2": pairs.second, "score": pairs.scores}
    return _task(AbsTaskSTS, name, "STS", "cosine_spearman", {SPLIT: Dataset.from_dict(rows)}, min_score=0, max_score=5)


def find_tasks(names: Sequence[str], folder: str | Path, *, hub: bool = True) -> tuple[list[AbsTask], list[str]]:
    """MTEB's tasks of these names, and the names that are not to be had.

    ``folder/<name>`` (a BEIR folder) and ``folder/<name>.tsv`` (scored pairs) come first: the same tasks from local data,
    of which the split is taken that MTEB scores (``test`` for a name that MTEB does not know), or all where none is named.
    The others are fetched from the hub, where ``hub`` allows it and it can be reached: their first split, Korean with Korean.

    Raises InputError for a name of neither, and for local data whose splits do not include that one: training queries are
    no test.
    """
    found, missing = [], []
    online = hub and hub_reachable()
    tasks = mteb.get_tasks(languages=["kor"], task_types=["Retrieval", "STS"])
    known = {task.metadata.name: task.metadata.eval_splits[0] for task in tasks}
    for name in names:
        path, table = Path(folder) / name, Path(folder) / f"{name}.tsv"
        if path.is_dir():
            found.append(retrieval_task(name, _of_split(path, known.get(name, SPLIT))))
        elif table.is_file():
            found.append(sts_task(name, _pairs_of_split(table, known.get(name, SPLIT))))
        elif name not in known:
            near = get_close_matches(name, known, 1)
            raise InputError(
                "there are no local data of this name, and MTEB has no Korean retrieval or STS task that is called so",
                place="mteb_tasks",
                given=name,
                hint=f"did you mean {near[0]}?" if near else f"local data lie in {short_path(folder)}",
            )
        elif online:
            one = {"eval_splits": [known[name]], "exclusive_language_filter": True}
            found.append(mteb.get_task(name, languages=["kor"], **one))
        else:
            missing.append(name)
    return found, missing


def hub_reachable() -> bool:
    """True where the hub answers at all and ``HF_HUB_OFFLINE`` does not forbid to ask."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    try:
        socket.create_connection((HUB, 443), timeout=3).close()
    except OSError:
        return False
    return True


def mteb_scores(model: SentenceTransformer, tasks: Sequence[AbsTask]) -> dict[str, dict[str, float]]:
    """Run MTEB and return its scores by task: ``ndcg_at_10`` and so on, or ``cosine_spearman``. Nothing is cached."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # mteb calls sentence-transformers by names of an older version
        result = mteb.evaluate(model, list(tasks), cache=None, show_progress_bar=False)
    scores = {}
    for each in result.task_results:
        [[part]] = each.scores.values()  # one split of one language, as `find_tasks` asks for it
        scores[each.task_name] = {key: value for key, value in part.items() if isinstance(value, float)}
    return scores


def leaderboard_metrics(scores: Mapping[str, float]) -> dict[str, float]:
    """One task's scores under the leaderboard's names: ``ndcg@1``, ``ndcg@3`` and so on, or ``spearman``."""
    if "cosine_spearman" in scores:
        return {"spearman": scores["cosine_spearman"]}
    return {f"{metric}@{k}": scores[f"{metric}_at_{k}"] for k in KS for metric in RANKED}


def _of_split(folder: Path, wanted: str) -> RetrievalSet:
    """The queries of that split, and those that name none; the whole set where no query that is judged names one."""
    data = read_beir(folder)
    splits = {data.splits[query] for query in data.qrels if query in data.splits}
    if not splits:
        return data
    split = _one_of(splits, wanted, folder)
    return data.of_queries(key for key in data.queries if data.splits.get(key, split) == split)


def _pairs_of_split(path: Path, wanted: str) -> Pairs:
    """The pairs of that split; all where the file has no column of splits."""
    table = read_table(path, quoted=False)
    return read_sts(path, _one_of(set(table["split"]), wanted, path) if "split" in table else None)


def _one_of(splits: set[str], wanted: str, file: Path) -> str:
    """``wanted``, or its other name."""
    for split in (wanted, SAME_SPLIT.get(wanted)):
        if split in splits:
            return split
    raise InputError(
        "this task is scored on a split that these data do not have",
        file=short_path(file),
        given=", ".join(sorted(splits)),
        allowed=wanted,
        hint="leave training data out; data without any split are used whole",
    )


def _task(kind: type[AbsTask], name: str, type_: str, main: str, data: dict[str, Any], **more: Any) -> AbsTask:
    """An instance of a subclass of ``kind`` whose data are there from the start, so that nothing is downloaded."""

    def load_data(self: AbsTask, **_: Any) -> None:
        self.dataset, self.data_loaded = data, True

    metadata = TaskMetadata(
        name=name,
        description=f"{name} from a local folder",
        dataset={"path": f"local/{name}", "revision": "local"},
        type=type_,
        category="t2t",
        modalities=["text"],
        eval_splits=[SPLIT],
        eval_langs=["kor-Hang"],
        main_score=main,
    )
    return type(f"Local{type_}", (kind,), {"metadata": metadata, "load_data": load_data, **more})()
