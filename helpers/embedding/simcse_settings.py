"""The knobs of lesson 02."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from helpers.course.run_log import Logger
from helpers.embedding.data_settings import DataSettings
from helpers.embedding.encoder import Encoder


class SimCSESettings(DataSettings):
    """The knobs of lesson 02, under the names of the script that it follows."""

    default_config: ClassVar[str | None] = "config/simcse.yaml"

    model: str = Field(validation_alias=AliasChoices("model", "model_name"), description="the encoder to start from")
    data_type: Literal[0, 1] = Field(0, description="0: sentences without labels; 1: pairs")
    fine_tune_model_yn: Literal[0, 1] = Field(0, description="1: go on from the adapter in adapter_dir")
    adapter_dir: Path | None = Field(None, description="the adapter to go on from")
    train_mode: bool = Field(True, description="False: search first, train with the best values found, save no model")
    test_set_shuffle: Literal[0, 1] = Field(0, description="1: shuffle the validation set before it is batched")
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    batch_size: int = Field(64, ge=2)
    lr: float = Field(3e-4, gt=0, le=1)
    loss_temperature: float = Field(0.05, gt=0, le=10)
    score_temperature: float = Field(0.2, gt=0, le=10, description="of the ranking loss for pairs with scores")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0)
    max_length: int = Field(48, ge=8, description="pieces kept of a sentence")
    pooling: Literal["mean", "cls"] | None = Field(
        None, description="null: what the model was saved with, else the mean"
    )
    piece_weights: bool = Field(False, description="pool by a weighted mean: rare pieces count more, and it is learned")
    use_lora: bool = True
    lora_r: int = Field(16, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    eval_every: int = Field(20, ge=1, description="steps between validations")
    validation_share: float = Field(0.05, gt=0, lt=0.5)
    sentences_file: str = Field("sentences/normal_sentences.txt", description="below data_dir")
    pairs_file: list[str] = Field(["sentences/strong_dataset.csv"], description="below data_dir; pairs or an STS file")
    sts_file: str = Field("sts/sts.tsv", description="below data_dir; chooses the best checkpoint, and tests")
    sts_test_file: str | None = Field(None, description="below data_dir; tests, and sts_file only chooses")
    logger: Logger = Field("tensorboard", description="where the curves go, in the folder of the run")
    max_sentences: int | None = Field(None, ge=10)
    trials: int = Field(6, ge=1, description="trials of a search")
    trial_steps: int = Field(2, ge=1, description="steps of batch_size whose sentences a trial reads")
    seeds: int = Field(3, ge=2, description="how many seeds the comparison over seeds runs")

    def encoder(self) -> Encoder:
        """The model to start from, without an adapter."""
        return Encoder.load(self.model, pooling=self.pooling, max_length=self.max_length)
