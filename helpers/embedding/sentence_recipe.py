"""Fine-tuning with sentence-transformers as people use it: one recipe for a small encoder and for EmbeddingGemma."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from scipy.stats import spearmanr
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.losses import TripletDistanceMetric
from sentence_transformers.sentence_transformer.modules import Pooling, WordWeights
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from helpers.course.checksums import verify_where_listed
from helpers.course.errors import InputError
from helpers.course.machine import set_seed, torch_device
from helpers.course.paths import shown_model
from helpers.course.training_faults import refuse_not_finite
from helpers.data.pairs import Pairs
from helpers.data.retrieval import RetrievalSet
from helpers.embedding.encoding.loading import (
    cannot_load,
    check_max_length,
    check_prompt,
    check_texts,
    longest,
    resolve_model,
)
from helpers.embedding.encoding.piece_weights import LEAST, PieceWeights
from helpers.embedding.evaluation import check_scored
from helpers.embedding.schedule import MovesFromTheFirstStep
from helpers.embedding.scoring.runs import TOP, dense_run, documents_of, judged_queries
from helpers.embedding.triplet_settings import LossName, TripletSettings

TOKEN_VARIABLE = "HF_TOKEN"
"""Where a token for gated models is read from; never a parameter, so that none can end up in a notebook."""
COLUMNS = ("anchor", "positive", "negative")
PROMPTS = ("query", "document", "document")
"""The prompts of these columns."""


def load_sentence_model(settings: TripletSettings) -> SentenceTransformer:
    """The model of the settings, with their prompts ``query`` and ``document`` in place of its own where they are given."""
    model = open_sentence_model(settings.model, settings.max_length)
    given = {"query": settings.query_prompt, "document": settings.document_prompt}
    model.prompts = {**model.prompts, **{key: text for key, text in given.items() if text is not None}}
    return model


def open_sentence_model(model: str | Path, max_length: int | None = None) -> SentenceTransformer:
    """A folder or a model of the hub in float32 on this machine's device; ``max_length`` None: what it was saved with.

    EmbeddingGemma's activations overflow in float16 and a T4 has no bfloat16, so float32 it is. A gated model needs its
    licence accepted and a token in the environment. Raises InputError where the model cannot be had or is damaged.
    """
    name = resolve_model(model)
    verify_where_listed(name)
    token = os.environ.get(TOKEN_VARIABLE)
    try:
        opened = SentenceTransformer(
            name,
            device=str(torch_device()),
            model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            token=token or False,  # None would make the library read the login file
        )
    except (OSError, ValueError, SafetensorError) as error:
        hint = (
            "a gated model needs its licence accepted on its page, and a token in the environment variable "
            f"{TOKEN_VARIABLE} (it is {'set' if token else 'not set'})"
        )
        raise cannot_load(model, error, hint) from error
    if max_length is not None:
        check_max_length(max_length, longest(opened[0].auto_model.config), shown_model(name))
        opened.max_seq_length = max_length
    return opened


def weigh_pieces(model: SentenceTransformer, queries: Sequence[str], documents: Sequence[str]) -> SentenceTransformer:
    """The same model, pooled by a weighted mean: pieces that are frequent in these texts under the model's prompts count less.

    The weights are smooth inverse frequencies, as in :mod:`helpers.embedding.encoding.piece_weights`: a prompt, which
    stands before every text, loses its voice. A model that has such weights keeps its own. Raises InputError where there
    is no text, and where the model's pooling is no mean.
    """
    if any(isinstance(module, WordWeights) for module in model):
        return model
    if (modes := [module.pooling_mode for module in model if isinstance(module, Pooling)]) != ["mean"]:
        raise InputError("only a mean can be weighted", place="pooling", given=modes, allowed="mean")
    sides = zip(("query", "document"), (queries, documents), strict=True)
    texts = [model.prompts[prompt] + text for prompt, side in sides for text in side]
    read = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)["input_ids"]
    counted = PieceWeights.smooth_inverse_frequency(read, len(model.tokenizer))
    modules = [model[0], WordWeights(**counted.word_weights(model.tokenizer)), *list(model)[1:]]
    return SentenceTransformer(
        modules=modules,
        device=str(model.device),
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
    )


def make_loss(model: SentenceTransformer, settings: TripletSettings, name: LossName) -> nn.Module:
    """A loss of sentence-transformers with the settings' margin or temperature.

    Triplets are compared by cosine distance: the library's default, Euclidean distance with a margin of 5, can never be
    satisfied by unit vectors, which are at most 2 apart.
    """
    if name == "TripletLoss":
        return losses.TripletLoss(model, TripletDistanceMetric.COSINE, settings.triplet_margin)
    return losses.MultipleNegativesRankingLoss(model, scale=1 / settings.loss_temperature)


class _Trainer(MovesFromTheFirstStep, SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, object]) -> None:
        """No statistics for a model card: the lesson records what was trained."""


class _WeightsAboveZero(TrainerCallback):
    """A mean has no weights below zero; Adam would take those of the most frequent pieces there within some hundred steps."""

    @torch.no_grad()
    def on_step_end(self, args: object, state: object, control: object, model: nn.Module, **_: object) -> None:
        for module in model.modules():
            if isinstance(module, WordWeights):
                module.emb_layer.weight.clamp_(min=LEAST)


def train_triplets(
    model: SentenceTransformer,
    triplets: Pairs,
    loss: nn.Module,
    settings: TripletSettings,
    *,
    prompts: bool = False,
    batch_size: int | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    scored: Pairs | None = None,
) -> list[float]:
    """Train in place with the library's own trainer and return the loss of every step.

    Runs ``epochs`` or else ``settings.max_steps`` steps. No text stands twice in a batch (it would be a false negative).
    ``prompts`` puts the task prompts before the texts. ``scored`` pairs are trained beside the triplets, batch by batch,
    with CoSENT. Raises InputError where there are fewer rows than a batch takes, a prompt leaves no room for the texts, or
    the scores are all the same, Diverged where a loss is no finite number.
    """
    size = batch_size or settings.batch_size
    for rows in (triplets, *([scored] if scored else [])):
        if len(rows) < size:
            raise InputError("there are fewer rows than a batch takes", given=len(rows), allowed=f"{size} or more")
    for name in set(PROMPTS) if prompts else ():
        _check_prompt(model, name)
    data, functions = {"triplets": triplet_dataset(triplets)}, {"triplets": loss}
    if scored is not None:
        check_scored(scored.first, scored.second, scored.scores)
        data["scored"] = Dataset.from_dict(
            {"sentence1": scored.first, "sentence2": scored.second, "score": scored.scores}
        )
        functions["scored"] = losses.CoSENTLoss(model)
    before = {column: model.prompts[name] for column, name in zip(COLUMNS, PROMPTS, strict=True)}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(settings.output_dir / "trainer"),
        per_device_train_batch_size=size,
        learning_rate=lr or settings.lr,
        learning_rate_mapping=word_vector_rate(model, settings.embedding_lr),
        warmup_steps=settings.warmup,
        num_train_epochs=epochs or 1,
        max_steps=-1 if epochs else settings.max_steps,
        prompts={"triplets": before} if prompts else None,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        seed=settings.seed,
        use_cpu=model.device.type == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,  # by default a loss that is not finite is reported as 0
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    set_seed(settings.seed)
    trainer = _Trainer(model=model, args=arguments, train_dataset=data, loss=functions)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_WeightsAboveZero)
    trainer.train()
    model.eval()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    for step, value in enumerate(history, 1):
        refuse_not_finite("loss", value, step, arguments.learning_rate)
    return history


def word_vector_rate(model: SentenceTransformer, rate: float | None) -> dict[str, float]:
    """What sentence-transformers calls a ``learning_rate_mapping``, for the word vectors; empty for None.

    A word vector has a gradient only in the steps whose batch holds its piece, so in a few steps it wants a higher rate.
    """
    words = model[0].auto_model.get_input_embeddings().weight
    return {re.escape(name): rate for name, weight in model.named_parameters() if rate and weight is words}


def save_sentence_model(model: SentenceTransformer, folder: str | Path) -> None:
    """``model.save(folder)``, trained piece weights included.

    Loading builds the library's WordWeights from its config.json, where training has changed nothing: the weights of before
    training would come back, without a word.
    """
    for module in model:
        if isinstance(module, WordWeights):
            trained = module.emb_layer.weight.detach()[:, 0].tolist()
            module.word_weights = dict(zip(module.vocab, trained, strict=True))
    model.save(str(folder))


def triplet_dataset(triplets: Pairs) -> Dataset:
    """The library's training set: columns anchor, positive, negative, in this order."""
    if triplets.negatives is None:
        raise InputError("triplets need three texts, these rows have two", allowed=COLUMNS)
    return Dataset.from_dict(dict(zip(COLUMNS, (triplets.first, triplets.second, triplets.negatives), strict=True)))


