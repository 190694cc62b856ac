"""A look at a model's answers while tuning: side by side with the base, streamed, and counted. Token ids in, ids out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from helpers.instruct.generation import generate_ids, greedy
from helpers.instruct.prompts import Prompt
from helpers.instruct.rows import Row

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Answer:
    """One generated answer, and whether it ended by itself (with EOS) before the limit of length."""

    text: str
    ended: bool


@contextlib.contextmanager
def answering(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode with its cache of keys and values on, and afterwards as it was."""
    training, cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.config.use_cache = cache
        model.train(training)


def answers(
    model: PreTrainedModel, prompt: Prompt, rows: Sequence[Row], *, max_new_tokens: int = 32, batch_size: int = 16
) -> list[Answer]:
    """Greedy answers to rows, in their order."""
    questions = [prompt.prompt_ids(row["instruction"], row["input"]) for row in rows]
    with answering(model):
        written = generate_ids(model, prompt, questions, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return [Answer(prompt.answer_text(ids), prompt.ended(ids)) for ids in written]


def stream(model: PreTrainedModel, prompt: Prompt, instruction: str, input: str = "", **changes: object) -> str:
    """Print an answer token by token, as it comes (transformers' ``TextStreamer``), and return it.

    ``changes``: ``system=...`` and any argument of ``generate``.
    """
    from transformers import TextStreamer

    ids = prompt.prompt_ids(instruction, input, changes.pop("system", None))
    question = torch.tensor([ids], device=model.device)
    streamer = TextStreamer(prompt.tokenizer, skip_prompt=True, skip_special_tokens=True)
    told = greedy(prompt, 64) | changes
    with answering(model):
        out = model.generate(input_ids=question, attention_mask=torch.ones_like(question), streamer=streamer, **told)
    return prompt.answer_text(out[0, len(ids) :])


def side_by_side(rows: Sequence[Row], **by_model: Sequence[Answer]) -> pd.DataFrame:
    """A table to look at: the text asked about, wanted answer, one column a model; ``…``: it did not end by itself."""
    columns = {
        "question": [(row["input"] or row["instruction"]).strip()[:70] for row in rows],
        "wanted": [row["output"][:60] for row in rows],
    }
    for name, given in by_model.items():
        columns[name] = [one.text[:60] + ("" if one.ended else " …") for one in given]
    return pd.DataFrame(columns)
