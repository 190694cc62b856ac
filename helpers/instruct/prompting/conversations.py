"""A conversation as the course takes it: a system message if wanted, then user and assistant in turn, user last."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from helpers.course.errors import InputError

ROLES = ("system", "user", "assistant")


def clean(text: str) -> str:
    """NFC without outer white space: two spellings that look alike become equal."""
    return unicodedata.normalize("NFC", text).strip()


def joined(*texts: str) -> str:
    """Parts of a question, a blank line between them, empty parts left out."""
    return "\n\n".join(part for part in map(clean, texts) if part)


def turns_of(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, list[str]]:
    """The system text, None where there is none, and the contents in turn: question, answer, ..., question.

    Raises :class:`InputError` for other roles or another order, and for an empty question.
    """
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise InputError(
                "this message cannot be used",
                place=f"message {number}",
                given=dict(message),
                allowed='{"role": "system", "user" or "assistant", "content": a text}',
            )
    system = None
    if messages and messages[0]["role"] == "system":
        system, messages = clean(messages[0]["content"]), messages[1:]
    roles = [message["role"] for message in messages]
    if len(roles) % 2 == 0 or roles != [ROLES[1 + number % 2] for number in range(len(roles))]:
        raise InputError(
            "the messages are not in turn",
            place="messages",
            given=", ".join(map(str, roles)) or "no user message",
            allowed="a system message if wanted, then user, assistant, user, ... with user last",
        )
    texts = [clean(message["content"]) for message in messages]
    if empty := [number for number, text in enumerate(texts[::2]) if not text]:  # an answer may have ended at once
        raise InputError("a message is empty", place=f"user message, turn {2 * empty[0] + 1}", given="")
    return system, texts
