"""The encoder before its first step: BERT that starts as a bag of word vectors."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from arrays import read_arrays
from recipe import PAD
from tokenizers import Tokenizer
from transformers import BertConfig, BertForMaskedLM


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
