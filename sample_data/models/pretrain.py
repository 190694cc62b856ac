"""Pretrain the course's two small Korean models; lesson A1 explains every step.

    python sample_data/models/pretrain.py prepare|encoder|lm|export-encoder|export-lm [--config F] [--set lm.tokens=1e6]

A step's batch depends on the seed and the step's number alone, so a run that was killed goes on exactly where its last
checkpoint stood. Bag-of-words loss: DupMAE (arXiv 2211.08769). Muon: kellerjordan.github.io/posts/muon, with the step
size of arXiv 2502.16982. Warm-up, flat, decay: arXiv 2404.06395.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import pickle
import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from corpus import read_corpus, read_sample, token_arrays, train_tokenizer
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from helpers.course.checksums import write_checksums
from helpers.course.files import atomic_write
from helpers.course.plots import line_figure, use_course_style

ROOT = Path(__file__).resolve().parents[2]
SPECIALS = {"encoder": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "lm": ["<pad>", "<unk>", "<s>", "</s>"]}
PAD, UNK, FIRST, LAST, MASK = range(5)  # the same ids in both tokenizers
DOCUMENT_SOURCES = ("boddari", "petitions", "msdocs", "ko.react", "rust-book")  # neighbouring lines belong together
KEEP = {"nsmc": 0.5, "legalize": 0.6}  # share of the two largest sources that the encoder sees


# ------------------------------------------------------------------------------------------------ settings and data
def load_settings(path: Path, overrides: list[str], profile: str) -> dict:
    """The YAML file, its profile's section over it, `--set section.key=value` over that."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    changes = settings.pop("profiles", {}).get(profile, {})
    for item in overrides:
        key, _, value = item.partition("=")
        section, _, name = key.rpartition(".")
        target = changes.setdefault(section, {}) if section else changes
        target[name] = yaml.safe_load(value)
    for key, value in changes.items():
        known = settings.get(key)
        unknown = set(value) - set(known) if isinstance(known, dict) else ({key} - set(settings))
        if unknown:
            raise SystemExit(f"{path}: unknown setting {sorted(unknown)}; allowed: {sorted(known or settings)}")
        settings[key] = known | value if isinstance(known, dict) else value
    settings["data_dir"] = ROOT / os.environ.get("KO_DATA_DIR", settings["data_dir"])
    settings["run_dir"] = ROOT / settings["run_dir"]
    return settings


def prepare(settings: dict) -> None:
    """Tokenizers, token arrays of both sides and the lines' sources, under `run_dir`."""
    run_dir = settings["run_dir"]
    run_dir.mkdir(parents=True, exist_ok=True)
    real = (settings["data_dir"] / "corpus").is_dir()
    train, held_out, removed = read_corpus(settings["data_dir"]) if real else read_sample(ROOT / "sample_data")
    print(f"{len(train):,} lines to train on, {len(held_out):,} held out, removed as test texts: {dict(removed)}")
    texts: dict[str, list[str]] = {}
    for line in train:
        texts.setdefault(line.source, []).append(line.text)
    rng, sample = random.Random(settings["seed"]), []
    for lines in texts.values():  # capped, so that reviews and statutes do not own the vocabulary
        rng.shuffle(lines)
        total = 0
        for text in lines:
            if total > 4_000_000:
                break
            sample.append(text)
            total += len(text)
    rng.shuffle(sample)
    for kind, specials in SPECIALS.items():
        tokenizer = train_tokenizer(iter(sample), settings[kind]["vocab_size"], specials, kind)
        if tokenizer.get_vocab_size() > settings[kind]["vocab_size"]:
            least = f"bytes, special tokens and characters alone are {tokenizer.get_vocab_size():,} pieces"
            raise SystemExit(f"{kind}.vocab_size: {settings[kind]['vocab_size']:,} is too small for this text; {least}")
        tokenizer.save(str(run_dir / f"{kind}.json"))
        for name, lines in (("", train), ("_held", held_out)):
            ids, offsets = token_arrays(tokenizer, lines)
            np.save(run_dir / f"{kind}{name}_ids.npy", ids)
            np.save(run_dir / f"{kind}{name}_off.npy", offsets)
        print(f"{kind}: {tokenizer.get_vocab_size():,} pieces, {len(ids):,} held-out tokens")
    sides = ([line.source for line in train], [(line.source, line.text) for line in held_out])
    (run_dir / "src.pkl").write_bytes(pickle.dumps(sides))


