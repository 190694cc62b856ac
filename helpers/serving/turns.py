"""Who may be answered now: so many at once, each for so long, and each can be ended early, with a reason."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from starlette.types import Receive

from helpers.serving.errors import ApiError

Reason = Literal["time", "gone", "closing"]


class ClientGone(Exception):
    """The client has closed the connection; nobody is left to be told."""


@dataclass(eq=False)
class Turn:
    """One request's right to be answered. ``answers``: how many it asks for."""

    scope: asyncio.Timeout
    answers: int
    reason: Reason = "time"

    def end(self, reason: Reason) -> None:
        """Stop the request's work where it stands, as if its time were up."""
        if self.scope.expired():
            return
        self.reason = reason
        self.scope.reschedule(asyncio.get_running_loop().time())


class Turns:
    """At most ``limit`` answers at once, a turn of at most ``seconds``; ``on_timeout`` is called when one had no time left."""

    def __init__(self, limit: int, seconds: float, on_timeout: Callable[[], None]) -> None:
        self.limit, self.seconds, self.on_timeout = limit, seconds, on_timeout
        self.open: list[Turn] = []
        self.closing = False

    @property
    def running(self) -> int:
        """How many answers are generated or wait."""
        return sum(turn.answers for turn in self.open)

    @contextlib.asynccontextmanager
    async def take(self, answers: int, receive: Receive) -> AsyncIterator[None]:
        """Work inside is ended when its time is up (504), the client goes, or the server closes (503)."""
        if self.closing:
            raise ApiError(503, "the server is shutting down", code="closing", retry_after=5)
        if self.running + answers > self.limit:
            allowed = f"{self.limit} requests at once, each prompt of a list counted"
            raise ApiError(429, "too many requests", allowed=allowed, code="too_many_requests", retry_after=1)
        turn = Turn(asyncio.timeout(self.seconds), answers)
        try:
            async with turn.scope:
                self.open.append(turn)
                watch = asyncio.create_task(_end_when_gone(receive, turn))
                try:
                    yield
                finally:
                    watch.cancel()
                    self.open.remove(turn)
        except TimeoutError:
            if turn.reason == "gone":
                raise ClientGone from None
            if turn.reason == "closing":
                raise ApiError(503, "the server shut down before the answer was complete", code="closing") from None
            self.on_timeout()
            allowed = f"{self.seconds:g} seconds for an answer"
            raise ApiError(504, "the answer took too long", allowed=allowed, code="timeout") from None

    def close(self, reason: Reason = "closing") -> None:
        """End all that is under way."""
        for turn in list(self.open):
            turn.end(reason)


async def _end_when_gone(receive: Receive, turn: Turn) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    turn.end("gone")
