"""Zero-shot evaluation: every way of asking on one set, each a row that says all it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import pandas as pd
from pydantic import Field, model_validator

from helpers.course.errors import InputError
from helpers.course.files import read_table, write_jsonl
from helpers.course.rejects import Rejects
from helpers.course.settings import LessonSettings
from helpers.data.benchmark_hub import read_hub
from helpers.data.benchmarks import read_benchmark, stratified_sample
from helpers.instruct.scoring.answers import Reading, read_answers
from helpers.instruct.scoring.backends import Backend
from helpers.instruct.scoring.decisions import RULES, decide
from helpers.instruct.scoring.questions import CONTENT_FREE, ZeroShotTask
from helpers.instruct.scoring.scores import score
from helpers.instruct.vllm_engine.settings import Context, MemoryShare

WAYS = ("free", "choice", *RULES)
"""Free generation, constrained choice, and label likelihood under each of its rules."""
LIKELIHOOD = frozenset(RULES)


class ZeroShotSettings(LessonSettings):
    """The common settings and what the evaluation needs."""

    default_config: ClassVar[str | None] = "config/zero_shot.yaml"

    data_dir: Path | Literal["hub"] = Field(description="the folder of the four original files, or hub: the model hub")
    tasks: list[Literal["kornli", "question_pair", "hate_speech", "nsmc"]] = Field(
        min_length=1, description="which sets"
    )
    rows: int | None = Field(None, ge=6, description="rows of each set, drawn with its class shares; null: all")
    adapter: Path | None = Field(None, description="the tuned model's adapter; null: lesson 07's, or one made now")
    chooser: Path | None = Field(
        None, description="a third model's adapter, taught to answer with a word of the question"
    )
    backend: Literal["transformers", "vllm"] = Field(description="who answers")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(description="of the weights")
    load_in_4bit: bool = Field(False, description="weights in 4 bits (transformers only): less memory, slower")
    template: Literal["seed", "chat"] = Field(description="prompt template of the base model")
    batch_size: int = Field(ge=1, description="rows that generate together")
    batch_tokens: int = Field(ge=16, description="tokens that label likelihood holds together; with vLLM of one step")
    context: Context
    memory_share: MemoryShare
    max_new_tokens: int = Field(ge=1, le=1024, description="the longest free answer")
    reading: Reading = Field(description="how a free answer becomes a label")
    draws: int = Field(ge=100, description="draws of the bootstrap")

    @model_validator(mode="after")
    def _four_bits(self) -> Self:
        if self.load_in_4bit and self.backend == "vllm":
            raise ValueError("load_in_4bit goes with backend transformers: vLLM would hold the weights in 16 bits")
        return self


@dataclass(frozen=True)
class Result:
    """One way of asking on one set: the row that is kept, the predictions, and the raw answers where there were any.

    ``gold`` and ``lines``: what is true, and where each row stands in its file.
    """

    row: dict[str, Any]
    predicted: list[str | None]
    gold: list[str]
    lines: list[int]
    answers: list[str] | None = None

    def predictions(self) -> list[dict[str, Any]]:
        """One object a row of the set; ``text`` is what the model wrote, None where it wrote nothing."""
        told = {key: self.row[key] for key in ("which", "model", "task", "way", "phrasing") if key in self.row}
        texts = self.answers or [None] * len(self.gold)
        return [
            told | {"line": line, "text": text, "label": label, "gold": gold}
            for line, text, label, gold in zip(self.lines, texts, self.predicted, self.gold, strict=True)
        ]


def read_tables(settings: ZeroShotSettings, rejects: Rejects) -> dict[str, pd.DataFrame]:
    """The rows that are asked, by set: from the files in ``data_dir`` or from the hub, drawn with their class shares."""

    def read(name: str) -> pd.DataFrame:
        if settings.data_dir == "hub":
            return read_hub(name, rejects)
        return read_benchmark(name, settings.data_dir, rejects)

    return {name: stratified_sample(read(name), settings.rows, settings.seed) for name in settings.tasks}


def evaluate(
    backend: Backend,
    task: ZeroShotTask,
    table: pd.DataFrame,
    settings: ZeroShotSettings,
    *,
    ways: Sequence[str] = WAYS,
    phrasing: str | None = None,
    **facts: Any,
) -> dict[str, Result]:
    """Ask a model all rows of one set in each way; likelihoods are computed once for all of their rules.

    ``table`` comes from ``helpers.data.benchmarks``. ``facts`` (such as ``which="tuned"``) are kept in every row beside model,
    backend, dtype, batch, prompt and seed. Raises :class:`InputError` for an empty table, and before anything is asked where
    a row leaves the model no room to answer, with the line of its file.
    """
    if table.empty:
        raise InputError("there is no row to ask about", place=task.name)
    prompts = task.prompts(backend.prompt, table, phrasing)
    _need_room(backend, task, table, prompts, settings.max_new_tokens if "free" in ways else 0)
    predicted = {way: answer for way, answer in _answers(backend, task, prompts, settings, ways, phrasing)}
    gold, rows = list(table["label"]), {}
    for way, (labels, answers) in predicted.items():
        scores = score(gold, labels, task.classes, draws=settings.draws, seed=settings.seed)
        row = facts | {"task": task.name, "way": way, "phrasing": phrasing or next(iter(task.phrasings))}
        row |= {"question": task.phrasings[row["phrasing"]], "labels": ", ".join(task.words.values())}
        row |= asdict(scores) | dict(backend.facts) | {"seed": settings.seed}
        row |= {"max_new_tokens": settings.max_new_tokens, "reading": settings.reading} if way == "free" else {}
        rows[way] = Result(row, labels, gold, list(table["line"]), answers)
    return rows


def _need_room(
    backend: Backend, task: ZeroShotTask, table: pd.DataFrame, prompts: list[list[int]], answer: int
) -> None:
    longest = max(range(len(prompts)), key=lambda row: len(prompts[row]))
    tokens = len(prompts[longest]) + max(answer, *map(len, task.label_ids(backend.prompt)))
    if backend.room is not None and tokens > backend.room:
        raise InputError(
            "a row is longer than the model can read at once",
            place=f"{task.name}, line {table['line'].iloc[longest]} of its file",
            given=f"{tokens:,} tokens with its answer",
            allowed=f"at most {backend.room:,}",
            hint="shorten the text or take the row out; cutting it unasked would change what is measured",
        )


def _answers(
    backend: Backend,
    task: ZeroShotTask,
    prompts: list[list[int]],
    settings: ZeroShotSettings,
    ways: Sequence[str],
    phrasing: str | None,
) -> Iterable[tuple[str, tuple[list[str | None], list[str] | None]]]:
    labels, words = task.label_ids(backend.prompt), list(task.words.values())
    if "free" in ways:
        texts = backend.free(prompts, settings.max_new_tokens)
        yield "free", (read_answers(texts, task.words, settings.reading), texts)
    if "choice" in ways:
        yield "choice", ([task.classes[place] for place in backend.choose(prompts, words, labels)], None)
    rules = [way for way in ways if way in LIKELIHOOD]
    if not rules:
        return
    likelihoods = backend.likelihoods(prompts, labels)
    for rule in rules:
        given: dict[str, Any] = {}
        if rule == "calibrated":
            questions = [task.content_free(text, phrasing) for text in CONTENT_FREE]
            empty = [backend.prompt.prompt_ids(question) for question in questions]
            given = {"free": backend.likelihoods(empty, labels)}
        elif rule in ("token", "character"):
            given = {"lengths": list(map(len, labels if rule == "token" else words))}
        places = decide(likelihoods, rule, **given).tolist()
        yield rule, ([task.classes[place] for place in places], None)


def result_table(results: Iterable[Result]) -> pd.DataFrame:
    """The rows of several results as a table."""
    return pd.DataFrame([result.row for result in results])


def save_results(results: Iterable[Result], path: Path) -> Path:
    """One JSON object a result, with everything that it rests on; every answer of it in ``predictions.jsonl`` beside it."""
    results = list(results)
    write_jsonl(path.with_name("predictions.jsonl"), (each for result in results for each in result.predictions()))
    return write_jsonl(path, [result.row for result in results])


def published_table(path: Path) -> pd.DataFrame:
    """Figures that others published, under their own rule; never ours."""
    return read_table(path).astype({"f1": float})