def read_arrays(run_dir: Path, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Token ids, line offsets and the source of every line."""
    sources = np.array(pickle.loads((run_dir / "src.pkl").read_bytes())[0])  # written by `prepare`, not downloaded
    return np.load(run_dir / f"{kind}_ids.npy"), np.load(run_dir / f"{kind}_off.npy"), sources


# ------------------------------------------------------------------------------------------------------ optimization
class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by Newton-Schulz steps, in float32 (torch's own runs in bfloat16,
    which a CPU without bfloat16 units takes seconds for). Matrices only; update scaled to AdamW's RMS of 0.2."""

    def __init__(self, params, lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(buffer, group["momentum"])  # Nesterov
                tall = x.shape[0] > x.shape[1]
                x = (x.T if tall else x) / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x.T if tall else x, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))


def optimizers(model: torch.nn.Module, knobs: dict) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else, with a rate of its own for embeddings."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    tables = [p for name, p in model.named_parameters() if "embed" in name and p.ndim == 2]
    chosen = {id(p) for p in inner + tables}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": outer, "lr": knobs["lr_adam"]}, {"params": tables, "lr": knobs["lr_embeddings"]}]
    return [
        Muon(inner, lr=knobs["lr_muon"]),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model, batch_loss, settings: dict, kind: str) -> None:
    """Loop with checkpoints: `batch_loss(step, progress) -> (loss, positions, parts)` until `tokens` have passed."""
    knobs, run_dir = settings[kind], settings["run_dir"]
    checkpoint, log = run_dir / f"{kind}.pt", run_dir / f"{kind}.log.jsonl"
    steps = optimizers(model, knobs)
    base = [[group["lr"] for group in optimizer.param_groups] for optimizer in steps]
    step, tokens, seconds = 0, 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=model.device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(steps, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, tokens, seconds = state["step"], state["tokens"], state["seconds"]
        kept = [row for row in log.read_text().splitlines() if json.loads(row)["step"] <= step]
        log.write_text("".join(row + "\n" for row in kept))
    start, saved_at = time.monotonic() - seconds, time.monotonic()
    model.train()
    while tokens < knobs["tokens"] and step < settings.get("stop_after", math.inf):
        progress = tokens / knobs["tokens"]
        rate = min(1.0, (step + 1) / knobs["warmup_steps"], max(1 - progress, 1e-3) / knobs["decay_share"])
        for optimizer, rates in zip(steps, base, strict=True):
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * rate
        with torch.autocast(model.device.type, torch.bfloat16, enabled=settings["dtype"] == "bfloat16"):
            loss, positions, parts = batch_loss(step, progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in steps:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + positions
        seconds = time.monotonic() - start
        with open(log, "a") as file:
            row = {"step": step, "tokens": tokens, "seconds": round(seconds, 1)} | parts
            file.write(json.dumps(row) + "\n")
        if time.monotonic() - saved_at >= settings["checkpoint_seconds"] or tokens >= knobs["tokens"]:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in steps]}
            torch.save(state | {"step": step, "tokens": tokens, "seconds": seconds}, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
            saved_at = time.monotonic()


# ----------------------------------------------------------------------------------------------------------- encoder
def word_vectors(pieces: list[str], ids: np.ndarray, offsets: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit row vectors (V, dim) to start from, and each piece's share of the corpus (V,).

    A piece begins as the sum of vectors of its characters and character pairs, rare ones longer, so that 학교 and 학교에
    start close to each other; half as much is what it stands beside (`neighbour_vectors`).
    """
    share = np.bincount(ids, minlength=len(pieces)) / len(ids)
    often: dict[str, float] = {}
    for piece, part in zip(pieces, share, strict=True):
        for character in piece:
            often[character] = often.get(character, 0.0) + part
    rng, known = np.random.default_rng(0), {}

    def random_vector(key: str) -> np.ndarray:
        return known.setdefault(key, rng.normal(size=dim) / math.sqrt(dim))

    vectors = np.zeros((len(pieces), dim))
    for row, piece in enumerate(pieces):
        letters = "" if piece.startswith(("<0x", "[")) else piece.replace("▁", "")
        vectors[row] = 4 * random_vector(f"piece {piece}")
        for character in letters:
            vectors[row] += -math.log(often[character] + 1e-7) * random_vector(character)
        for pair in pairwise(letters):
            vectors[row] += 4 * random_vector("".join(pair))
    vectors = unit(unit(vectors) + 0.5 * neighbour_vectors(ids, offsets, len(pieces), dim))
    return vectors.astype(np.float32), share


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-9)


def neighbour_vectors(ids: np.ndarray, offsets: np.ndarray, size: int, dim: int) -> np.ndarray:
    """Unit row vectors (size, dim) from the SVD of positive PMI within five pieces (Levy and Goldberg 2014)."""
    import scipy.sparse as sparse
    from sklearn.utils.extmath import randomized_svd

    line = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ids = ids.astype(np.int64)
    counts = sparse.csr_matrix((size, size), dtype=np.float32)
    for gap in range(1, 6):
        near = line[:-gap] == line[gap:]
        weight = np.full(near.sum(), 1 / gap, dtype=np.float32)
        counts += sparse.coo_matrix((weight, (ids[:-gap][near], ids[gap:][near])), shape=(size, size)).tocsr()
    counts = (counts + counts.T).tocoo()
    rows = np.asarray(counts.sum(1)).ravel()
    columns = rows**0.75 / (rows**0.75).sum()
    pmi = np.log(counts.data / rows[counts.row] / columns[counts.col])
    kept = pmi > 0
    matrix = sparse.csr_matrix((pmi[kept].astype(np.float32), (counts.row[kept], counts.col[kept])), (size, size))
    left, values, _ = randomized_svd(matrix, min(dim, size - 1), n_iter=3, random_state=0)
    vectors = np.zeros((size, dim), dtype=np.float32)
    vectors[:, : left.shape[1]] = left * values**0.5
    return unit(vectors)


def new_encoder(settings: dict) -> BertForMaskedLM:
    """BERT whose first act is a bag of word vectors: its residual branches start at zero and grow from there."""
    torch.manual_seed(settings["seed"])
    config = encoder_config(settings)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0  # one pass over the text: nothing to overfit
    model = BertForMaskedLM(config)
    ids, offsets, _ = read_arrays(settings["run_dir"], "encoder")
    tokenizer = Tokenizer.from_file(str(settings["run_dir"] / "encoder.json"))
    pieces = [tokenizer.id_to_token(i) for i in range(config.vocab_size)]
    vectors, _ = word_vectors(pieces, ids, offsets, config.hidden_size)
    embeddings = model.bert.embeddings
    with torch.no_grad():
        embeddings.word_embeddings.weight.copy_(torch.from_numpy(vectors))
        embeddings.word_embeddings.weight[PAD] = 0
        embeddings.position_embeddings.weight.mul_(0.25)
        embeddings.token_type_embeddings.weight.zero_()
        for layer in model.bert.encoder.layer:
            layer.attention.output.dense.weight.zero_()
            layer.output.dense.weight.zero_()
    return model


class Texts:
    """Windows of training text, sorted by length, drawn so that a batch has about one length."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, sources: np.ndarray, max_length: int, seed: int):
        rng = np.random.default_rng(seed)
        keep = np.ones(len(sources), dtype=bool)
        for prefix, share in KEEP.items():
            chosen = np.char.startswith(sources, prefix)
            keep[chosen] = rng.random(chosen.sum()) < share
        starts, ends = [], []
        room = max_length - 2
        for start, end in zip(offsets[:-1][keep], offsets[1:][keep], strict=True):
            cuts = range(start, end, room)
            starts += cuts
            ends += [min(cut + room, end) for cut in cuts]
        lengths = np.array(ends) - np.array(starts)
        order = np.argsort(lengths, kind="stable")
        order = order[lengths[order] >= 3]
        self.ids, self.starts, self.lengths = ids, np.array(starts)[order], lengths[order]
        self.mass = np.cumsum(self.lengths + 2)

    def batch(self, rng: np.random.Generator, tokens: int) -> torch.Tensor:
        """Ids (B, T) of whole windows, PAD at the end, B x T about `tokens`."""
        centre = np.searchsorted(self.mass, rng.integers(self.mass[-1]))
        size = max(2, tokens // (self.lengths[centre] + 2))
        low, high = max(0, centre - 4 * size), min(len(self.lengths), centre + 4 * size)
        chosen = rng.choice(np.arange(low, high), size=min(size, high - low), replace=False)
        return pad([self.ids[self.starts[i] : self.starts[i] + self.lengths[i]] for i in chosen])


class Pairs:
    """Pairs of texts that belong together: a statute's heading and body, neighbouring lines, two parts of one text."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray, sources: np.ndarray, close_bracket: int):
        lengths = np.diff(offsets)
        self.ids, self.offsets, self.close_bracket = ids, offsets, close_bracket
        statute = np.char.startswith(sources, "legalize")
        document = np.zeros(len(sources), dtype=bool)
        for prefix in DOCUMENT_SOURCES:
            document |= np.char.startswith(sources, prefix)
        follows = document[:-1] & (sources[:-1] == sources[1:]) & (lengths[:-1] >= 8) & (lengths[1:] >= 8)
        kinds = {
            "heading": np.flatnonzero(statute & (lengths > 30)),
            "neighbour": np.flatnonzero(follows),
            "parts": np.flatnonzero(~statute & (lengths >= 16)),
        }
        self.kinds = {name: lines for name, lines in kinds.items() if len(lines)}

    def batch(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two id tensors (size, T1) and (size, T2); row i of one belongs to row i of the other."""
        left, right = [], []
        names = list(self.kinds)
        share = np.array([{"heading": 0.3, "neighbour": 0.3, "parts": 0.4}[name] for name in names])
        for name in rng.choice(names, size=size, p=share / share.sum()):
            line = rng.choice(self.kinds[name])
            text = self.ids[self.offsets[line] : self.offsets[line + 1]]
            if name == "neighbour":
                a, b = text, self.ids[self.offsets[line + 1] : self.offsets[line + 2]]
            else:
                brackets = np.flatnonzero(text[:60] == self.close_bracket)
                at_heading = name == "heading" and len(brackets)
                cut = brackets[0] + 1 if at_heading else int(len(text) * rng.uniform(0.3, 0.7))
                a, b = text[:cut], text[cut:]
            left.append(a[:46])
            right.append(b[:78])
        return pad(left), pad(right)


def pad(rows: list[np.ndarray]) -> torch.Tensor:
    """`[CLS] row [SEP] [PAD]...` for every row: (B, T) int64."""
    batch = torch.zeros(len(rows), max(map(len, rows)) + 2, dtype=torch.long)
    batch[:, 0] = FIRST
    for i, row in enumerate(rows):
        batch[i, 1 : len(row) + 1] = torch.from_numpy(row.astype(np.int64))
        batch[i, len(row) + 1] = LAST
    return batch


def mean_pool(hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(B, T, H) and (B, T) -> (B, H): mean over the positions that are not PAD."""
    mask = (ids != PAD).unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def pretrain_encoder(settings: dict) -> None:
    """Masked LM and bag of words on one text; InfoNCE between two texts that belong together."""
    knobs, run_dir = settings["encoder"], settings["run_dir"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = new_encoder(settings).to(device)
    model.bow = torch.nn.Linear(knobs["hidden"], knobs["hidden"]).to(device)  # only for training; not exported
    ids, offsets, sources = read_arrays(run_dir, "encoder")
    tokenizer = Tokenizer.from_file(str(run_dir / "encoder.json"))
    texts = Texts(ids, offsets, sources, knobs["max_length"], settings["seed"])
    pairs = Pairs(ids, offsets, sources, tokenizer.token_to_id(")"))
    share = np.bincount(ids, minlength=knobs["vocab_size"]) / len(ids)
    rarity = torch.from_numpy(1e-3 / (1e-3 + share)).float().to(device)
    rarity[: MASK + 1] = 0

    def encode(batch):
        return model.bert(input_ids=batch, attention_mask=(batch != PAD).long()).last_hidden_state

    def masked_loss(rng):
        batch = texts.batch(rng, knobs["batch_tokens"]).to(device)
        draw = torch.from_numpy(rng.random(batch.shape, dtype=np.float32)).to(device)
        masked = (draw < knobs["mask_share"]) & (batch > MASK)
        kept = draw < knobs["mask_share"] * 0.1  # a tenth stays as it is: what is not masked must be represented too
        hidden = encode(batch.masked_fill(masked & ~kept, MASK))
        mlm = F.cross_entropy(model.cls(hidden[masked]).float(), batch[masked])
        bags = torch.zeros(len(batch), len(rarity), device=device).scatter_(1, batch, 1.0) * rarity
        bags = bags / bags.sum(1, keepdim=True).clamp_min(1e-6)
        pooled = model.bow(mean_pool(hidden, batch))
        logits = pooled @ model.bert.embeddings.word_embeddings.weight.T
        bow = -(bags * F.log_softmax(logits.float(), dim=1)).sum(1).mean()
        return mlm + 0.5 * bow, batch.numel(), {"mlm": round(mlm.item(), 4), "bow": round(bow.item(), 4)}

    def pair_loss(rng):
        left, right = (side.to(device) for side in pairs.batch(rng, knobs["batch_tokens"] // 64))
        a = F.normalize(mean_pool(encode(left), left).float(), dim=1)
        b = F.normalize(mean_pool(encode(right), right).float(), dim=1)
        scores = a @ b.T / knobs["temperature"]
        target = torch.arange(len(a), device=device)
        loss = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        return loss, left.numel() + right.numel(), {"pairs": round(loss.item(), 4)}

    def batch_loss(step, progress):
        rng = np.random.default_rng([settings["seed"], step])
        in_pairs = progress < knobs["pair_until"] and rng.random() < knobs["pair_share"]
        return pair_loss(rng) if in_pairs else masked_loss(rng)

    train(model, batch_loss, settings, "encoder")


# ---------------------------------------------------------------------------------------------------- language model
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


def documents(offsets: np.ndarray, sources: np.ndarray, most: int = 400) -> np.ndarray:
    """First line of every document: neighbouring lines of one document source are joined up to about `most` tokens."""
    lengths = np.diff(offsets)
    joinable = np.zeros(len(sources), dtype=bool)
    for prefix in DOCUMENT_SOURCES:
        joinable |= np.char.startswith(sources, prefix)
    firsts, size = [], 0
    for i in range(len(sources)):
        if i and joinable[i] and sources[i] == sources[i - 1] and size + lengths[i] <= most:
            size += lengths[i] + 1
        else:
            firsts.append(i)
            size = lengths[i]
    return np.array([*firsts, len(sources)])


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


# ------------------------------------------------------------------------------------------------------------ export
def export(settings: dict, kind: str, folder: Path) -> None:
    """The checkpoint's weights and tokenizer as transformers loads them: safetensors, half precision."""
    state = torch.load(settings["run_dir"] / f"{kind}.pt", map_location="cpu", weights_only=True)
    backend = Tokenizer.from_file(str(settings["run_dir"] / f"{kind}.json"))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    if kind == "encoder":
        # The encoder alone, as AutoModel loads it: the heads of pretraining stay in the checkpoint. BERT's pooler is
        # not trained here; as an identity it is at least the same after every load.
        model, dtype = BertModel(encoder_config(settings)), torch.float16
        weights = {n.removeprefix("bert."): value for n, value in state["model"].items() if n.startswith("bert.")}
        weights["pooler.dense.weight"] = torch.eye(settings["encoder"]["hidden"])
        weights["pooler.dense.bias"] = torch.zeros(settings["encoder"]["hidden"])
    else:
        names = ("pad_token", "unk_token", "bos_token", "eos_token")
        model, weights, dtype = new_lm(settings), state["model"], torch.bfloat16
    model.load_state_dict(weights)
    model.to(dtype).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=512 if kind == "encoder" else 1024,
        **dict(zip(names, SPECIALS[kind], strict=True)),
    )
    tokenizer.save_pretrained(folder)
    os.chmod(folder / "model.safetensors", 0o644)
    rows = [json.loads(row) for row in (settings["run_dir"] / f"{kind}.log.jsonl").read_text().splitlines()]
    fields = ["step", "tokens", "seconds", *(["mlm", "bow", "pairs"] if kind == "encoder" else ["loss"])]
    with atomic_write(folder / "training_log.csv") as file:
        writer = csv.DictWriter(file, fields, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in rows if row["step"] <= state["step"])
    curves = {name: [(r["tokens"] / 1e6, r[name]) for r in rows if name in r] for name in fields[3:]}
    lines = {name: tuple(zip(*points, strict=True)) for name, points in curves.items() if points}
    use_course_style()
    line_figure(lines, folder.name, "million pieces", "loss, nats").savefig(folder / "loss.png")
    write_checksums(folder)
    print(f"{folder}: {state['step']} steps, {state['tokens']:,} tokens, {state['seconds'] / 3600:.2f} hours")


def encoder_config(settings: dict) -> BertConfig:
    """The encoder's configuration as it is shipped: with the dropout of 0.1 that SimCSE needs."""
    knobs = settings["encoder"]
    return BertConfig(
        vocab_size=knobs["vocab_size"],
        hidden_size=knobs["hidden"],
        num_hidden_layers=knobs["layers"],
        num_attention_heads=knobs["heads"],
        intermediate_size=knobs["intermediate"],
        max_position_embeddings=512,
        pad_token_id=PAD,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "encoder", "lm", "export-encoder", "export-lm"])
    parser.add_argument("--config", type=Path, default=ROOT / "config/pretraining.yaml")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--out", type=Path, help="folder of an export")
    arguments = parser.parse_args()
    settings = load_settings(arguments.config, arguments.set, arguments.profile)
    torch.set_num_threads(settings["threads"])
    if arguments.step.startswith("export-"):
        kind = arguments.step.removeprefix("export-")
        name = "ko-mini-encoder" if kind == "encoder" else "ko-mini-mistral"
        export(settings, kind, arguments.out or ROOT / "sample_data/models" / name)
    else:
        {"prepare": prepare, "encoder": pretrain_encoder, "lm": pretrain_lm}[arguments.step](settings)


if __name__ == "__main__":
    main()
