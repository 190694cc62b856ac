"""Settings of lesson 01."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from helpers.course.settings import LessonSettings, TextOrNone


class EmbeddingDataSettings(LessonSettings):
    """The common settings, which files the lesson reads, and how it makes triplets of a table.

    File names are taken from ``data_dir``; an absolute one stands for itself.
    """

    default_config: ClassVar[str | None] = "config/embedding_data.yaml"

    table_file: str = Field(description="the table that triplets are made of (csv, tsv, jsonl, parquet)")
    encoding: str | None = Field(None, description="of that table; null: it is found and said")
    desc_col: str = Field(description="column of the anchors")
    category_col: str = Field(description="column that hard negatives share with their anchor")
    positive_cols: list[str] = Field(min_length=1, description="columns of positives")
    domain_col: TextOrNone = Field(None, description="column of domains: a file for each")
    num_negatives: int = Field(5, ge=1, le=100, description="negatives for each anchor in the fused set")
    widen: Literal["none", "domain", "file"] = Field("none", description="from where a small category may draw")
    sentences_file: str = Field(description="normal set (txt, csv, jsonl, pkl; also .gz)")
    pairs_file: str = Field(description="strong set (csv, tsv, jsonl, pkl; also .gz)")
    beir_folder: str = Field(description="a BEIR folder")
    max_sentences: int = Field(20_000, ge=10, description="more are left out, drawn by the seed")
    near_threshold: float = Field(0.6, gt=0, le=1, description="Jaccard similarity from which two texts are one")
    dev_share: float = Field(0.1, gt=0, lt=1, description="share of the strong set that is held out")

    def data(self, name: str) -> Path:
        """A file of ``data_dir``."""
        return self.data_dir / name
