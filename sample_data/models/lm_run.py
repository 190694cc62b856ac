"""The language model and its run: next-token prediction on packed documents."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from arrays import documents, read_arrays
from loop import train
from recipe import FIRST, HELD_OUT_BATCHES, LAST, PAD
from tokenizers import Tokenizer
from transformers import MistralConfig, MistralForCausalLM


def new_lm(settings: dict) -> MistralForCausalLM:
    """A small Mistral: grouped-query attention, RoPE, SwiGLU, no sliding window, tied embeddings."""
    knobs = settings["lm"]
    torch.manual_seed(settings["seed"])
    config = MistralConfig(
        vocab_size=knobs["vocab_size"],
        hidden_size=knobs["hidden"],
        num_hidden_layers=knobs["layers"],
        num_attention_heads=knobs["heads"],
        num_key_value_heads=knobs["kv_heads"],
        intermediate_size=knobs["intermediate"],
        max_position_embeddings=1024,
        sliding_window=None,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=FIRST,
        eos_token_id=LAST,
    )
    return MistralForCausalLM(config)


class Documents:
    """Documents packed end to end, `BOS text EOS BOS text EOS ...`; `firsts`: the first line of each, and the end."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, firsts: np.ndarray, newline: int):
        self.ids, self.offsets, self.firsts, self.newline = ids, offsets, firsts, newline

    def document(self, number: int) -> np.ndarray:
        lines = range(self.firsts[number], self.firsts[number + 1])
        parts = [self.ids[self.offsets[i] : self.offsets[i + 1]] for i in lines]
        joined = [piece for part in parts for piece in (part, [self.newline])][:-1]
        return np.concatenate([[FIRST], *joined, [LAST]]).astype(np.int64)

    def batch(self, rng: np.random.Generator, rows: int, context: int) -> torch.Tensor:
        """Ids (rows, context) of documents drawn at random; a row's end cuts a document in two."""
        packed, size = [], 0
        while size < rows * context:
            packed.append(self.document(rng.integers(len(self.firsts) - 1)))
            size += len(packed[-1])
        return torch.from_numpy(np.concatenate(packed)[: rows * context]).view(rows, -1)


def pretrain_lm(settings: dict) -> None:
    """Next-token prediction on packed documents, cut at the context."""
    knobs, run_dir = settings["lm"], settings["run_dir"]
    model = new_lm(settings).to("cuda" if torch.cuda.is_available() else "cpu")
    ids, offsets, sources = read_arrays(run_dir, "lm")
    newline = Tokenizer.from_file(str(run_dir / "lm.json")).token_to_id("<0x0A>")
    rows = knobs["batch_tokens"] // knobs["context"]
    seen = Documents(ids, offsets, documents(offsets, sources), newline)
    ids, offsets, _ = read_arrays(run_dir, "lm", "_held")
    held_out = Documents(ids, offsets, np.arange(len(offsets)), newline)  # drawn one by one: none has its neighbour

    def loss_on(side, rng):
        batch = side.batch(rng, rows, knobs["context"]).to(model.device)
        hidden = model.model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
        logits = hidden.flatten(0, 1) @ model.lm_head.weight.T
        loss = F.cross_entropy(logits.float(), batch[:, 1:].flatten())
        return loss, batch.numel()

    def batch_loss(step, progress):
        loss, positions = loss_on(seen, np.random.default_rng([settings["seed"], step]))
        return loss, positions, {"loss": round(loss.item(), 4)}

    def held_out_loss():
        rng = np.random.default_rng(settings["seed"])
        return np.mean([loss_on(held_out, rng)[0].item() for _ in range(HELD_OUT_BATCHES)])

    train(model, batch_loss, held_out_loss, settings, "lm")
