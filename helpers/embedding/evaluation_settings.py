"""The knobs of lesson 05, and the models and test sets that they name."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from helpers.course.files import short_path
from helpers.course.paths import REPOSITORY
from helpers.course.settings import LessonSettings
from helpers.data.pairs import Pairs, read_sts
from helpers.data.retrieval import RetrievalSet, read_beir


class EvaluationSettings(LessonSettings):
    """Settings of config/evaluation.yaml."""

    default_config: ClassVar[str | None] = "config/evaluation.yaml"

    trained: list[Path] = Field([], description="models to compare with the base, where they are there")
    smallest_steps: int = Field(4, ge=1, description="steps of the model that is made where none of them is there")
    test_sets: list[str] = Field(min_length=1, description="BEIR folders below data_dir")
    split: str = Field("test", description="of test sets that have splits")
    max_queries: int | None = Field(None, ge=2, description="the first queries of each set; null: all")
    max_length: int | None = Field(None, ge=8, description="null: what each model was saved with")
    top: int = Field(100, ge=10, description="documents kept of a ranking")
    fusion_k: int = Field(60, ge=0)
    sts_file: str = Field("sts/sts.tsv", description="below data_dir")
    published: Path = Field(Path("sample_data/published/koe5.jsonl"), description="rows of others")
    mteb_tasks: list[str] = Field([], description="names of MTEB tasks")
    mteb_dir: Path = Field(Path("sample_data/mteb"), description="local copies of MTEB tasks, by name")
    run_hub_tasks: bool = Field(False, description="fetch the MTEB tasks that are not in mteb_dir")

    def data(self, name: str) -> Path:
        """A file or folder of ``data_dir``; where that lacks it and ``sample_data`` has it, the latter is taken, and said."""
        path, sample = self.data_dir / name, REPOSITORY / "sample_data" / name
        if not path.exists() and sample.exists():
            print(f"{short_path(path)} does not exist: {short_path(sample)} is taken")
            return sample
        return path

    def models_found(self) -> dict[str, Path]:
        """The trained models that are there, by the folder of the lesson that left them."""
        return {path.parent.name: path for path in map(_absolute, self.trained) if (path / "modules.json").is_file()}

    def retrieval_sets(self) -> dict[str, RetrievalSet]:
        """The test sets by folder name: the test split where a set has splits, its first ``max_queries`` queries."""
        sets = {}
        for name in self.test_sets:
            data = read_beir(self.data(name))
            data = data.of_split(self.split) if data.splits else data
            first = dict.fromkeys(list(data.qrels)[: self.max_queries])
            parts = (
                {key: part[key] for key in first if key in part} for part in (data.queries, data.qrels, data.splits)
            )
            sets[Path(name).name] = RetrievalSet(data.corpus, *parts)
        return sets

    def sts_pairs(self) -> Pairs:
        """The scored pairs: the rows of the split where the file has splits."""
        return read_sts(self.data(self.sts_file), self.split)


def _absolute(path: Path) -> Path:
    return REPOSITORY / path
