"""Which token ids begin, end and fill up a sequence: asked once of each tokenizer, checked, never guessed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from helpers.course.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPARE_TOKENS = ("<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<|vision_pad|>", "<unk>", "[UNK]")
"""Tokens that no ordinary text needs; the first that a tokenizer holds becomes PAD where it has none of its own."""
MARK = "답답답"
DAY = date(2024, 7, 26)
"""What a chat template that asks for the date is told (Llama 3's own default): with today's, training and use would differ."""


def need_eos(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of EOS. Raises :class:`InputError` where there is none: a model could never learn to stop."""
    if tokenizer.eos_token_id is None:
        raise InputError(
            "this tokenizer has no EOS token, so an answer could never end",
            place="tokenizer.eos_token",
            hint="set tokenizer.eos_token to the token that ended documents in pretraining",
        )
    return tokenizer.eos_token_id


def bos_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that the tokenizer itself writes first (BOS), or None for those that write none, such as Qwen's.

    A tokenizer may *have* a BOS token that its model never saw in front; what counts is what pretraining did.
    """
    first = tokenizer("가").input_ids[:1]
    return tokenizer.bos_token_id if first == [tokenizer.bos_token_id] else None


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of PAD, never that of EOS or BOS; sets ``tokenizer.pad_token`` where it was missing or one of those.

    With PAD = EOS a collator that masks PAD masks every EOS too, and the model never learns to stop. Raises
    :class:`InputError` where the tokenizer has no spare token.
    """
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in taken:
        return tokenizer.pad_token_id
    vocabulary = tokenizer.get_vocab()
    for token in SPARE_TOKENS:
        if token in vocabulary and vocabulary[token] not in taken:
            tokenizer.pad_token = token
            return vocabulary[token]
    raise InputError(
        "this tokenizer has no token that could be PAD and is not EOS",
        place="tokenizer.pad_token",
        given=tokenizer.pad_token,
        allowed=list(SPARE_TOKENS),
        hint="choose a token of its vocabulary that no text needs: tokenizer.pad_token = ...",
    )


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Id and text of every special token. ``all_special_tokens`` leaves out those that were added with ``special=True``."""
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return named | {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]], **options: bool) -> str:
    """A conversation in the words of the chat template. Raises :class:`InputError` where the template refuses it."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, strftime_now=DAY.strftime, **options)
    except TemplateError as error:  # Mistral's and Gemma's take no system message
        raise InputError(
            f"the model's chat template refuses this conversation: {error}",
            place="messages",
            given=", ".join(message["role"] for message in messages),
            hint="leave out the system message, or put its text into the first question",
        ) from error


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which the chat template ends an answer (``<|im_end|>``), None where it writes none."""
    messages = [{"role": "user", "content": "가"}, {"role": "assistant", "content": MARK}]
    after = tokenizer(rendered(tokenizer, messages).rpartition(MARK)[2], add_special_tokens=False).input_ids
    special = special_tokens(tokenizer)
    return next((token for token in after if token in special), None)
