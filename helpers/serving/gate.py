"""Before any route: the key, the size and the speed of the body; after it: the count. Pure ASGI, so streams stay streams."""

import asyncio
import hmac
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helpers.serving.errors import ApiError
from helpers.serving.metrics import Metrics

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics", "/openapi.json")


class Gate:
    """Reads each body whole, within its limits, and hands it on as one message."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, api_key: str | None, body_bytes: int, seconds: float) -> None:
        self.app, self.metrics, self.api_key = app, metrics, api_key
        self.body_bytes, self.seconds = body_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # as nginx counts a client that left before an answer began

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            self._check_key(scope)
            body = await self._body(scope, receive)
            if body is not None:
                await self.app(scope, _once(body, receive), counted)
        except ApiError as error:
            await error.response()(scope, receive, counted)
        except Exception:  # a fault of ours: the middleware around this one says so
            status = 500
            raise
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"  # a label a client chooses would grow for ever
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)

    def _check_key(self, scope: Scope) -> None:
        if self.api_key is None or not scope["path"].startswith("/v1/"):
            return
        scheme, _, given = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given, self.api_key.encode()):
            allowed = "the header `Authorization: Bearer <the server's key>`"
            raise ApiError(401, "the API key is missing or wrong", allowed=allowed, code="invalid_api_key")

    async def _body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None where the client left while sending it."""
        body = bytearray()
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    declared = dict(scope["headers"]).get(b"content-length", b"0")
                    if len(body) > self.body_bytes or (declared.isdigit() and int(declared) > self.body_bytes):
                        raise ApiError(
                            413, "the request is too large", allowed=f"{self.body_bytes:,} bytes", code="too_large"
                        )
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if not message.get("more_body") and len(body) <= self.body_bytes:
                        return bytes(body)
        except TimeoutError:
            raise ApiError(
                408, "the request took too long to arrive", allowed=f"{self.seconds:g} seconds", code="slow_request"
            ) from None


def _once(body: bytes, receive: Receive) -> Receive:
    """The body that was read, then whatever comes after it (that the client leaves)."""
    unread = True

    async def replay() -> Message:
        nonlocal unread
        if unread:
            unread = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
