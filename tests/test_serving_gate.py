"""The gate and the turns by themselves: what is counted, what is refused, and how a turn ends."""

import asyncio

import pytest

from helpers.serving.errors import ApiError
from helpers.serving.gate import Gate
from helpers.serving.metrics import Metrics
from helpers.serving.turns import ClientGone, Turns

ANSWER = {"type": "http.response.start", "status": 200, "headers": []}
END = {"type": "http.response.body", "body": b""}


def pass_gate(app, *messages, headers=(), path="/v1/completions", **limits):
    """What the client gets, and how the request was counted; afterwards the client is silent."""
    metrics, sent, coming = Metrics(), [], list(messages or [{"type": "http.request"}])

    async def receive():
        return coming.pop(0) if coming else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    gate = Gate(app, metrics=metrics, **{"api_key": None, "body_bytes": 8, "seconds": 5} | limits)
    scope = {"type": "http", "method": "POST", "path": path, "headers": [*headers]}
    try:
        asyncio.run(gate(scope, receive, send))
    finally:
        [counted] = [each for each in metrics.requests.collect()[0].samples if each.name.endswith("_total")]
        pass_gate.counted = counted.labels["path"], counted.labels["status"]
    return sent


async def echo(scope, receive, send):
    await send(ANSWER)
    await send(END | {"body": (await receive())["body"]})


def body(text, more=False):
    return {"type": "http.request", "body": text, "more_body": more}


def test_a_body_is_handed_on_whole_up_to_its_limit():
    assert pass_gate(echo, body(b"1234", more=True), body(b"5678"))[-1]["body"] == b"12345678"
    assert pass_gate.counted == ("/v1/completions", "200")
    declared = [(b"content-length", b"8")]
    assert pass_gate(echo, body(b"12345678", more=True), body(b""), headers=declared)[0]["status"] == 200
    for parts in ([body(b"123456789")], [body(b"1234", more=True), body(b"56789", more=True)]):
        assert pass_gate(echo, *parts)[0]["status"] == 413
    declared = [(b"content-length", b"9")]
    assert pass_gate(echo, {"type": "never read"}, headers=declared)[0]["status"] == 413
    assert pass_gate(echo, body(b"1", more=True), seconds=0.01)[0]["status"] == 408
    assert pass_gate(echo, path="/v1/models/of-a-client")[0]["status"] == 200
    assert pass_gate.counted == ("other", "200")


@pytest.mark.parametrize(
    "given, status",
    [
        (b"Bearer key", 200),
        (b"bearer key", 200),
        (b"Basic key", 401),
        (b"Bearer keys", 401),
        (b"Bearer", 401),
        (b"", 401),
    ],
)
def test_the_key_opens(given, status):
    assert pass_gate(echo, headers=[(b"authorization", given)], api_key="key")[0]["status"] == status
    assert pass_gate(echo, api_key="key", path="/health")[0]["status"] == 200


@pytest.mark.parametrize("before", [[], [ANSWER]], ids=["before it answers", "within its answer"])
def test_a_fault_of_the_server_is_counted_as_one(before):
    async def faulty(scope, receive, send):
        for message in before:
            await send(message)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):  # the middleware around the gate answers
        pass_gate(faulty)
    assert pass_gate.counted == ("/v1/completions", "500")


def test_a_client_that_leaves_is_counted_as_gone():
    async def nothing(scope, receive, send):
        assert (await receive())["body"] == b"12" and (await receive())["type"] == "http.disconnect"

    assert pass_gate(nothing, body(b"12"), {"type": "http.disconnect"}) == []
    assert pass_gate.counted == ("/v1/completions", "499")
    assert pass_gate(nothing, body(b"12", more=True), {"type": "http.disconnect"}) == []
    assert pass_gate.counted == ("/v1/completions", "499")


async def silence():
    await asyncio.Event().wait()


def turn_that(work, seconds=5.0, receive=silence):
    """Take a turn of two answers of three and do ``work(turns)`` in it; the turns, and what ended it."""
    late = []
    turns = Turns(3, seconds, lambda: late.append("late"))

    async def take():
        async with turns.take(2, receive):
            assert turns.running == 2
            await work(turns)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1  # nobody watches the client any more

    ended = None
    try:
        asyncio.run(take())
    except (ApiError, ClientGone) as error:
        ended = error
    assert turns.running == 0
    return ended, late


async def wait(turns):
    await asyncio.sleep(60)


def test_a_turn_ends_by_itself_by_time_or_because_the_client_or_the_server_goes():
    async def done(turns):
        pass

    async def close(turns):
        turns.close()
        await wait(turns)

    async def close_twice(turns):
        turns.close("gone")
        turns.close()  # in the same moment: the last reason is the one that is told
        await wait(turns)

    async def some_steps(turns):
        for _ in range(9):
            await asyncio.sleep(0)

    async def close_when_late(turns):
        try:
            await wait(turns)
        finally:
            turns.close()  # too late: its time was up before

    def client(*events):
        coming = iter(events)

        async def receive():
            return {"type": kind} if (kind := next(coming, None)) else await silence()

        return receive

    leave = client("http.request", "http.disconnect")
    assert turn_that(done) == turn_that(some_steps, receive=client("http.request")) == (None, [])
    assert turn_that(close_when_late, seconds=0.01)[0].status_code == 504
    ended, late = turn_that(wait, seconds=0.01)
    assert ended.status_code == 504 and "0.01 seconds" in ended.detail and late == ["late"]
    ended, late = turn_that(close)
    assert (ended.status_code, ended.code, late) == (503, "closing", [])
    assert turn_that(close_twice)[0].code == "closing"
    ended, late = turn_that(wait, receive=leave)
    assert isinstance(ended, ClientGone) and late == []


def test_a_turn_is_refused_where_there_is_no_room_or_no_future():
    async def one_more(turns):
        async with turns.take(1, silence):
            assert turns.running == 3
            with pytest.raises(ApiError, match="3 requests at once") as full:
                async with turns.take(1, silence):
                    pass
            assert full.value.status_code == 429 and turns.running == 3
        assert turns.running == 2
        with pytest.raises(ApiError, match="3 requests at once"):
            async with turns.take(2, silence):
                pass
        turns.closing = True
        with pytest.raises(ApiError, match="shutting down") as closing:
            async with turns.take(1, silence):
                pass
        assert closing.value.headers["Retry-After"]

    assert turn_that(one_more) == (None, [])


def test_closing_ends_every_turn():
    async def two():
        turns = Turns(4, 5.0, lambda: None)

        async def take():
            async with turns.take(1, silence):
                await wait(turns)

        asyncio.get_running_loop().call_later(0.01, turns.close)
        return await asyncio.gather(take(), take(), return_exceptions=True)

    assert [error.code for error in asyncio.run(two())] == ["closing", "closing"]
