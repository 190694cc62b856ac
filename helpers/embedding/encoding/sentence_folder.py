"""The small files around a model's weights by which sentence-transformers knows how its sentences are pooled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from transformers.utils import cached_file

from helpers.course.errors import InputError
from helpers.embedding.encoding.loading import read_json

Pooling = Literal["mean", "cls", "weighted"]
WEIGHTS_FOLDER = "1_WordWeights"
MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
MODULES = ("Transformer", "WordWeights", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceFolder:
    """What a sentence-transformers folder says beside its weights; `None` where it says nothing.

    `word_weights` is the config.json of a module WordWeights: there with pooling "weighted", and only then.
    """

    pooling: Pooling | None = None
    max_length: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    word_weights: dict[str, object] | None = None


def read_sentence_folder(model: str) -> SentenceFolder:
    """Read the settings of a local folder or a hub repository; an empty answer for a plain transformers model.

    Raises InputError for modules, poolings or small letters that `Encoder` does not have, and for a damaged file.
    """
    modules = _read_json(model, "modules.json")
    if modules is None:
        return SentenceFolder()
    if foreign := foreign_parts(model):
        raise InputError(
            "this sentence-transformers model has parts that Encoder does not have",
            file=f"{model}/modules.json",
            given=", ".join(foreign),
            allowed=MODULES,
            hint="load it with sentence_transformers.SentenceTransformer",
        )
    paths = {_kind(module): module["path"] for module in modules}
    pooling = _read_pooling(model, f"{paths['Pooling']}/config.json") if "Pooling" in paths else None
    weights = read_word_weights(model, paths["WordWeights"]) if "WordWeights" in paths else None
    if weights and pooling != "mean":
        raise InputError(
            "pieces have weights, but no mean is taken of them",
            file=f"{model}/modules.json",
            given=f"WordWeights and pooling {pooling}",
            allowed="WordWeights and pooling mean",
        )
    transformer = _read_json(model, "sentence_bert_config.json") or {}
    if transformer.get("do_lower_case"):
        raise InputError(
            "this model turns its texts into small letters, and Encoder reads them as they are",
            file=f"{model}/sentence_bert_config.json",
            given="do_lower_case true",
            allowed="do_lower_case false",
            hint="load it with sentence_transformers.SentenceTransformer",
        )
    told = _read_json(model, "config_sentence_transformers.json") or {}
    return SentenceFolder(
        pooling="weighted" if weights else pooling,
        max_length=transformer.get("max_seq_length"),
        prompts=told.get("prompts") or {},
        default_prompt=told.get("default_prompt_name"),
        word_weights=weights,
    )


def foreign_parts(model: str) -> list[str]:
    """The parts of a sentence-transformers model that `Encoder` does not have, such as EmbeddingGemma's Dense layers."""
    kinds = [_kind(module) for module in _read_json(model, "modules.json") or []]
    return [kind for kind in kinds if kind not in MODULES]


def write_sentence_folder(folder: Path, told: SentenceFolder, dimension: int) -> None:
    """Write the same files beside weights, so that `SentenceTransformer(folder)` gives the same unit vectors."""
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    if told.word_weights:
        parts.insert(1, (WEIGHTS_FOLDER, "WordWeights"))
        write_word_weights(folder, told.word_weights)
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(parts)
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": told.max_length, "do_lower_case": False})
    kind = "mean" if told.word_weights else told.pooling
    pooling = {mode: name == kind for mode, name in MODES.items()}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dimension, **pooling})
    prompts = {"prompts": told.prompts, "default_prompt_name": told.default_prompt}
    _write_json(folder / "config_sentence_transformers.json", {**prompts, "similarity_fn_name": "cosine"})


def read_word_weights(model: str, path: str = WEIGHTS_FOLDER) -> dict | None:
    """The config.json of a module WordWeights in a model's or an adapter's folder; None where there is none."""
    return _read_json(model, f"{path}/config.json")


def write_word_weights(folder: Path, weights: dict[str, object]) -> None:
    """Write that file."""
    _write_json(folder / WEIGHTS_FOLDER / "config.json", weights)


def _kind(module: dict[str, str]) -> str:
    return module["type"].rsplit(".", 1)[-1]


def _read_pooling(model: str, path: str) -> Pooling:
    config = _read_json(model, path) or {}
    if config.get("include_prompt") is False:
        raise InputError(
            "this model leaves the prompt out of its pooling, and Encoder pools all tokens",
            file=f"{model}/{path}",
            given="include_prompt false",
            allowed="include_prompt true",
            hint="load it with sentence_transformers.SentenceTransformer",
        )
    given = config.get("pooling_mode") or [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    given = [given] if isinstance(given, str) else list(given)
    known = [MODES.get(mode, mode) for mode in given]
    if len(known) != 1 or known[0] not in MODES.values():
        raise InputError(
            "this pooling is not known", file=f"{model}/{path}", given=", ".join(given), allowed="mean, cls"
        )
    return known[0]


def _read_json(model: str, name: str) -> dict | list | None:
    path = cached_file(
        model,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else read_json(Path(path))


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
