"""MTEB's evaluation on data that lies in local folders, and on its own tasks where the model hub can be reached."""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Sequence
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
from helpers.data.pairs import Pairs, read_sts
from helpers.data.retrieval import RetrievalSet, read_beir
from helpers.embedding.runs import judged_queries

HUB = "huggingface.co"
SPLIT = "test"


def retrieval_task(name: str, data: RetrievalSet) -> AbsTask:
    """A retrieval set as an MTEB task; its main score is NDCG@10."""
    queries = judged_queries(data)
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

    ``folder/<name>`` (a BEIR folder) and ``folder/<name>.tsv`` (scored pairs) come first: the same tasks from local data.
    The others are fetched from the hub, where ``hub`` allows it and it can be reached.
    """
    found, missing = [], []
    online = hub and hub_reachable()
    for name in names:
        if (Path(folder) / name).is_dir():
            data = read_beir(Path(folder) / name)
            found.append(retrieval_task(name, data.of_split(SPLIT) if SPLIT in data.splits.values() else data))
        elif (Path(folder) / f"{name}.tsv").is_file():
            found.append(sts_task(name, read_sts(Path(folder) / f"{name}.tsv", SPLIT)))
        elif online:
            found.append(mteb.get_task(name, languages=["kor"]))
        else:
            missing.append(name)
    return found, missing


def hub_reachable(seconds: float = 3.0) -> bool:
    """True where the hub answers at all and ``HF_HUB_OFFLINE`` does not forbid to ask."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    try:
        socket.create_connection((HUB, 443), timeout=seconds).close()
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
        [parts] = each.scores.values()
        scores[each.task_name] = {key: value for key, value in parts[0].items() if isinstance(value, float)}
    return scores


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
