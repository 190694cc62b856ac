"""The chat page (Chainlit): streams answers of the model server, stops them, keeps conversations. Runs in .venv-chat.

`make chat` starts it. What it needs to know stands in environment variables that helpers/serving/chat/start.py sets.
"""

import functools
import hmac
import os
from pathlib import Path

import chainlit as cl
import chainlit.socket
import openai
from chainlit.input_widget import Select, Slider, TextInput

from helpers.serving.chat.conversation import EMPTY, in_korean, in_turns, open_stream
from helpers.serving.chat.history import open_history

SERVER = os.environ["COURSE_SERVER_URL"]
TOKENS = int(os.environ["COURSE_DEFAULT_TOKENS"])
PASSWORD = os.environ.get("COURSE_CHAT_PASSWORD")
client = openai.AsyncOpenAI(base_url=f"{SERVER}/v1", api_key=os.environ.get("COURSE_API_KEY") or "none", timeout=180)

QUESTIONS = [
    "가을에 어울리는 인사말을 써 주세요.",
    "김치찌개를 맛있게 끓이는 방법은?",
    "비 오는 날 이야기를 짧게 들려주세요.",
]


class NoNotice(cl.Message):
    """The stop button's "Task manually stopped.": English in every language, and kept as if the model had said it."""

    async def send(self) -> "NoNotice":
        return self


chainlit.socket.Message = NoNotice  # there is no setting for it


@cl.data_layer
def history():
    return open_history(Path(os.environ["COURSE_CHAT_HISTORY"]))


if PASSWORD:

    @cl.password_auth_callback
    async def log_in(name: str, password: str) -> cl.User | None:
        return cl.User(name) if name and hmac.compare_digest(password.encode(), PASSWORD.encode()) else None

else:  # the page listens on this machine only, and whoever sits at it is the one user

    @cl.header_auth_callback
    async def at_home(_) -> cl.User:
        return cl.User("나")


@cl.set_starters
async def starters() -> list[cl.Starter]:
    return [cl.Starter(label=question, message=question) for question in QUESTIONS]


@cl.on_chat_start
async def begin() -> None:
    cl.user_session.set("messages", [])
    await offer_settings({})


@cl.on_chat_resume
async def resume(thread: dict) -> None:
    """The conversation as the model has to see it again."""
    roles = {"user_message": "user", "assistant_message": "assistant"}
    said = [step for step in thread["steps"] if step["type"] in roles and step["output"] and not step["isError"]]
    messages = [{"role": roles[step["type"]], "content": step["output"]} for step in said]
    cl.user_session.set("messages", in_turns(messages))
    await offer_settings(cl.user_session.get("chat_settings") or {})


@cl.on_settings_update
async def use_settings(chosen: dict) -> None:
    cl.user_session.set("settings", chosen)


async def offer_settings(chosen: dict) -> None:
    """The settings panel, with the models that the server has right now and the longest answer that it allows."""
    try:
        cards = [model async for model in client.models.list()]
    except openai.OpenAIError as error:
        cards = []
        await cl.ErrorMessage(content=in_korean(error, SERVER)).send()
    names, longest = [card.id for card in cards], min((card.max_tokens for card in cards), default=TOKENS)
    default = names[-1] if names else ""  # adapters come after the base model, which has learned no answers
    warm = "높을수록 답이 다양해집니다"
    widgets = [
        Slider("temperature", "온도", min=0, max=2, step=0.1, initial=chosen.get("temperature", 0), tooltip=warm),
        Slider(
            "tokens", "최대 답변 길이(토큰)", min=1, max=longest, initial=min(chosen.get("tokens", TOKENS), longest)
        ),
        TextInput("system", "시스템 프롬프트", initial=chosen.get("system", ""), placeholder="예: 비서처럼 답하세요."),
    ]
    if names:
        initial = chosen["model"] if chosen.get("model") in names else default
        widgets.insert(0, Select("model", "모델", initial_value=initial, values=names))
    cl.user_session.set("settings", await cl.ChatSettings(widgets).send())


@cl.on_message
async def answer(question: cl.Message) -> None:
    messages = in_turns(cl.user_session.get("messages") or [])
    messages.append({"role": "user", "content": question.content})
    if not (cl.user_session.get("settings") or {}).get("model"):
        await offer_settings(cl.user_session.get("settings") or {})  # the server was away when the page was opened
    message = cl.Message(content="")
    try:
        await write(message, messages)
        if not message.content:
            await cl.ErrorMessage(content=EMPTY).send()
    except openai.OpenAIError as error:
        await cl.ErrorMessage(content=in_korean(error, SERVER)).send()
    finally:  # also when the stop button cancels this task: what was written stays, in the page and in the history
        if message.content:
            messages.append({"role": "assistant", "content": message.content})
            cl.user_session.set("messages", messages)
            await message.send()


async def write(message: cl.Message, messages: list[dict[str, str]]) -> None:
    """Stream one answer."""
    settings = cl.user_session.get("settings") or {}
    system = [{"role": "system", "content": settings["system"]}] if (settings.get("system") or "").strip() else []
    ask = functools.partial(
        client.chat.completions.create, model=settings.get("model", ""), stream=True,
        temperature=settings.get("temperature", 0), max_tokens=int(settings.get("tokens", TOKENS)),
    )  # fmt: skip
    async with await open_stream(ask, system, messages) as stream:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                await message.stream_token(chunk.choices[0].delta.content)