def unit_vectors(model: SentenceTransformer, texts: Sequence[str], prompt: str | None = None) -> np.ndarray:
    """(N, H) float32 of length 1; ``prompt`` is the name of one of the model's prompts, None puts nothing before."""
    check_texts(texts)
    if prompt is not None:
        _check_prompt(model, prompt)
    given = {"prompt": ""} if prompt is None else {"prompt_name": prompt}
    return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=32, **given)


def sentence_run(
    model: SentenceTransformer, data: RetrievalSet, *, prompts: bool = False, top: int = TOP
) -> dict[str, dict[str, float]]:
    """Search a retrieval set with the model, with or without its task prompts."""
    query, document = ("query", "document") if prompts else (None, None)
    return dense_run(
        judged_queries(data),
        documents_of(data),
        lambda texts: unit_vectors(model, texts, query),
        lambda texts: unit_vectors(model, texts, document),
        top,
    )


def sentence_spearman(model: SentenceTransformer, pairs: Pairs) -> float:
    """Spearman's correlation of cosine and score of scored pairs, -1 to 1. Raises what `check_scored` does."""
    check_scored(pairs.first, pairs.second, pairs.scores)
    left, right = unit_vectors(model, pairs.first), unit_vectors(model, pairs.second)
    return float(spearmanr((left * right).sum(1), pairs.scores).statistic)


def _check_prompt(model: SentenceTransformer, name: str) -> None:
    """Refuse a prompt that leaves no room for the texts; one that the model lacks is named by the library itself."""
    if model.max_seq_length is not None:
        check_prompt(model.tokenizer, model.prompts.get(name) or "", model.max_seq_length)
