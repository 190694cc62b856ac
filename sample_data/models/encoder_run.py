"""The encoder's run: masked pieces and a bag of words of one text, and pairs of texts that belong together.

Bag-of-words loss: DupMAE (arXiv 2211.08769).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from arrays import read_arrays
from encoder_model import new_encoder
from loop import train
from recipe import DOCUMENT_SOURCES, FIRST, HELD_OUT_BATCHES, LAST, MASK, PAD
from tokenizers import Tokenizer

KEEP = {"nsmc": 0.5, "legalize": 0.6}  # share of the two largest sources that the encoder sees


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
    held_out = Texts(*read_arrays(run_dir, "encoder", "_held"), knobs["max_length"], settings["seed"])
    pairs = Pairs(ids, offsets, sources, tokenizer.token_to_id(")"))
    share = np.bincount(ids, minlength=knobs["vocab_size"]) / len(ids)
    rarity = torch.from_numpy(1e-3 / (1e-3 + share)).float().to(device)
    rarity[: MASK + 1] = 0

    def encode(batch):
        return model.bert(input_ids=batch, attention_mask=(batch != PAD).long()).last_hidden_state

    def masked_loss(side, rng):
        batch = side.batch(rng, knobs["batch_tokens"]).to(device)
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
        return pair_loss(rng) if in_pairs else masked_loss(texts, rng)

    def held_out_loss():  # of what the run ends on; pairs are only a part of the way
        rng = np.random.default_rng(settings["seed"])
        return np.mean([masked_loss(held_out, rng)[0].item() for _ in range(HELD_OUT_BATCHES)])

    train(model, batch_loss, held_out_loss, settings, "encoder")
