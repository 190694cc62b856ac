"""A sentence encoder: a transformer, its tokenizer, and the way its token vectors become one sentence vector."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from helpers.course.atomic import replaced_folder
from helpers.course.checksums import verify_where_listed, write_checksums
from helpers.course.errors import InputError
from helpers.course.machine import torch_device
from helpers.course.paths import shown_model
from helpers.course.quiet import quiet
from helpers.embedding.batching import plan_chunks
from helpers.embedding.encoding import adapters, loading
from helpers.embedding.encoding.piece_weights import PieceWeights, weighted_mean
from helpers.embedding.encoding.sentence_folder import (
    Pooling,
    SentenceFolder,
    read_sentence_folder,
    read_word_weights,
    write_sentence_folder,
    write_word_weights,
)
from helpers.embedding.losses import at_least_float32

TOKEN_BUDGET = {"cpu": 2_048, "cuda": 32_768}  # tokens a forward pass, padding included; small ones stay in the cache
LONGEST_DEFAULT = 128


class Encoder(nn.Module):
    """Texts in, vectors out.

    model       a transformers encoder whose first output is (B, L, H); after `add_lora`, a PeftModel around it
    pooling     "mean" over the real tokens, "weighted" mean by `piece_weights`, or "cls": the first token
    max_length  tokens kept of a text, special tokens and prompt included
    prompts     texts put before a sentence by name, such as {"query": "query: "}; saved with the model
    prompt      the name of the prompt that is used when none is asked for
    base        the name or folder that the weights came from
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: Pooling = "mean",
        max_length: int = LONGEST_DEFAULT,
        prompts: dict[str, str] | None = None,
        prompt: str | None = None,
        base: str = "",
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.base = model, tokenizer, base
        self.pooling, self.max_length = pooling, max_length
        self.prompts, self.prompt = dict(prompts or {}), prompt
        self.base_fingerprint = ""
        self.piece_weights: PieceWeights | None = None
        loading.check_max_length(max_length, loading.longest(model.config, tokenizer.model_max_length), base)
        self._prompt_text(prompt)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        prompts: dict[str, str] | None = None,
        prompt: str | None = None,
    ) -> Self:
        """Load a transformers or sentence-transformers folder or hub name, or the folder of a LoRA adapter, which is frozen.

        What is not given is read from the files beside the weights, else mean pooling and 128 tokens; of `prompts` that are
        given none is used unless `prompt` names it. Weights are verified where SHA256SUMS lies beside them, must be
        safetensors, and are held in float32 on this machine's device.
        Raises InputError when there is no such model, its files are damaged, or it needs parts not known here.
        """
        quiet()
        name = loading.resolve_model(model)
        verify_where_listed(name)
        if (Path(name) / "adapter_config.json").is_file():
            told = adapters.read_card(name)
            if prompts is None and "prompts" in told:
                prompts, prompt = told["prompts"], prompt or told.get("prompt")
            encoder = cls.load(
                adapters.base_of(name),
                pooling=None if told.get("pooling") == "weighted" else told.get("pooling"),  # its weights lie beside it
                max_length=max_length or told.get("max_length"),
                prompts=prompts,
                prompt=prompt,
            )
            encoder.load_adapter(name, trainable=False)
            if pooling in ("mean", "cls"):
                encoder.pooling, encoder.piece_weights = pooling, None
            return encoder
        try:
            network = AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True).to(torch_device())
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, SafetensorError) as error:
            raise loading.cannot_load(model, error) from error
        told, most = read_sentence_folder(name), loading.longest(network.config, tokenizer.model_max_length)
        if prompts is None:  # the prompt used by default is one of these
            prompts, prompt = told.prompts, prompt or told.default_prompt
        usual = (told.pooling and most) or LONGEST_DEFAULT  # sentence-transformers 6 tells it by the tokenizer alone
        encoder = cls(
            network,
            tokenizer,
            pooling=pooling or told.pooling or "mean",
            max_length=max_length or told.max_length or min(usual, most or usual),
            prompts=prompts,
            prompt=prompt,
            base=shown_model(name),
        )
        if encoder.pooling == "weighted":
            encoder._take_piece_weights(told.word_weights, name)
        return encoder

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dimension(self) -> int:
        return self.model.config.hidden_size

    def add_lora(self, *, r: int, alpha: float, dropout: float = 0.0, targets: list[str] | None = None) -> None:
        """Freeze the weights and train low-rank corrections beside them from now on."""
        self.base_fingerprint = adapters.fingerprint(self.model)
        self.model = adapters.add_lora(self.model, r=r, alpha=alpha, dropout=dropout, targets=targets)

    def load_adapter(self, folder: str | Path, *, trainable: bool) -> None:
        """Put a saved adapter on this base; raises InputError when it was trained on another one, or with another pooling."""
        self.base_fingerprint = adapters.fingerprint(self.model)
        self.model = adapters.load_adapter(self.model, folder, pooling=self.pooling, trainable=trainable)
        weights = read_word_weights(str(folder))
        if weights or adapters.read_card(folder).get("pooling") == "weighted":
            self._take_piece_weights(weights, str(folder))
            self.piece_weights.requires_grad_(trainable)

    def weigh_pieces(self, tokens: Iterable[Sequence[int]]) -> None:
        """Pool by a weighted mean from now on: pieces that are frequent in these token lists count less.

        The weights are trained with the rest; a model that has weights already keeps them. Raises InputError without
        tokens, and where pooling is "cls".
        """
        if self.pooling == "cls":
            raise InputError("only a mean can be weighted", place="pooling", given="cls", allowed="mean")
        if self.piece_weights is None:
            weights = PieceWeights.smooth_inverse_frequency(tokens, len(self.tokenizer))
            self.piece_weights, self.pooling = weights.to(self.device), "weighted"

    def _take_piece_weights(self, weights: dict | None, name: str) -> None:
        read = PieceWeights.of_word_weights(weights, len(self.tokenizer), name)
        self.piece_weights, self.pooling = read.to(self.device), "weighted"

    def tokenize(self, texts: Sequence[str], prompt: str | None = None) -> list[list[int]]:
        """Token ids of each text, cut to `max_length`, not padded. `prompt` is the name of one of `prompts`.

        Raises InputError for what is no list of strings, and where the prompt leaves no room for the texts.
        """
        loading.check_texts(texts)
        before = self._prompt_text(prompt)
        if len(texts) == 0:
            return []
        loading.check_prompt(self.tokenizer, before, self.max_length)
        return self.tokenizer([before + text for text in texts], truncation=True, max_length=self.max_length).input_ids

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """input_ids (B, L), attention_mask (B, L) of 1 and 0 -> sentence vectors (B, H) in float32, not normalised."""
        hidden = at_least_float32(self.model(input_ids=input_ids, attention_mask=attention_mask)[0])  # (B, L, H)
        if self.pooling == "cls":
            return hidden[:, 0]
        weights = attention_mask if self.piece_weights is None else attention_mask * self.piece_weights(input_ids)
        return weighted_mean(hidden, weights)

    def embed(self, tokens: Sequence[Sequence[int]], token_budget: int | None = None) -> Tensor:
        """Vectors (N, H) of token lists in the order given, with gradients where they are switched on.

        Lists of like length go through the model together, so that little is spent on padding; the vectors are those
        of one padded batch up to rounding (dropout draws differ, as they do between any two passes).
        """
        batches = self.chunks(tokens, token_budget)
        vectors = torch.cat([self(*self.pad([tokens[i] for i in batch])) for batch in batches])
        order = torch.tensor([i for batch in batches for i in batch], device=vectors.device)
        return vectors[order.argsort()]

    def chunks(self, tokens: Sequence[Sequence[int]], token_budget: int | None = None) -> list[list[int]]:
        """Numbers of the token lists, longest first, that go through the model together; a longer one goes alone."""
        lengths = [len(ids) for ids in tokens]
        return plan_chunks(lengths, max([token_budget or TOKEN_BUDGET[self.device.type], *lengths]))

    @torch.inference_mode()
    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        normalize: bool = True,
        token_budget: int | None = None,
    ) -> np.ndarray:
        """Vectors of texts, (N, H) float32, of length 1 unless `normalize` is False; dropout is off."""
        if len(texts) == 0:
            return np.zeros((0, self.dimension), dtype=np.float32)
        was_training = self.training
        self.eval()
        try:
            vectors = self.embed(self.tokenize(texts, prompt), token_budget)
        finally:
            self.train(was_training)
        return (F.normalize(vectors, dim=-1) if normalize else vectors).cpu().numpy()

    def save(self, folder: str | Path) -> Path:
        """Write a sentence-transformers folder, adapters merged into the weights, with checksums; whole or not at all."""
        with replaced_folder(Path(folder)) as new:
            self._merged().save_pretrained(new)
            self.tokenizer.save_pretrained(new)
            told = SentenceFolder(self.pooling, self.max_length, self.prompts, self.prompt, self._word_weights())
            write_sentence_folder(new, told, self.dimension)
            write_checksums(new)
        return Path(folder)

    def _word_weights(self) -> dict | None:
        return None if self.piece_weights is None else self.piece_weights.word_weights(self.tokenizer)

    def save_adapter(self, folder: str | Path) -> Path:
        """Write the LoRA adapter alone, with a card that names its base; whole or not at all."""
        if not isinstance(self.model, PeftModel):
            raise InputError("there is no LoRA adapter to save: all weights were trained", hint="call save() instead")
        facts = {"pooling": self.pooling, "max_length": self.max_length, "prompts": self.prompts, "prompt": self.prompt}
        with replaced_folder(Path(folder)) as new:
            adapters.save_adapter(self.model, new, base=self.base, base_fingerprint=self.base_fingerprint, **facts)
            if weights := self._word_weights():
                write_word_weights(new, weights)
            write_checksums(new)
        return Path(folder)

    def _merged(self) -> PreTrainedModel:
        return copy.deepcopy(self.model).merge_and_unload() if isinstance(self.model, PeftModel) else self.model

    def pad(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Token lists as what `forward` takes: ids and mask (B, L), padded to the longest list."""
        length = max(1, *(len(ids) for ids in tokens))
        padding = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*row, *[padding] * (length - len(row))] for row in tokens])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in tokens])
        return ids.to(self.device), mask.to(self.device)

    def _prompt_text(self, prompt: str | None) -> str:
        prompt = prompt if prompt is not None else self.prompt
        if prompt is not None and prompt not in self.prompts:
            raise InputError(
                "the model has no prompt of this name", place="prompt", given=prompt, allowed=[*self.prompts] or "none"
            )
        return "" if prompt is None else self.prompts[prompt]
