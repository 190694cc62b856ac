"""The chat page over the real model server, in a real browser: stream, stop, settings, and a history that survives."""

import asyncio
import functools
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import httpx
import openai
import pytest

from helpers.course.errors import InputError
from helpers.course.launch import free_port
from helpers.serving.background import background, model_server
from helpers.serving.chat.conversation import EMPTY, in_korean, open_stream
from helpers.serving.chat.start import CHAINLIT, chat_command
from helpers.serving.settings import ServingSettings
from tests.browser import open_browser
from tests.serving import ONE_THREAD, QUESTIONS, SMALL, expected, loud_adapter, reference

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHAINLIT.exists(), reason="`make chat-env` makes Chainlit's environment"),
]
SECOND = "바닷가 마을의 옛날이야기를 들려주세요."


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    options = SMALL | {"max_prompt_tokens": 200, "max_tokens": 800, "default_tokens": 600}
    with (
        model_server(folder / "server.log", environment=ONE_THREAD, **options) as server,
        # The page's own limit is above the server's: it must ask the server, or every question is refused.
        chat_page(folder, server.url, max_tokens=2000, default_tokens=1500) as page,
    ):
        yield server, page


@contextmanager
def chat_page(folder, server_url, **settings):
    """The page's own process, over the model server at this address."""
    history = folder / "history.sqlite"
    chat = {"port": server_url.rpartition(":")[2], "chat_port": free_port(), "chat_history": history} | settings
    pairs = [part for name, value in chat.items() for part in ("-p", name, str(value))]
    command = [sys.executable, "-m", "helpers.serving.chat.start", *pairs]
    with background(command, f"http://127.0.0.1:{chat['chat_port']}", "/", folder / "chat.log", 300, None) as page:
        page.history = history
        yield page


