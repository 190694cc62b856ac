"""LoRA for an encoder: where the adapters go, which base they belong to, and whether they learn (Hu et al., 2106.09685)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import Tensor, nn

from helpers.course.checksums import verify_where_listed
from helpers.course.errors import InputError
from helpers.course.files import short_path
from helpers.course.training_faults import LoraDidNotMove
from helpers.embedding.encoding.loading import read_json

CARD_FILE = "course_adapter.json"
ATTENTION_AND_FEED_FORWARD = (
    ("query", "key", "value", "dense"),  # BERT, RoBERTa, XLM-R, ELECTRA
    ("Wqkv", "Wo", "Wi"),  # ModernBERT
    ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),  # Gemma, Mistral, Llama, Qwen
    ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),  # DistilBERT
)
UNUSED = "pooler"  # BERT's own head on [CLS]; our pooling never calls it, so an adapter there would never move


def linear_names(model: nn.Module) -> set[str]:
    """Last names of all linear layers that pooling reaches ("query", "dense", ...)."""
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and UNUSED not in name
    }


def lora_targets(model: nn.Module, wanted: list[str] | None = None) -> list[str]:
    """The layers to adapt: `wanted`, or what fits the architecture (all projections of attention and feed-forward).

    Raises InputError when a wanted layer does not exist or the architecture is none of the known ones.
    """
    names = linear_names(model)
    if wanted:
        if missing := sorted(set(wanted) - names):
            raise InputError(
                "the model has no such linear layer to adapt",
                place="lora_targets",
                given=", ".join(missing),
                allowed=sorted(names),
            )
        return list(wanted)
    for family in ATTENTION_AND_FEED_FORWARD:
        if set(family) <= names:
            return list(family)
    raise InputError(
        f"no LoRA target modules are known for {type(model).__name__}",
        place="lora_targets",
        allowed=sorted(names),
        hint="name the layers to adapt yourself: lora_targets: [...]",
    )


def add_lora(
    model: nn.Module, *, r: int, alpha: float, dropout: float = 0.0, targets: list[str] | None = None
) -> PeftModel:
    """Freeze the model and put new adapters of rank `r` beside its linear layers; they start as no change at all.

    Raises InputError where it has adapters already, and what :func:`lora_targets` does.
    """
    _refuse_adapted(model)
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=lora_targets(model, targets),
        exclude_modules=rf".*\b{UNUSED}\b.*" if hasattr(model, UNUSED) else None,
        bias="none",
        task_type="FEATURE_EXTRACTION",
    )
    return get_peft_model(model, config)


def load_adapter(model: nn.Module, folder: str | Path, *, pooling: str, trainable: bool) -> PeftModel:
    """Put a saved adapter on its base model, whose sentences are pooled by `pooling`, to use it or to train it further.

    Raises InputError when the folder is no adapter, its files are damaged, it was trained on another base or with another
    pooling, or the model has an adapter already.
    """
    _refuse_adapted(model)
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            "this folder is no LoRA adapter (it has no adapter_config.json)",
            file=short_path(folder),
            hint="train one first with fine_tune_model_yn=0, or give the folder that such a run left",
        )
    verify_where_listed(folder)
    card = read_card(folder)
    if card and card["base_fingerprint"] != fingerprint(model):
        raise InputError(
            "this adapter was trained on another base model: its corrections fit other weights",
            file=short_path(folder),
            given=f"a base with fingerprint {fingerprint(model)}",
            allowed=f"{card['base']}, fingerprint {card['base_fingerprint']}",
            hint=f"set model: {card['base']}",
        )
    if card.get("pooling", pooling) not in (pooling, "weighted"):  # a weighted mean brings its weights along
        raise InputError(
            "this adapter was trained with another pooling: its corrections fit other vectors",
            file=short_path(folder),
            place="pooling",
            given=pooling,
            allowed=str(card["pooling"]),
        )
    try:
        return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
    except SafetensorError as error:
        raise InputError(
            "the weights of this adapter are damaged", file=short_path(folder), hint=f"safetensors says: {error}"
        ) from error
    except (RuntimeError, ValueError) as error:  # shapes differ, or layers are missing
        raise InputError(
            "this adapter does not fit the base model",
            file=short_path(folder),
            hint=f"it was trained on another architecture or size; peft says: {error}",
        ) from error


def save_adapter(model: PeftModel, folder: Path, *, base: str, base_fingerprint: str, **facts: object) -> None:
    """Write the adapter alone, with a card that says which base it belongs to and how its sentences are pooled."""
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(str(folder), save_embedding_layers=False)
    card = {"base": base, "base_fingerprint": base_fingerprint, **facts}
    (folder / CARD_FILE).write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def base_of(folder: str | Path) -> str:
    """The base model that an adapter folder names, as a folder or hub name."""
    config = read_json(Path(folder) / "adapter_config.json")
    return str(read_card(folder).get("base") or config["base_model_name_or_path"])


def read_card(folder: str | Path) -> dict[str, object]:
    """The card that `save_adapter` left; empty for an adapter that another program wrote."""
    path = Path(folder) / CARD_FILE
    return read_json(path) if path.is_file() else {}


def fingerprint(model: nn.Module) -> str:
    """Twelve hex digits that tell two base models apart, wherever their folders lie: names, shapes and first values."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if UNUSED not in name:
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def refuse_frozen(model: nn.Module) -> None:
    """Raise InputError where no weight of a model could be trained."""
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError(
            "all weights of this model are frozen, so there is nothing to train",
            place="model",
            hint="the folder of an adapter loads frozen: start from the model that was saved with the adapter merged into it",
        )


def _refuse_adapted(model: nn.Module) -> None:
    if isinstance(model, PeftModel):
        raise InputError(
            "this model has a LoRA adapter already, and takes no second one",
            place="model",
            hint="start from the model that was saved with the adapter merged into it, or from the adapter's base",
        )


class LoraWatch:
    """Remembers every `lora_B` before the first step; `check` raises if one of them did not move in it."""

    def __init__(self, model: nn.Module) -> None:
        self._before = {name: weight.detach().clone() for name, weight in self._adapters(model).items()}

    def check(self, model: nn.Module, lr: float) -> None:
        """Raise LoraDidNotMove with the reason. Call after `optimizer.step()`, before gradients are cleared."""
        weights = self._adapters(model)
        still = [name for name, before in self._before.items() if torch.equal(before, weights[name].detach())]
        if still:
            reasons = sorted({_why_still(weights[name], lr) for name in still})
            raise LoraDidNotMove(
                f"{len(still)} of {len(weights)} lora_B matrices did not move in the first step, e.g. {still[0]}: "
                + "; ".join(reasons)
            )

    @staticmethod
    def _adapters(model: nn.Module) -> dict[str, Tensor]:
        return {name: weight for name, weight in model.named_parameters() if ".lora_B." in name}


def _why_still(weight: Tensor, lr: float) -> str:
    if lr == 0:
        return "the learning rate of the step was 0"
    if not weight.requires_grad:
        return "the adapter is frozen (requires_grad is False: was it loaded for inference?)"
    if weight.grad is None:
        return "no gradient reached it (the layer is not used, or gradient checkpointing cut the graph)"
    if not weight.grad.abs().max() > 0:
        return "its gradient is zero (the loss does not depend on it)"
    return "the optimizer does not hold it"
