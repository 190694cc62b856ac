"""The model server as its clients see it: a real process, the official openai client, every limit, every way to end."""

import asyncio
import contextlib
import errno
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from helpers.course.errors import InputError
from helpers.course.launch import free_port
from helpers.course.paths import REPOSITORY
from helpers.instruct.exporting.settings import ExportSettings
from helpers.instruct.sft.settings import InstructionSettings
from helpers.serving.answers import _sampling, take_order, whole
from helpers.serving.background import model_server
from helpers.serving.engine import Engine, EngineProcess
from helpers.serving.errors import ApiError
from helpers.serving.jobs import Job, Refused, Tokens, Unfinished
from helpers.serving.load import Failed, put_load, read_answer
from helpers.serving.metrics import Metrics
from helpers.serving.request_schema import ChatRequest, CompletionRequest
from helpers.serving.serve import main
from helpers.serving.served import Served, with_tuned_adapter
from helpers.serving.settings import ServingSettings
from helpers.serving.wire import packed
from tests.serving import BEGINNINGS, ONE_THREAD, QUESTIONS, SMALL, ask, client, expected, loud_adapter, reference

CHAT = REPOSITORY / ".venv-chat/bin"
LIMITS = {"max_prompt_tokens": 200, "max_tokens": 800, "default_tokens": 12, "max_body_kb": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    adapters = {"loud.v1": str(loud_adapter(folder / "loud"))}
    with model_server(folder / "log", environment=ONE_THREAD, adapters=adapters, **SMALL, **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """One request at a time, little patience, a key."""
    limits = LIMITS | {"max_requests": 1, "request_seconds": 1.5, "body_seconds": 1, "shutdown_seconds": 1}
    limits["max_restarts"] = 1
    environment = ONE_THREAD | {"COURSE_API_KEY": "비밀-열쇠".encode().hex()}
    with model_server(tmp_path_factory.mktemp("strict") / "log", environment=environment, **SMALL, **limits) as running:
        running.key = environment["COURSE_API_KEY"]
        yield running


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


def raw(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    connection.request(method, path, body, headers or {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def long_stream(server, **given):
    """A stream that goes on for seconds whatever the weights say, its first event already read."""
    key = getattr(server, "key", "none")
    options = {"max_tokens": 800, "extra_body": {"ignore_eos": True, "repetition_penalty": 1.5}} | given
    stream = client(server, key).chat.completions.create(
        model="ko-mini", messages=ask("옛날이야기"), stream=True, **options
    )
    next(iter(stream))
    return stream


def test_an_answer_is_what_generate_gives(server):
    answer = client(server).chat.completions.create(model="ko-mini", messages=ask(QUESTIONS[0]), max_tokens=16)
    assert answer.choices[0].message.content == expected(QUESTIONS[0], 16)
    assert answer.usage.prompt_tokens == len(reference()[0].prompt_ids(QUESTIONS[0]))
    assert answer.usage.completion_tokens <= 16 and answer.choices[0].finish_reason in ("stop", "length")
    assert expected(QUESTIONS[0], 16) != expected(QUESTIONS[0], 4)


def test_a_stream_is_the_same_answer_in_parts(server):
    options = dict(model="ko-mini", messages=ask(QUESTIONS[3]), max_tokens=24, stream=True)
    chunks = list(client(server).chat.completions.create(**options, stream_options={"include_usage": True}))
    texts = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
    assert "".join(texts) == expected(QUESTIONS[3], 24) and len(texts) > 3
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-2].choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens >= len(texts) - 1 and len({chunk.id for chunk in chunks}) == 1


def test_completions_take_text_or_ids(server):
    prompt, _ = reference()
    ask_for = client(server).completions.create
    by_ids = ask_for(model="ko-mini", prompt=prompt.prompt_ids(QUESTIONS[1]), max_tokens=12)
    assert by_ids.choices[0].text.strip() == expected(QUESTIONS[1], 12)
    text = "대한민국의 수도는"
    assert ask_for(model="ko-mini", prompt=text, max_tokens=8).choices[0].text == expected(text, 8, raw=True)
    assert expected(text, 8, raw=True).startswith(" ")
    ids = [prompt.bos_id, *prompt.tokenizer(text, add_special_tokens=False).input_ids]
    assert ask_for(model="ko-mini", prompt=text).choices == ask_for(model="ko-mini", prompt=ids).choices
    for alone in (text, ids):
        assert ask_for(model="ko-mini", prompt=[alone]).choices == ask_for(model="ko-mini", prompt=text).choices
    parts = list(ask_for(model="ko-mini", prompt=text, stream=True))
    assert "".join(part.choices[0].text for part in parts) == ask_for(model="ko-mini", prompt=text).choices[0].text


def told_apart(parts):
    """The texts of a stream's choices by their index, and each one's last finish reason."""
    texts, ends = {}, {}
    for choice in (choice for part in parts for choice in part.choices):
        assert ends.get(choice.index) is None  # nothing comes after the end
        texts[choice.index] = texts.get(choice.index, "") + choice.text
        ends[choice.index] = choice.finish_reason
    assert set(ends.values()) <= {"stop", "length"}
    return [texts[index] for index in sorted(texts)]


def test_a_list_of_prompts_gets_a_choice_each(server):
    """Texts or lists of ids, streamed or not; more of them than the batch holds, from several clients at once."""
    prompt, _ = reference()
    create = client(server).completions.create
    known = {text: expected(text, 8, raw=True) for text in BEGINNINGS}
    ids = {text: [prompt.bos_id, *prompt.tokenizer(text, add_special_tokens=False).input_ids] for text in BEGINNINGS}

    def answers(first):
        texts = [BEGINNINGS[(first + 3 * step) % len(BEGINNINGS)] for step in range(10)]
        options = dict(model="ko-mini", prompt=[ids[text] for text in texts] if first % 2 else texts, max_tokens=8)
        whole = create(**options)
        *parts, last = create(**options, stream=True, stream_options={"include_usage": True})
        assert [choice.index for choice in whole.choices] == list(range(10)) and last.usage == whole.usage
        assert whole.usage.prompt_tokens == sum(len(ids[text]) for text in texts)
        assert whole.usage.total_tokens - whole.usage.prompt_tokens == whole.usage.completion_tokens <= 80
        assert len({part.id for part in parts}) == 1 and len({part.choices[0].index for part in parts[:10]}) > 1
        return texts, [choice.text for choice in whole.choices], told_apart(parts)

    with ThreadPoolExecutor(4) as pool:
        for texts, whole, streamed in pool.map(answers, range(4)):
            assert whole == streamed == [known[text] for text in texts]
    assert len(set(known.values())) >= 5


def test_a_stop_text_ends_one_answer_of_a_list(server):
    texts = BEGINNINGS[:6]
    whole = [expected(text, 16, raw=True) for text in texts]
    stop = next(part for part in whole[0][len(whole[0]) // 2 :] if any(part not in other for other in whole))
    choices = client(server).completions.create(model="ko-mini", prompt=texts, max_tokens=16, stop=stop).choices
    assert [choice.text for choice in choices] == [text.partition(stop)[0] for text in whole]
    assert choices[0].finish_reason == "stop" and stop not in choices[0].text


def test_every_prompt_of_a_list_counts(server):
    def refused(prompts, status):
        got, text, _ = raw(server, "POST", "/v1/completions", json.dumps({"model": "ko-mini", "prompt": prompts}))
        assert got == status
        return json.loads(text)["error"]["message"]

    assert refused(["가"] * 65, 400) == "the request has 65 prompts; allowed: 1 to 64"
    assert "at least 1 item" in refused([], 400)
    refused(["가", [5]], 400)
    assert "the prompt has" in refused(["가", "가 " * 900], 400)
    create = client(server).completions.create
    stream = create(model="ko-mini", prompt=["옛날"] * 3, max_tokens=800, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    assert server.health()["running"] == 3
    assert "64 requests at once, each prompt of a list counted" in refused(["가"] * 62, 429)
    stream.response.close()
    wait_for(lambda: server.health()["running"] == 0, 3)


def test_who_leaves_calls_off_every_job_that_is_not_done():
    """The engine's side of it: a job that is done, or was stopped alone, is not called off again."""
    engine = EngineProcess.__new__(EngineProcess)  # without the process
    sent = []
    engine.alive, engine._answers, engine._send = True, {}, sent.append
    jobs = [Job(number, (4,), 9, ()) for number in range(4)]

    async def leave():
        async with contextlib.aclosing(engine.generate(jobs)) as parts:
            waiting = asyncio.ensure_future(anext(parts))
            await asyncio.sleep(0)
            engine._deliver([Tokens(0, (5,)), Tokens(1, (6,), "length")])
            assert [await waiting, await anext(parts)] == [Tokens(0, (5,)), Tokens(1, (6,), "length")]
            engine.stop(jobs[2])

    asyncio.run(leave())
    assert sent == [*jobs, 2, 0, 3] and not engine._answers


def test_an_engine_that_cannot_be_started_again_is_given_up(monkeypatch):
    def no_memory(_):
        raise OSError(errno.ENOMEM, "no memory")

    ends, said, given_up = socket.socketpair(), [], []
    monkeypatch.setattr("helpers.serving.engine.socket.socketpair", lambda: ends)
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", no_memory)
    monkeypatch.setattr("helpers.serving.engine.log.exception", said.append)
    again = Engine(ServingSettings.load(tuned=False), 1024, lambda: given_up.append(True))
    again._current = SimpleNamespace(process=SimpleNamespace(pid=1, exitcode=-9, join=lambda seconds: None))
    again._was_ready = True
    again._replace()
    assert given_up == [True] and "cannot be started" in said[0] and again.restarts == 0
    assert [end.fileno() for end in ends] == [-1, -1]


def test_an_engine_that_cannot_be_understood_is_dead(monkeypatch):
    """It is killed and replaced like one that died; what is sent to it from then on goes nowhere, also on uvloop."""
    import uvloop

    said, done = [], []
    monkeypatch.setattr("helpers.serving.engine.log.exception", lambda *words: said.append(words[0]))
    ours, theirs = socket.socketpair()
    engine = EngineProcess.__new__(EngineProcess)  # without the process
    engine.process = SimpleNamespace(pid=1, kill=lambda: done.append("killed"))
    engine.alive, engine._answers, engine._writer = True, {}, None
    engine._on_death = lambda: done.append("replaced")

    async def listen():
        engine.ready = asyncio.get_running_loop().create_future()
        theirs.sendall(packed(5))
        await engine._listen(ours)
        await asyncio.sleep(0)
        engine._send(None)

    with theirs:
        uvloop.run(asyncio.wait_for(listen(), 10))
    assert done == ["killed", "replaced"] and not engine.alive and "cannot be understood" in said[0]


def test_a_word_to_an_engine_that_is_gone_is_no_error():
    """The server closes an engine that it has given up; on uvloop its writer takes nothing any more."""
    import uvloop

    ours, theirs = socket.socketpair()
    engine = EngineProcess.__new__(EngineProcess)  # without the process
    engine.alive, engine._answers, engine._writer, engine._on_death = True, {}, None, lambda: None

    async def close():
        engine.ready = asyncio.get_running_loop().create_future()
        theirs.close()
        await engine._listen(ours)
        await asyncio.sleep(0)
        engine._send(None)

    uvloop.run(close())
    assert not engine.alive


def test_an_adapter_is_a_model_name(server):
    models = client(server).models
    assert [(card.id, card.parent) for card in models.list()] == [("ko-mini", None), ("loud.v1", "ko-mini")]
    assert models.retrieve("loud.v1").max_tokens == 800

    def answer(model):
        result = client(server).chat.completions.create(model=model, messages=ask(QUESTIONS[0]), max_tokens=16)
        assert result.model == model
        return result.choices[0].message.content

    with ThreadPoolExecutor(8) as pool:  # both in one batch
        answers = list(pool.map(answer, ["ko-mini", "loud.v1"] * 4))
    assert set(answers[::2]) == {expected(QUESTIONS[0], 16)} and len(set(answers[1::2])) == 1
    assert answers[0] != answers[1]


def test_a_seed_repeats_a_sampled_answer_and_stop_texts_end_it(server):
    create = client(server).chat.completions.create

    def text(**options):
        answer = create(model="ko-mini", messages=ask(QUESTIONS[2]), max_tokens=20, **options).choices[0]
        return answer.message.content, answer.finish_reason

    hot = dict(temperature=2.0, top_p=0.99)
    assert text(seed=1, **hot) == text(seed=1, **hot)
    assert len({text(seed=seed, **hot) for seed in range(4)}) > 1
    whole = expected(QUESTIONS[2], 20)
    middle = whole[len(whole) // 2]
    assert text(stop=middle) == (whole[: whole.index(middle)], "stop")


REFUSED = [
    ({"max_tokens": 801}, 400, "max_tokens is 801; allowed: 1 to 800"),
    ({"max_completion_tokens": 9999}, 400, "max_completion_tokens is 9,999"),
    ({"max_tokens": 0}, 400, "greater than or equal to 1"),
    ({"temperature": 2.5}, 400, "less than or equal to 2"),
    ({"n": 2}, 400, "1"),
    ({"seed": -1}, 400, "greater than or equal to 0"),
    ({"tools": [{}]}, 400, "tools: not offered here; allowed: model, max_tokens"),
    ({"logprobs": True}, 400, "logprobs: not offered here; allowed: model, max_tokens"),
    (
        {"messages": [*ask("안녕"), {"role": "user", "content": "네", "audio": {}}]},
        400,
        "messages.1.audio: not offered",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "messages.0.content.0.text: Field required"),
    ({"stop": 3}, 400, "stop: Input should be a valid string or Input should be a valid list"),
    ({"model": "없는 모델"}, 404, "ko-mini, loud.v1"),
    ({"messages": []}, 400, "at least 1"),
    ({"messages": ask("가 " * 900)}, 400, "200"),
    ({"messages": ask(" ")}, 400, "empty"),
    ({"messages": [{"role": "assistant", "content": "네"}]}, 400, "user last"),
    ({"messages": [{"role": "wizard", "content": "네"}]}, 400, "'system', 'developer', 'user' or 'assistant'"),
    ({"messages": ask("\ud800")}, 400, "unicode"),
    ({"stop": ["가"] * 5}, 400, "at most 4 items"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "the body: max_tokens and max_completion_tokens differ"),
]


@pytest.mark.parametrize("change, status, says", REFUSED)
def test_what_is_not_allowed_is_refused_and_the_answer_says_what_is(server, change, status, says):
    body = json.dumps({"model": "ko-mini", "messages": ask("안녕")} | change)
    got, text, _ = raw(server, "POST", "/v1/chat/completions", body)
    error = json.loads(text)["error"]
    assert got == status and says in error["message"], error
    assert error["type"] in ("invalid_request_error", "not_found_error")


def test_what_asks_for_nothing_is_no_reason_to_refuse(server):
    create = client(server).chat.completions.create
    plain = create(model="ko-mini", messages=ask(QUESTIONS[0]), max_tokens=8).choices[0].message
    nothing = {
        "logprobs": False,
        "top_logprobs": 0,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "logit_bias": None,
        "functions": None,
        "metadata": {},
        "service_tier": "auto",
        "store": False,
        "stream_options": {"include_obfuscation": False},
        "top_k": -1,
    }
    body = {"model": "ko-mini", "messages": ask(QUESTIONS[0]), "max_tokens": 8} | nothing
    status, text, _ = raw(server, "POST", "/v1/chat/completions", json.dumps(body))
    assert status == 200 and json.loads(text)["choices"][0]["message"]["content"] == plain.content
    body = {"model": "ko-mini", "prompt": "안녕", "max_tokens": 2, "logprobs": None, "echo": False, "suffix": ""}
    assert raw(server, "POST", "/v1/completions", json.dumps(body))[0] == 200
    history = [{"role": "developer", "content": "짧게"}, {"role": "user", "content": "안녕", "name": "나"}]
    history += [plain.model_dump(), *ask("다시")]  # the commonest way to keep a conversation: all its keys, most null
    bare = [{"role": "system", "content": "짧게"}, *ask("안녕"), {"role": "assistant", "content": plain.content}]
    long, short = (create(model="ko-mini", messages=each, max_tokens=8) for each in (history, bare + ask("다시")))
    assert long.choices == short.choices and long.usage == short.usage


def test_a_conversation_goes_on_after_an_empty_answer_and_after_two_messages_of_one_role(server):
    def read(*turns):
        messages = [{"role": role, "content": text} for role, text in turns]
        answer = client(server).chat.completions.create(model="ko-mini", messages=messages, max_tokens=4)
        return answer.choices[0].message.content, answer.usage.prompt_tokens

    prompt, _ = reference()
    empty = [("user", "안녕"), ("assistant", ""), ("user", "다시")]
    own = prompt.message_ids([{"role": role, "content": text} for role, text in empty])
    assert read(*empty)[1] == len(own)
    twice = [("system", "짧게"), ("developer", "높임말로"), ("user", "안녕"), ("user", "누구세요?")]
    assert read(*twice) == read(("system", "짧게\n\n높임말로"), ("user", "안녕\n\n누구세요?"))
    assert read(*twice) != read(*twice[1:])


def test_an_error_names_what_the_client_sent(server):
    def error(path, body):
        return json.loads(raw(server, "POST", path, body)[1])["error"]

    broken = error("/v1/completions", b"{")
    assert broken["param"] is None and broken["message"].startswith("the body is no valid JSON, character 2")
    long = error("/v1/completions", json.dumps({"model": "ko-mini", "prompt": "가 " * 900}))
    assert (long["param"], long["code"]) == ("prompt", "context_length_exceeded")
    many = error("/v1/completions", json.dumps({"model": "ko-mini", "prompt": "가", "max_tokens": 9999}))
    assert many["param"] == "max_tokens"


@pytest.mark.parametrize(
    "method, path, body, status, says",
    [
        ("POST", "/v1/chat/completions", b'{"model": "ko-mini', 400, "JSON"),
        ("POST", "/v1/chat/completions", b"[" * 5000, 400, ""),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400, ""),
        ("POST", "/v1/completions", b'{"model": "ko-mini", "prompt": [8192]}', 400, "0 to 8,191"),
        ("POST", "/v1/completions", b'{"model": "ko-mini", "prompt": ""}', 400, ""),
        ("POST", "/v1/completions", b'{"model": "ko-mini", "prompt": "a", "temperature": NaN}', 400, "finite"),
        ("POST", "/v1/chat/completions", b'{"x": "' + b"a" * 9000 + b'"}', 413, "8,192 bytes"),
        ("GET", "/v1/chat/completions", None, 405, "POST"),
        ("GET", "/v2", None, 404, ""),
    ],
)
def test_broken_bodies_and_wrong_doors(server, method, path, body, status, says):
    got, text, _ = raw(server, method, path, body)
    if b'"prompt": ""' in (body or b""):  # BOS alone is a prompt: the model writes something
        assert got == 200
        return
    assert got == status and says in json.loads(text)["error"]["message"], text


def test_a_chunked_body_is_counted_while_it_comes(server):
    netloc = urlsplit(server.url)
    with socket.create_connection((netloc.hostname, netloc.port), timeout=20) as wire:
        wire.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        wire.sendall(b"".join(b"400\r\n" + b"a" * 1024 + b"\r\n" for _ in range(9)))
        assert b" 413 " in wire.recv(200)


def test_200_requests_by_32_clients_none_lost_none_mixed_up(server):
    texts = [BEGINNINGS[number % len(BEGINNINGS)] for number in range(200)]
    answers = {text: expected(text, 8, raw=True) for text in BEGINNINGS}
    assert len(set(answers.values())) >= 5
    load = asyncio.run(put_load(server.url, "ko-mini", texts, 32, 8, raw=True))
    assert [timing.text for timing in load.timings] == [answers[text] for text in texts]
    assert server.health()["running"] == 0


def test_a_load_hides_no_failure(server):
    with pytest.raises(ExceptionGroup, match="2 of 2 requests failed") as failed:
        asyncio.run(put_load(server.url, "no-such-model", BEGINNINGS[:2], 2, 4, raw=True))
    assert all(isinstance(each, Failed) and "there is no such model" in str(each) for each in failed.value.exceptions)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('data: {"choices": []}\n\ndata: {"error": {"message": "the engine died"}}\n\ndata: [DONE]\n\n', "engine died"),
        ('data: {"choices": []}\n\ndata: {"choices": []}\n\n', "broke off"),
        ("", "broke off"),
    ],
)
def test_a_stream_that_ended_early_is_no_answer(body, says):
    with pytest.raises(Failed, match=says):
        read_answer(200, body)


def test_a_client_that_leaves_frees_its_slot(server):
    streams = [long_stream(server) for _ in range(3)]
    assert server.health()["running"] == 3
    for stream in streams:
        stream.response.close()
    wait_for(lambda: server.health()["running"] == 0, 3)
    netloc = urlsplit(server.url)  # and one that leaves without having asked for a stream
    body = json.dumps({"model": "ko-mini", "prompt": "옛날", "max_tokens": 800, "ignore_eos": True}).encode()
    with socket.create_connection((netloc.hostname, netloc.port)) as wire:
        wire.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        wait_for(lambda: server.health()["running"] == 1, 5)
    wait_for(lambda: server.health()["running"] == 0, 3)


def test_metrics_count_what_happened(server):
    def value(name):
        lines = server.get("/metrics")[1].splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    done, tokens = 'course_requests_total{path="/v1/completions",status="200"}', "course_answer_tokens_total"
    before = value(done), value(tokens)
    raw(server, "POST", "/v1/completions", b'{"model": "ko-mini", "prompt": "a", "max_tokens": 5, "ignore_eos": true}')
    assert (value(done), value(tokens)) == (before[0] + 1, before[1] + 5)


@pytest.mark.skipif(
    not (CHAT / "schemathesis").exists(), reason="`make chat-env` makes the environment with schemathesis"
)
def test_schemathesis_finds_no_server_error(server, tmp_path):
    """Every answer, each event of a stream among them, is what openapi.json says; no request that it generates gets a 5xx."""
    command = [CHAT / "schemathesis", "--config-file", REPOSITORY / "tests/schemathesis.toml", "run"]
    command += [f"{server.url}/openapi.json", "--no-color", "--phases", "examples,coverage,fuzzing"]
    command += ["--max-examples", "12", "--generation-deterministic"]
    command += ["--request-timeout", "120", "--exclude-path-regex", "metrics"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    generated, passed = re.search(r"([\d,]+) generated, ([\d,]+) passed", done.stdout).groups()
    assert generated == passed and len(passed) >= 3, done.stdout[-2000:]


def test_killing_the_engine_ends_streams_with_an_error_and_the_server_recovers(server):
    before = server.health()
    streams = [long_stream(server) for _ in range(3)]
    os.kill(before["engine_pid"], signal.SIGKILL)
    start = time.monotonic()
    for stream in streams:
        with pytest.raises(openai.APIError, match="engine died"):
            list(stream)
    assert time.monotonic() - start < 5
    status, text, headers = raw(server, "POST", "/v1/completions", b'{"model": "ko-mini", "prompt": "a"}')
    assert status == 503 and "restarted" in text and int(headers["retry-after"]) > 0
    assert server.get("/health")[0] == 503
    wait_for(lambda: server.get("/health")[0] == 200, 120)
    after = server.health()
    assert after["restarts"] == before["restarts"] + 1 and after["engine_pid"] != before["engine_pid"]
    answer = client(server).chat.completions.create(model="ko-mini", messages=ask(QUESTIONS[0]), max_tokens=16)
    assert answer.choices[0].message.content == expected(QUESTIONS[0], 16)


# The second server: strict limits. The order matters: the last test ends it.
def test_a_key_is_asked_for(strict):
    for key in ("none", strict.key + "0", ""):
        status, text, headers = raw(strict, "GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert status == 401 and "Authorization: Bearer" in text and headers["www-authenticate"] == "Bearer"
        assert strict.key not in text
    assert [card.id for card in client(strict, strict.key).models.list()] == ["ko-mini"]
    status, text = strict.get("/health")  # asks for no key, so it says nothing that is nobody's business
    assert status == 200 and "engine_pid" not in text


def engine_pid(server):
    """Of a server that does not say it: the child that Python spawned, beside its resource tracker."""
    children = psutil.Process(server.process.pid).children()
    [engine] = [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    return engine


def test_one_too_many_gets_429_and_an_answer_that_takes_too_long_is_ended(strict):
    stream = long_stream(strict)
    with pytest.raises(openai.RateLimitError, match="1 requests at once") as refusal:
        client(strict, strict.key).chat.completions.create(model="ko-mini", messages=ask("안녕"))
    assert refusal.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.APIError, match=r"allowed: 1\.5 seconds"):
        list(stream)
    with pytest.raises(openai.InternalServerError, match="took too long") as late:
        options = {"max_tokens": 800, "extra_body": {"ignore_eos": True}}
        client(strict, strict.key).chat.completions.create(model="ko-mini", messages=ask("안녕"), **options)
    assert late.value.status_code == 504 and strict.health()["running"] == 0


def test_a_body_that_dawdles_gets_408(strict):
    netloc = urlsplit(strict.url)
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {strict.key}\r\nContent-Length: 50\r\n\r\n"
    )
    with socket.create_connection((netloc.hostname, netloc.port), timeout=20) as wire:
        wire.sendall(head.encode() + b'{"model"')
        assert b" 408 " in wire.recv(200)


def test_a_frozen_engine_is_replaced(strict):
    before, pid = strict.health(), engine_pid(strict)
    os.kill(pid, signal.SIGSTOP)  # for good: only SIGKILL ends it now
    with pytest.raises(openai.InternalServerError, match="took too long"):
        client(strict, strict.key).completions.create(model="ko-mini", prompt="안녕")
    wait_for(lambda: strict.health()["restarts"] == before["restarts"] + 1 and strict.get("/health")[0] == 200, 120)
    assert engine_pid(strict) != pid and strict.health()["running"] == 0
    assert client(strict, strict.key).completions.create(model="ko-mini", prompt="안녕", max_tokens=2).choices


def test_an_engine_that_dies_too_often_ends_the_server(strict):
    pid = engine_pid(strict)
    stream = long_stream(strict)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(openai.APIError, match="engine died"):
        list(stream)
    assert strict.process.wait(60) == 70
    log = strict.log.read_text()
    assert "died too often" in log and "shutdown failed" not in log


def test_what_is_served_unasked_is_what_was_tuned(monkeypatch):
    """Greedy and without penalties, as lesson 09's gate asks; and each profile's adapter is one of its own model."""
    settings = ServingSettings.load()
    rules = _sampling(ChatRequest(model="ko-mini", messages=ask("안녕")), settings)
    assert rules.temperature == 0 and not rules.penalized
    monkeypatch.setattr("helpers.instruct.tuning.tuned_adapter", lambda *, base: f"the adapter of {base}")
    for profile, trained_by in {"cpu": InstructionSettings, "t4": ExportSettings, "a100": InstructionSettings}.items():
        settings, trained = ServingSettings.load(profile=profile), trained_by.load(profile=profile)
        assert (settings.model, settings.template) == (
            trained.model,
            InstructionSettings.load(profile=profile).template,
        )
        adapters = with_tuned_adapter(settings).adapters
        assert str(adapters[f"{settings.name}-tuned"]).endswith(
            f"the adapter of {settings.model}" if profile != "t4" else str(trained.adapter)
        )


def test_sigterm_lets_short_answers_finish_and_ends_long_ones_cleanly(tmp_path):
    with model_server(tmp_path / "log", environment=ONE_THREAD, **SMALL, **LIMITS, shutdown_seconds=1) as running:
        family = psutil.Process(running.process.pid).children(recursive=True)
        long, short = long_stream(running), long_stream(running, max_tokens=10)
        for each in (running.process, *family):  # systemd sends it to all of a service's processes
            each.send_signal(signal.SIGTERM)
        chunks = list(short)
        assert chunks[-1].choices[0].finish_reason == "length"
        with pytest.raises(openai.APIError, match="shut down"):
            list(long)
        assert running.process.wait(60) == 0
    assert family and not psutil.wait_procs(family, 5)[1]


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({"host": "0.0.0.0"}, "COURSE_API_KEY"),
        ({"max_tokens": 1000}, "at most 1024"),
        ({"default_tokens": 300, "max_tokens": 200}, "above max_tokens"),
        ({"adapters": {"x": "sample_data"}}, "holds no whole adapter"),
        ({"batchsize": 3}, "batch_size"),
        ({"model": "nowhere/at-all"}, "model\n  given:   nowhere/at-all\n  allowed: a folder with a model"),
        ({"model": "config"}, "/config\n  allowed: a folder with a model"),
    ],
)
def test_settings_that_cannot_be_served_are_named(capsys, monkeypatch, parameters, says):
    monkeypatch.delenv("COURSE_API_KEY", raising=False)
    given = SMALL | {"max_prompt_tokens": 200} | parameters
    options = [part for name, value in given.items() for part in ("-p", name, json.dumps(value).strip('"'))]
    assert main(options) == 2
    assert says in capsys.readouterr().err


def test_what_cannot_work_is_said_before_a_model_is_loaded(server, capsys, monkeypatch):
    monkeypatch.setattr("helpers.serving.serve.load_served", lambda settings: pytest.fail("the model was looked at"))
    assert main(["-p", "port", server.url.rpartition(":")[2], "-p", "tuned", "false"]) == 2
    assert "cannot listen here: Address already in use" in capsys.readouterr().err
    assert main(["-p", "max_tokens", "200", "-p", "max_tokens", "100"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_ctrl_c_while_the_model_loads_is_an_orderly_end(tmp_path):
    given = SMALL | {"port": free_port()}
    options = [part for name, value in given.items() for part in ("-p", name, json.dumps(value).strip('"'))]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "helpers.serving.serve", *options], stdout=log, stderr=log, start_new_session=True,
            cwd=REPOSITORY, env=os.environ | ONE_THREAD,
        )  # fmt: skip
    own = psutil.Process(process.pid)
    wait_for(lambda: any("spawn_main" in " ".join(child.cmdline()) for child in own.children()), 120)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    assert process.wait(120) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_ctrl_c_while_the_engines_process_is_started_is_heard(monkeypatch):
    """Its child is to be deaf to it, the server is not: what comes just then is heard as soon as the child is there."""
    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", lambda _: signal.raise_signal(signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins deaf to it
    try:
        with pytest.raises(KeyboardInterrupt):
            EngineProcess(ServingSettings.load(tuned=False), 1024, lambda: None)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_model_that_cannot_be_loaded_ends_the_start(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((REPOSITORY / "sample_data/models/ko-mini-mistral" / name).read_bytes())
    with (
        pytest.raises(InputError, match="exit code 3"),
        model_server(tmp_path / "log", environment=ONE_THREAD, model=str(tmp_path / "model"), **SMALL),
    ):
        pass


if sys.platform != "linux":
    pytestmark = pytest.mark.skip(reason="the server's tests send Linux signals")


def test_where_the_limits_of_a_prompt_lie():
    """The longest prompt and the largest id are taken, one more of either is not; a typed control token stays text."""
    prompt, _ = reference()
    settings = ServingSettings.load(tuned=False, max_prompt_tokens=8)
    served = {"ko-mini": Served("ko-mini", prompt)}

    def ids(given):
        (job,) = take_order(CompletionRequest(model="ko-mini", prompt=given), served, settings).jobs
        return job.ids

    largest = len(prompt.tokenizer) - 1
    assert ids([largest] * 8) == (largest,) * 8
    with pytest.raises(ApiError, match="9 tokens"):
        ids([largest] * 9)
    with pytest.raises(ApiError, match="token id"):
        ids([largest + 1])
    typed = ids("</s>")
    assert set(typed).isdisjoint(prompt.stop_ids) and len(typed) > 2


@pytest.mark.parametrize(
    ("word", "status", "says"),
    [(Refused, 400, "refused this request: why"), (Unfinished, 500, "the engine failed: why")],
)
def test_the_status_says_whose_fault_it_is(word, status, says):
    """A job that the engine cannot take, and one that it took and left off; the engine lives on."""
    prompt, _ = reference()
    request = CompletionRequest(model="ko-mini", prompt="가")
    order = take_order(request, {"ko-mini": Served("ko-mini", prompt)}, ServingSettings.load(tuned=False))
    engine = EngineProcess.__new__(EngineProcess)  # without the process
    engine.alive, engine._answers = True, {}
    engine._send = lambda job: engine._deliver([word(job.id, "why")])

    with pytest.raises(ApiError, match=says) as raised:
        asyncio.run(asyncio.wait_for(whole(order, engine, Metrics()), 10))
    assert raised.value.status_code == status and engine.alive and not engine._answers


def test_a_stop_text_is_composed_as_answers_are():
    letters = unicodedata.normalize("NFD", "끝")
    for stop in (letters, [letters]):
        assert CompletionRequest(model="ko-mini", prompt="가", stop=stop).stops == ["끝"] != [letters]
