"""The language model and its run: next-token prediction on packed documents."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from arrays import documents, read_arrays
from loop import train
from recipe import FIRST, LAST, PAD
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


def pretrain_lm(settings: dict) -> None:
    """Next-token prediction on documents packed end to end, `BOS text EOS BOS text EOS ...`, cut at the context."""
    knobs, run_dir = settings["lm"], settings["run_dir"]
    model = new_lm(settings).to("cuda" if torch.cuda.is_available() else "cpu")
    ids, offsets, sources = read_arrays(run_dir, "lm")
    newline = Tokenizer.from_file(str(run_dir / "lm.json")).token_to_id("<0x0A>")
    firsts = documents(offsets, sources)
    rows = knobs["batch_tokens"] // knobs["context"]

    def document(number):
        lines = range(firsts[number], firsts[number + 1])
        parts = [ids[offsets[i] : offsets[i + 1]] for i in lines]
        joined = [piece for part in parts for piece in (part, [newline])][:-1]
        return np.concatenate([[FIRST], *joined, [LAST]]).astype(np.int64)

    def batch_loss(step, progress):
        rng = np.random.default_rng([settings["seed"], step])
        packed, size = [], 0
        while size < rows * knobs["context"]:
            packed.append(document(rng.integers(len(firsts) - 1)))
            size += len(packed[-1])
        batch = torch.from_numpy(np.concatenate(packed)[: rows * knobs["context"]]).view(rows, -1).to(model.device)
        hidden = model.model(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
        logits = hidden.flatten(0, 1) @ model.lm_head.weight.T
        loss = F.cross_entropy(logits.float(), batch[:, 1:].flatten())
        return loss, batch.numel(), {"loss": round(loss.item(), 4)}

    train(model, batch_loss, settings, "lm")
