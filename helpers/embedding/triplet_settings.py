"""The knobs of lesson 04: losses on triplets, and the EmbeddingGemma recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AliasChoices, Field, field_validator

from helpers.embedding.data_settings import DataSettings

LossName = Literal["TripletLoss", "MultipleNegativesRankingLoss"]


class TripletSettings(DataSettings):
    """Settings of config/triplet.yaml; the ``recipe_`` ones are those of Google's guide, under the values it has there."""

    default_config: ClassVar[str | None] = "config/triplet.yaml"

    triplets_file: str = Field("e5/train.jsonl", description="query, document, hard_negative; below data_dir")
    max_triplets: int | None = Field(None, ge=20, description="rows used of the file; null: all")
    test_share: float = Field(0.15, gt=0, lt=1, description="share of the triplets kept back for the test")
    scored_file: str | None = Field(None, description="pairs with scores, trained beside the triplets; below data_dir")
    sts_file: str = Field("sts/sts.tsv", description="below data_dir")
    max_length: int = Field(64, ge=8, description="pieces kept of a text, prompt included")
    batch_size: int = Field(16, ge=2)
    max_steps: int = Field(12, ge=1, description="steps of each comparison")
    lr: float = Field(2e-4, gt=0, le=1, validation_alias=AliasChoices("lr", "learning_rate"))
    embedding_lr: float | None = Field(None, gt=0, le=1, description="rate of the word vectors; null: as lr")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    triplet_margin: float = Field(
        0.3, gt=0, le=2, description="cosine distance by which a negative must be further off"
    )
    loss_temperature: float = Field(0.05, gt=0, le=10, description="1 / scale of MultipleNegativesRankingLoss")
    matryoshka_dims: list[Annotated[int, Field(ge=1)]] = Field(
        [384, 192, 96, 48], min_length=1, description="widths that must work alone; put widest first"
    )
    loss_name: LossName = Field("MultipleNegativesRankingLoss", description="what the recipe trains with")
    query_prompt: str | None = Field(None, description="put before a query; null: what is saved with the model")
    document_prompt: str | None = Field(None, description="put before a document; null: what is saved with the model")
    savings_dir: Path = Field(Path("sample_data/savings"), description="train.jsonl and examples.jsonl")
    recipe_piece_weights: bool = Field(False, description="a weighted mean: what stands in every text counts less")
    recipe_batch_size: int = Field(1, ge=1)
    recipe_epochs: int = Field(5, ge=1)
    recipe_lr: float = Field(2e-5, gt=0, le=1)

    @field_validator("matryoshka_dims")
    @classmethod
    def _widest_first(cls, widths: list[int]) -> list[int]:
        if len(set(widths)) < len(widths):
            raise ValueError("a width stands there twice")
        return sorted(widths, reverse=True)
