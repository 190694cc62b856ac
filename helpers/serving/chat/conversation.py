"""A conversation of the chat page: its turns, what of it fits into the model, and errors in Korean. Knows no Chainlit."""

from collections.abc import Awaitable, Callable
from typing import Any

import openai

TOO_LONG = ("context_length_exceeded", "too_large", "too_long")
"""The server's codes for too many tokens, too many bytes and too many messages."""
EMPTY = "모델이 아무것도 쓰지 않고 답변을 끝냈습니다. 질문을 바꾸거나 설정에서 온도를 높여 보세요."
Messages = list[dict[str, str]]


async def open_stream(ask: Callable[..., Awaitable[Any]], system: Messages, messages: Messages) -> Any:
    """What ``ask(messages=...)`` gives. Where the conversation is too long for the server, its oldest turns are left out.

    Each time a sixteenth of them, one at least: a long conversation is not sent a hundred times.
    Raises :class:`openai.APIStatusError` where the last message alone is too long, or for any other reason.
    """
    while True:
        try:
            return await ask(messages=system + messages)
        except openai.APIStatusError as error:
            if error.code not in TOO_LONG or len(messages) <= 1:
                raise
            messages = messages[2 * max(1, len(messages) // 32) :]


def in_turns(messages: Messages) -> Messages:
    """User and assistant in turn, assistant last: a question that never got its answer is left out."""
    turns: Messages = []
    for message in messages:
        expected = "assistant" if len(turns) % 2 else "user"
        if message["role"] == expected:
            turns.append(message)
        elif message["role"] == "user":
            turns[-1] = message
    return turns[: len(turns) // 2 * 2]


def in_korean(error: openai.OpenAIError, server: str) -> str:
    """What went wrong, and what one can do."""
    if isinstance(error, openai.APITimeoutError):
        return "모델 서버가 제때 답하지 않았습니다. 잠시 뒤에 다시 시도하세요."
    if isinstance(error, openai.APIConnectionError):
        return f"모델 서버({server})에 연결할 수 없습니다. 다른 터미널에서 `make serve`를 실행했는지 확인하세요."
    if isinstance(error, openai.AuthenticationError):
        return "API 키가 없거나 틀렸습니다. 서버와 같은 COURSE_API_KEY로 대화 페이지를 다시 실행하세요."
    if isinstance(error, openai.RateLimitError):
        return "지금은 요청이 너무 많습니다. 잠시 뒤에 다시 보내 주세요."
    if isinstance(error, openai.APIError) and error.code in TOO_LONG:
        return "보내신 글이 모델이 한 번에 읽을 수 있는 것보다 깁니다. 글을 줄여서 다시 보내 주세요."
    if isinstance(error, openai.BadRequestError | openai.NotFoundError):
        body = error.body if isinstance(error.body, dict) else {}  # text where another server answers
        return f"서버가 이 요청을 받지 않았습니다: {body.get('message', error.message)}"
    return "답변을 쓰는 도중에 모델이 멈췄습니다. 잠시 뒤에 다시 시도하세요."
