"""The two responses, each holding its turn from the first byte to the last and giving it back whatever happens."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from helpers.serving.errors import ApiError
from helpers.serving.turns import ClientGone

Take = Callable[[Receive], contextlib.AbstractAsyncContextManager[None]]
"""How a response takes its turn."""
LAST_WORDS = 2.0
"""Seconds for telling a client that reads slowly why its stream ends."""


class EventStream(Response):
    """Server-sent events. The status is sent with the first event, so what fails before it has a status of its own."""

    media_type = "text/event-stream"

    def __init__(self, take: Take, events: Callable[[], AsyncIterator[str]]) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.take, self.events = take, events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with self.take(receive), contextlib.aclosing(self.events()) as events:
                async for event in events:
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        started = True
                    await send(_event(event, more=True))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientGone:
            return
        except ApiError as error:
            if not started:
                await error.response()(scope, receive, send)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await send(_event(json.dumps(error.body()), more=True))
                    await send(_event("[DONE]", more=False))


class Whole(Response):
    """One JSON document."""

    def __init__(self, take: Take, answer: Callable[[], Awaitable[BaseModel]]) -> None:
        super().__init__(media_type="application/json")
        self.take, self.answer = take, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self.take(receive):
                answer = await self.answer()
            response = Response(answer.model_dump_json(), media_type=self.media_type)
        except ClientGone:
            return
        except ApiError as error:
            response = error.response()
        await response(scope, receive, send)


def _event(data: str, *, more: bool) -> dict[str, object]:
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": more}
