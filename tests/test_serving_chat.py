"""The chat page over the real model server, in a real browser: stream, stop, settings, and a history that survives."""

import sqlite3
import sys
import time

import pytest

from helpers.course.errors import InputError
from helpers.serving.background import background, free_port, model_server
from helpers.serving.chat.start import CHAINLIT, chat_command
from helpers.serving.settings import ServingSettings
from tests.browser import open_browser
from tests.serving import ONE_THREAD, SMALL

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHAINLIT.exists(), reason="`make chat-env` makes Chainlit's environment"),
]
QUESTION = "가을에 어울리는 인사말을 한 문장으로 써 주세요."
SECOND = "바닷가 마을의 옛날이야기를 들려주세요."


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    options = SMALL | {"repetition_penalty": 1.3, "max_prompt_tokens": 200, "max_tokens": 800, "default_tokens": 600}
    with model_server(folder / "server.log", environment=ONE_THREAD, **options) as server:
        chat = {"port": int(server.url.rpartition(":")[2]), "chat_port": free_port(), "max_tokens": 800}
        chat |= {"default_tokens": 600, "chat_history": str(folder / "history.sqlite")}
        pairs = [part for name, value in chat.items() for part in ("-p", name, str(value))]
        command = [sys.executable, "-m", "helpers.serving.chat.start", *pairs]
        with background(command, f"http://127.0.0.1:{chat['chat_port']}", "/", folder / "chat.log", 300, None) as page:
            page.history = folder / "history.sqlite"
            yield server, page


def say(page, text):
    page.locator("#chat-input").click()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def last_answer(page):
    answers = page.locator(".ai-message")
    return answers.last.inner_text().strip() if answers.count() else ""


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)
    return value


def test_a_question_is_answered_stopped_and_remembered(servers):
    server, chat = servers
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-US")
        page.goto(chat.url)
        page.wait_for_selector("#chat-input", timeout=60_000)
        assert "메시지를" in page.locator("#chat-input").get_attribute(
            "data-placeholder"
        ) or "중요한 정보" in page.inner_text("body")

        say(page, QUESTION)
        seen = {wait_for(lambda: last_answer(page))}  # the answer grows: that is what streaming means
        wait_for(lambda: seen.add(last_answer(page)) or len(seen) >= 3)
        assert server.health()["running"] == 1
        page.locator("#stop-button").click()
        wait_for(lambda: server.health()["running"] == 0, 15)  # the engine stopped too, not only the page
        stopped = wait_for(lambda: last_answer(page))
        assert "/thread/" in wait_for(lambda: "/thread/" in page.url and page.url)

        page.reload()
        page.wait_for_selector(".ai-message", timeout=60_000)
        text = page.inner_text("body")
        assert QUESTION in text and last_answer(page) == stopped

        page.locator("#chat-settings-open-modal").click()
        panel = page.get_by_role("dialog")
        assert {"모델", "온도", "시스템 프롬프트"} <= set(panel.inner_text().splitlines())
        panel.locator("#system").fill("바닷가 이야기꾼처럼 답하세요.")
        panel.locator("#confirm").click()
        page.wait_for_selector("#chat-settings-open-modal", timeout=10_000)
        say(page, SECOND)
        wait_for(lambda: page.locator(".ai-message").count() == 2)
        with sqlite3.connect(chat.history) as database:
            rows = wait_for(lambda: database.execute("select metadata from threads").fetchall())
        assert len(rows) == 1
        page.close()


def test_an_absent_server_is_said_in_korean(servers, tmp_path):
    port, nobody = free_port(), free_port()
    pairs = ["-p", "port", str(nobody), "-p", "chat_port", str(port), "-p", "chat_history", str(tmp_path / "h.sqlite")]
    command = [sys.executable, "-m", "helpers.serving.chat.start", *pairs]
    with (
        background(command, f"http://127.0.0.1:{port}", "/", tmp_path / "chat.log", 300, None) as chat,
        open_browser() as browser,
    ):
        page = browser.new_page()
        page.goto(chat.url)
        page.wait_for_selector("#chat-input", timeout=60_000)
        say(page, "거기 누구 있나요?")
        wait_for(lambda: "make serve" in page.inner_text("body"))


def test_a_page_that_others_reach_needs_a_password(tmp_path, monkeypatch):
    settings = ServingSettings.load(chat_host="0.0.0.0", chat_history=tmp_path / "h.sqlite")
    monkeypatch.delenv("COURSE_CHAT_PASSWORD", raising=False)
    with pytest.raises(InputError, match="COURSE_CHAT_PASSWORD"):
        chat_command(settings)
    monkeypatch.setenv("COURSE_CHAT_PASSWORD", "열려라")
    assert "0.0.0.0" in chat_command(settings)[0]
