"""The knobs of lesson 05, and the models and test sets that they name."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from helpers.course.errors import InputError
from helpers.course.files import repository_path, short_path
from helpers.data.pairs import Pairs, read_sts
from helpers.data.retrieval import RetrievalSet, read_beir
from helpers.embedding.data_settings import DataSettings
from helpers.embedding.scoring.runs import judged_queries, tell_unjudged


class EvaluationSettings(DataSettings):
    """Settings of config/evaluation.yaml."""

    default_config: ClassVar[str | None] = "config/evaluation.yaml"

    trained: list[Path] = Field([], description="models to compare with the base, where they are there")
    smallest_steps: int = Field(4, ge=1, description="steps of the model that is made where none of them is there")
    test_sets: list[str] = Field(min_length=1, description="BEIR folders below data_dir")
    split: str = Field("test", description="of test sets that have splits")
    max_queries: int | None = Field(None, ge=2, description="the first queries of each set; null: all")
    max_length: int | None = Field(None, ge=8, description="null: what each model was saved with")
    query_prompt: str | None = Field(None, description="the base's, put before a query; null: what is saved with it")
    document_prompt: str | None = Field(
        None, description="the base's, put before a document; null: what is saved with it"
    )
    top: int = Field(100, ge=10, description="documents kept of a ranking")
    fusion_k: int = Field(60, ge=0)
    sts_file: str = Field("sts/sts.tsv", description="below data_dir")
    published: Path = Field(Path("sample_data/published/koe5.jsonl"), description="rows of others")
    mteb_tasks: list[str] = Field([], description="names of MTEB tasks")
    mteb_dir: Path = Field(Path("sample_data/mteb"), description="local copies of MTEB tasks, by name")
    run_hub_tasks: bool = Field(False, description="fetch the MTEB tasks that are not in mteb_dir")

    def models_found(self) -> dict[str, Path]:
        """The trained models that are there, by the folder of the lesson that left them; those that are not there are named.

        Raises InputError where two of them have one name, or one that the lesson gives away itself.
        """
        found = []
        for path in map(repository_path, self.trained):
            if (path / "modules.json").is_file():
                found.append(path)
            else:
                print(f"there is no model in {short_path(path)}, so none is evaluated")
        _refuse_equal(["base", "BM25", *map(model_name, found)], "trained")
        return {model_name(path): path for path in found}

    def base_prompts(self) -> dict[str, str]:
        """The prompts that are given for the base, by the names under which a model keeps its own."""
        given = {"query": self.query_prompt, "document": self.document_prompt}
        return {name: text for name, text in given.items() if text is not None}

    def retrieval_sets(self) -> dict[str, RetrievalSet]:
        """The test sets by folder name: the test split where a set has splits, its first ``max_queries`` queries.

        Queries without a relevant document are left out, and named.
        Raises InputError where two folders have one name.
        """
        _refuse_equal([Path(name).name for name in self.test_sets], "test_sets")
        sets = {}
        for name in self.test_sets:
            data = read_beir(self.data(name))
            data = data.of_split(self.split) if data.splits else data
            tell_unjudged(Path(name).name, data)
            sets[Path(name).name] = data.of_queries(list(judged_queries(data))[: self.max_queries])
        return sets

    def sts_pairs(self) -> Pairs:
        """The scored pairs: the rows of the split where the file has splits."""
        return read_sts(self.data(self.sts_file), self.split)


def model_name(model: str | Path) -> str:
    """A model's name in the leaderboard: its folder's, or that of the folder above where it is called ``model``."""
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _refuse_equal(names: list[str], place: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            "two models or sets of one name would overwrite one another", place=place, given=", ".join(twice)
        )
