"""The knobs of lesson 03, and the training set that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import AliasChoices, Field, model_validator

from helpers.course.errors import InputError
from helpers.course.machine import detect_machine
from helpers.course.paths import repository_path, short_path
from helpers.course.settings import LessonSettings, TextOrNone
from helpers.data.e5_rows import e5_from_beir
from helpers.data.retrieval import RetrievalSet, read_beir, read_e5
from helpers.embedding.contrastive import ContrastiveRows
from helpers.embedding.encoder import Encoder
from helpers.embedding.scoring.runs import judged_queries, tell_unjudged


class InfoNCESettings(LessonSettings):
    """Lesson 03: InfoNCE with e5's prefixes, and the gradient cache."""

    default_config: ClassVar[str | None] = "config/infonce.yaml"

    train_set: str = Field("retrieval/hansol", description="BEIR folder to train on, below data_dir")
    test_set: str = Field("retrieval/hansol", description="BEIR folder to test on, below data_dir")
    test_split: TextOrNone = Field("test", description="null: the test set has no splits")
    e5_files: list[str] = Field(["sample_data/e5/train.jsonl"], description="more rows; from the repository's root")
    max_rows: int | None = Field(None, ge=4, description="training rows, drawn by seed; null: all")
    max_queries: int | None = Field(None, ge=2, description="test queries; null: all")
    query_prompt: str = Field("query: ", description="put before every query, saved with the model")
    document_prompt: str = Field("passage: ", description="put before every document, saved with the model")
    max_length: int = Field(64, ge=8, description="pieces kept of a text, prompt included")
    piece_weights: bool = Field(False, description="pool by a weighted mean: rare pieces count more, and it is learned")
    batch_size: int = Field(256, ge=2, description="rows that one loss sees")
    group_size: int = Field(8, ge=1, description="rows of one group side by side in a batch, where groups are given")
    accumulation: int = Field(1, ge=1, description="batches whose gradients are added before a step")
    grad_cache: bool = Field(True, description="encode in chunks; false: the whole batch in one graph")
    chunk_tokens: int = Field(2048, ge=8, description="tokens of a chunk, padding included: the memory of a step")
    keep_mb: float = Field(0, ge=0, description="memory for graphs that are kept instead of computed twice")
    hard_negatives: int = Field(1, ge=0, description="hard negatives a query")
    negatives_from: Literal["data", "mined"] = Field("data", description="where the command's hard negatives come from")
    both_directions: bool = Field(False, description="documents look for their queries as well")
    loss_temperature: float = Field(0.05, gt=0, le=10, validation_alias=AliasChoices("loss_temperature", "temperature"))
    epochs: int = Field(2, ge=1)
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    lr: float = Field(5e-4, gt=0, le=1, validation_alias=AliasChoices("lr", "learning_rate"))
    embedding_lr: float | None = Field(None, gt=0, le=1, description="rate of the word vectors; null: as lr")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0)
    use_lora: bool = Field(False, description="train a LoRA adapter instead of all weights")
    lora_r: int = Field(16, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    autocast: Literal["auto", "no", "bf16", "fp16"] = Field("auto", description="the encoder's precision in training")
    compare_batches: bool = Field(
        True, description="of the lesson: a small batch, an accumulated one and no prefixes beside the cached one"
    )
    true_batch: bool = Field(True, description="of the lesson: the whole batch in one graph beside the cached one")
    mine_top: int = Field(30, ge=1, description="nearest documents that are looked at")
    mine_skip: int = Field(0, ge=0, description="nearest documents that are passed over")
    mine_margin: float = Field(0.95, gt=0, description="a negative scores below this share of the positive's score")
    mine_lowest: float = Field(-1.0, ge=-1, le=1, description="a negative has at least this cosine with its query")
    mine_highest: float = Field(1.0, ge=-1, le=1, description="and at most this one")
    mine_search: Literal["faiss", "matmul"] = Field(
        "faiss", description="matmul: by torch, on a GPU where there is one"
    )

    @model_validator(mode="after")
    def _something_to_mine(self) -> Self:
        if self.mine_skip >= self.mine_top:
            raise ValueError(f"mine_skip must be less than mine_top, {self.mine_top}; it is {self.mine_skip}")
        if self.mine_lowest >= self.mine_highest:
            raise ValueError(
                f"mine_lowest must be less than mine_highest, {self.mine_highest:g}; it is {self.mine_lowest:g}"
            )
        return self

    def encoder(self) -> Encoder:
        """The model to start from, with the two prefixes set, and an adapter where `use_lora` says so."""
        prompts = {"query": self.query_prompt, "document": self.document_prompt}
        encoder = Encoder.load(self.model, max_length=self.max_length, prompts=prompts)
        if self.use_lora:
            encoder.add_lora(r=self.lora_r, alpha=self.lora_alpha, dropout=self.lora_dropout)
        return encoder

    def rates(self, share: float) -> dict[str, float | None]:
        """Both learning rates times `share`, to pass to `changed`: a batch of another size wants other rates."""
        return {"lr": self.lr * share, "embedding_lr": self.embedding_lr and self.embedding_lr * share}

    def mining(self) -> dict[str, float | str]:
        """What `mine` and `mine_rows` are told beside the number of negatives."""
        names = ("top", "skip", "margin", "lowest", "highest", "search")
        return {name: getattr(self, f"mine_{name}") for name in names}

    def precision(self) -> str:
        """What `autocast` comes to here: "auto" is bf16 where the machine multiplies it itself, otherwise "no"."""
        return self.autocast if self.autocast != "auto" else "bf16" if detect_machine().bf16 else "no"

    def training_rows(self) -> ContrastiveRows:
        """Judged pairs of the training set with a hard negative each (by BM25), then the rows of `e5_files`.

        Queries without a relevant document give no row, and are named. Raises InputError where the set has no train split.
        """
        folder = self.data_dir / self.train_set
        data = read_beir(folder)
        if not data.splits:
            raise InputError(
                "this retrieval set has no split to train on",
                file=short_path(folder),
                hint="train on another set: what you test on must not be trained on",
            )
        more = [read_e5(repository_path(Path(name))) for name in self.e5_files]
        data = data.of_split("train")
        tell_unjudged(self.train_set, data)
        rows = ContrastiveRows.of_pairs(e5_from_beir(data), *more)
        if self.max_rows is not None and self.max_rows < len(rows):
            draw = torch.Generator().manual_seed(self.seed)
            rows = rows.take(torch.randperm(len(rows), generator=draw)[: self.max_rows].tolist())
        return rows

    def test_data(self) -> RetrievalSet:
        """The whole corpus and the queries of the test split, `max_queries` of them."""
        data = read_beir(self.data_dir / self.test_set, self.test_split)
        tell_unjudged(self.test_set, data)
        return data.of_queries(list(judged_queries(data))[: self.max_queries])
