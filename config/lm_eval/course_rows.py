"""Rows of the four sets for lm-evaluation-harness: the course's readers and questions, nothing typed twice.

The harness imports this file by itself (``!function`` in the task files); the course must be installed (``make env``).
"""

import datasets

from helpers.course.paths import repository_path
from helpers.course.rejects import Rejects
from helpers.data.benchmarks import read_benchmark, stratified_sample
from helpers.instruct.prompting.conversations import clean
from helpers.instruct.prompts import SEED_TURN
from helpers.instruct.scoring.questions import task_named

REJECTED = repository_path("outputs/lm_eval")


def rows_of(name: str, data_dir: str = "sample_data/zero_shot", rows: int | None = None, seed: int = 13, **_: object):
    """{"test": rows with ``prompt`` (the seeds' template), ``words`` and ``answer``, the place of the true word}.

    Rows that cannot be used (the public NSMC file has empty reviews) are left out, as in lesson 10, and kept in outputs/.
    """
    task = task_named(name)
    rejects = Rejects(REJECTED / f"{name}.jsonl")
    table = stratified_sample(read_benchmark(name, repository_path(data_dir), rejects), rows, seed)
    rejects.save()
    prompts = [SEED_TURN.format(clean(task.question(row))) for row in table.to_dict("records")]
    answers = [task.classes.index(label) for label in table["label"]]
    words = [list(task.words.values())] * len(prompts)
    return {"test": datasets.Dataset.from_dict({"prompt": prompts, "words": words, "answer": answers})}


def kornli(**told):
    """Rows of KorNLI."""
    return rows_of("kornli", **told)


def question_pair(**told):
    """Rows of KorQuestionPair."""
    return rows_of("question_pair", **told)


def hate_speech(**told):
    """Rows of KoreaHateSpeech."""
    return rows_of("hate_speech", **told)


def nsmc(**told):
    """Rows of NSMC."""
    return rows_of("nsmc", **told)
