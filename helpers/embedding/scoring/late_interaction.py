"""Late interaction: a vector for every token in place of one for every text.

Each token of the query looks for the token of the document that is most like it, and the score is the mean of these cosines,
weighted where the model has weights for its pieces: Khattab and Zaharia, ColBERT, arXiv 2004.12832, whose sum over the
query's tokens this is but for the scale. A rare word is not lost in a mean; it costs a vector a token to store.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from helpers.course.errors import InputError
from helpers.embedding.encoder import Encoder
from helpers.embedding.losses import at_least_float32
from helpers.embedding.scoring.runs import TOP, scored_run


def late_interaction_run(
    encoder: Encoder, queries: Mapping[str, str], documents: Mapping[str, str], top: int = TOP
) -> dict[str, dict[str, float]]:
    """The ``top`` documents of each query by :func:`late_interaction`, each side with its prompt, where it has one.

    Raises InputError for a score that is not finite, by the ids.
    """
    prompts = [name if name in encoder.prompts else None for name in ("query", "document")]
    scores = late_interaction(encoder, list(queries.values()), list(documents.values()), *prompts)
    if not scores.isfinite().all():
        row, column = (~scores.isfinite()).nonzero()[0].tolist()
        raise InputError(
            "a score of late interaction is not finite (NaN or infinite)",
            place=f"query {[*queries][row]}, document {[*documents][column]}",
            hint="did the training diverge? lower the learning rate",
        )
    return scored_run(list(queries), list(documents), scores.cpu().numpy(), top)


@torch.inference_mode()
def late_interaction(
    encoder: Encoder,
    queries: Sequence[str],
    documents: Sequence[str],
    query_prompt: str | None = None,
    document_prompt: str | None = None,
) -> Tensor:
    """Scores (Q, D), -1 to 1: the weighted mean over a query's tokens of their highest cosine with one of the document's.

    Documents are read chunk by chunk, and their token vectors are not kept.
    """
    was_training = encoder.training
    encoder.eval()
    try:
        asked, told = encoder.tokenize(queries, query_prompt), encoder.tokenize(documents, document_prompt)
        read = [(rows, *_token_vectors(encoder, asked, rows)) for rows in encoder.chunks(asked)]
        scores = torch.empty(len(queries), len(documents), device=encoder.device)
        for columns in encoder.chunks(told):
            theirs, real = _token_vectors(encoder, told, columns)  # (D, M, H), (D, M)
            for rows, vectors, weights in read:  # (Q, L, H), (Q, L)
                cosines = torch.einsum("qlh,dmh->qldm", vectors, theirs)
                best = cosines.masked_fill_(real == 0, -torch.inf).amax(-1)  # (Q, L, D)
                found = torch.einsum("qld,ql->qd", best, weights / weights.sum(1, keepdim=True))
                scores[torch.tensor(rows)[:, None], torch.tensor(columns)] = found
    finally:
        encoder.train(was_training)
    return scores


def _token_vectors(encoder: Encoder, tokens: Sequence[Sequence[int]], rows: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Unit vectors (B, L, H) and weights (B, L), 0 on padding, of the token lists of these rows."""
    ids, mask = encoder.pad([tokens[row] for row in rows])
    hidden = at_least_float32(encoder.model(input_ids=ids, attention_mask=mask)[0])
    weights = mask.to(hidden.dtype) if encoder.piece_weights is None else mask * encoder.piece_weights(ids)
    return F.normalize(hidden, dim=-1), weights