@contextmanager
def recorded(server_url):
    """An address that passes everything on to the server, and the bodies of the questions that came by."""
    bodies = []

    class Between(BaseHTTPRequestHandler):
        def do_GET(self):
            self.pass_on(None)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(json.loads(body))
            self.pass_on(body)

        def pass_on(self, body):
            asked = Request(server_url + self.path, body, {"Content-Type": "application/json"})
            with urlopen(asked, timeout=60) as answer:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
                self.wfile.write(answer.read())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Between) as between:
        threading.Thread(target=between.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{between.server_port}", bodies
        finally:
            between.shutdown()


def long_question():
    """A question to which the model, whatever its weights, has more than a word to say."""
    return max(QUESTIONS[:10], key=lambda text: len(expected(text, 24)))


def say(page, text):
    """Type and send; again where the page, not yet connected to its server, took the letters or the Enter for nothing."""
    box, said = page.locator("#chat-input"), page.locator('[data-step-type="user_message"]')
    before, end = said.count(), time.monotonic() + 120
    while said.count() == before:
        assert time.monotonic() < end, "the page does not take the message"
        if text not in box.evaluate("box => box.value ?? box.innerText"):
            box.click()
            page.keyboard.type(text)
        page.keyboard.press("Enter")
        for _ in range(50):
            if said.count() == before:
                page.wait_for_timeout(200)


def last_answer(page):
    answers = page.locator(".ai-message")
    return answers.last.inner_text().strip() if answers.count() else ""


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return value


@contextmanager
def frozen(server):
    """The engine stands still inside the block; the value lets it run for some seconds: no machine is too fast to watch."""
    pid = server.health()["engine_pid"]

    def thaw(seconds):
        os.kill(pid, signal.SIGCONT)
        time.sleep(seconds)
        os.kill(pid, signal.SIGSTOP)

    os.kill(pid, signal.SIGSTOP)
    try:
        yield thaw
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_question_is_answered_stopped_and_remembered(servers):
    server, chat = servers
    question = long_question()
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-US")
        page.goto(chat.url)
        page.wait_for_selector("#chat-input", timeout=120_000)
        assert "메시지를" in page.locator("#chat-input").get_attribute(
            "placeholder"
        )  # Korean, whatever the browser's own

        with frozen(server) as thaw:
            say(page, question)
            wait_for(lambda: server.health()["running"] == 1)
            seen, slice = [], 0.03
            while len(seen) < 3:  # the answer grows: that is what streaming means
                assert server.health()["running"] == 1 and slice < 60, seen
                thaw(slice)
                page.wait_for_timeout(300)
                text = last_answer(page)
                if text in ("", *seen):
                    slice *= 1.5  # a slow machine
                else:
                    seen.append(text)
            page.locator("#stop-button").click()
            wait_for(lambda: server.health()["running"] == 0)  # the engine's work is called off, not only the page's
        page.wait_for_selector("#stop-button", state="detached", timeout=60_000)
        stopped = last_answer(page)
        assert stopped.startswith(seen[-1][:2]) and page.locator(".ai-message").count() == 1
        wait_for(lambda: "/thread/" in page.url)

        page.reload()
        page.wait_for_selector(".ai-message", timeout=120_000)
        wait_for(lambda: question in page.inner_text("body"))
        assert last_answer(page) == stopped

        page.locator("#chat-settings-open-modal").click()
        panel = page.get_by_role("dialog")
        panel.locator("#system").wait_for(timeout=60_000)
        assert {"모델", "온도", "시스템 프롬프트"} <= set(panel.inner_text().splitlines())
        panel.locator("#system").fill("바닷가 이야기꾼처럼 답하세요.")
        panel.locator("#confirm").click()
        panel.wait_for(state="detached", timeout=60_000)
        before = prompt_tokens(server)
        say(page, SECOND)
        wait_for(
            lambda: (
                page.get_by_text(SECOND).count() and server.health()["running"] == 0 and prompt_tokens(server) > before
            )
        )
        read = reference()[0].message_ids(
            [{"role": "system", "content": "바닷가 이야기꾼처럼 답하세요."}, {"role": "user", "content": question}]
        )
        assert prompt_tokens(server) - before > len(read)  # the system prompt and the turn before were read again
        with sqlite3.connect(chat.history) as database:
            assert len(database.execute("select id from threads").fetchall()) == 1


def test_what_is_chosen_in_the_panel_is_what_the_model_server_is_asked(tmp_path):
    adapters = {"loud.v1": str(loud_adapter(tmp_path / "loud"))}
    options = SMALL | {"max_prompt_tokens": 200, "max_tokens": 16, "default_tokens": 8, "adapters": adapters}
    with (
        model_server(tmp_path / "server.log", environment=ONE_THREAD, **options) as server,
        recorded(server.url) as (between, asked),
        chat_page(tmp_path, between, default_tokens=8) as chat,
        open_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-US")
        page.goto(chat.url)
        page.wait_for_selector("#chat-input", timeout=120_000)
        say(page, QUESTIONS[0])
        wait_for(lambda: metric(server, 'course_answer_tokens_total{model="loud.v1"}'))
        page.wait_for_selector("#stop-button", state="detached", timeout=60_000)
        [unasked] = asked
        assert (unasked["model"], unasked["temperature"], unasked["max_tokens"]) == ("loud.v1", 0, 8)

        page.locator("#chat-settings-open-modal").click()
        panel = page.get_by_role("dialog")
        panel.locator("#model").click()
        page.get_by_role("option", name="ko-mini", exact=True).click()
        for slider, key, times in (("#temperature", "ArrowRight", 7), ("#tokens", "ArrowLeft", 3)):
            for _ in range(times):
                panel.locator(slider).get_by_role("slider").press(key)
        panel.locator("#confirm").click()
        panel.wait_for(state="detached", timeout=60_000)
        assert metric(server, 'course_answer_tokens_total{model="ko-mini"}') == 0
        say(page, QUESTIONS[1])
        wait_for(lambda: metric(server, 'course_answer_tokens_total{model="ko-mini"}'))
        [chosen] = asked[1:]
        assert (chosen["model"], chosen["temperature"], chosen["max_tokens"]) == ("ko-mini", pytest.approx(0.7), 5)
        assert chosen["messages"][-1] == {"role": "user", "content": QUESTIONS[1]}


def prompt_tokens(server):
    return metric(server, "course_prompt_tokens_total")


def metric(server, name):
    """The value of a counter; 0 where it has not begun to count."""
    lines = server.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


class Speechless(BaseHTTPRequestHandler):
    """A model server whose one model ends every answer before its first word."""

    def do_GET(self):
        self.answer({"object": "list", "data": [{"id": "m", "object": "model", "max_tokens": 8}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        delta = {"role": "assistant", "content": ""}
        self.answer({"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}, stream=True)

    def answer(self, body, stream=False):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        self.end_headers()
        text = json.dumps(body)
        self.wfile.write((f"data: {text}\n\ndata: [DONE]\n\n" if stream else text).encode())

    def log_message(self, *_):
        pass


def test_an_absent_server_and_an_empty_answer_are_said_in_korean(tmp_path):
    port = free_port()
    with chat_page(tmp_path, f"http://127.0.0.1:{port}") as chat, open_browser() as browser:
        page = browser.new_page()
        page.goto(chat.url)
        page.wait_for_selector("#chat-input", timeout=120_000)
        say(page, "거기 누구 있나요?")
        wait_for(lambda: "make serve" in page.inner_text("body"))
        with ThreadingHTTPServer(("127.0.0.1", port), Speechless) as server:  # it comes, and the page finds it
            threading.Thread(target=server.serve_forever).start()
            try:
                say(page, "이제는요?")
                wait_for(lambda: EMPTY in page.inner_text("body"))
            finally:
                server.shutdown()


def turns(count, text):
    messages = [{"role": role, "content": text} for _ in range(count) for role in ("user", "assistant")]
    return [*messages, {"role": "user", "content": "안녕"}]


def stream_of(server, messages):
    client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    async def read():
        ask = functools.partial(client.chat.completions.create, model="ko-mini", stream=True, max_tokens=2)
        async with client, await open_stream(ask, [], messages) as stream:
            return [chunk async for chunk in stream]

    return asyncio.run(read())


@pytest.mark.parametrize(
    "count, text", [(66, "긴 대화 " * 40), (300, "네")], ids=["too many bytes", "too many messages"]
)
def test_a_conversation_that_grew_too_long_goes_on(servers, count, text):
    assert stream_of(servers[0], turns(count, text))


def test_one_text_that_is_too_long_is_said_to_be(servers):
    for text in ("가" * 25_000, "가 " * 900):
        with pytest.raises(openai.APIStatusError) as refusal:
            stream_of(servers[0], [*turns(3, "네")[:-1], {"role": "user", "content": text}])
        assert "글을 줄여서" in in_korean(refusal.value, servers[0].url)


def test_another_servers_page_is_a_refusal():
    answer = httpx.Response(404, request=httpx.Request("POST", "http://127.0.0.1:1/v1/chat/completions"))
    for body in ("<h1>Not Found</h1>", None):
        error = openai.NotFoundError("Error code: 404", response=answer, body=body)
        assert "받지 않았습니다: Error code: 404" in in_korean(error, "http://127.0.0.1:1")


def test_a_page_that_others_reach_needs_a_password(tmp_path, monkeypatch):
    settings = ServingSettings.load(chat_host="0.0.0.0", chat_history=tmp_path / "h.sqlite")
    monkeypatch.delenv("COURSE_CHAT_PASSWORD", raising=False)
    with pytest.raises(InputError, match="COURSE_CHAT_PASSWORD"):
        chat_command(settings)
    monkeypatch.setenv("COURSE_CHAT_PASSWORD", "열려라")
    assert "0.0.0.0" in chat_command(settings)[0]
