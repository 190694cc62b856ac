"""Errors as OpenAI's clients know them: a status, and a body that says what was wrong and what is allowed."""

import json

from starlette.exceptions import HTTPException
from starlette.responses import Response

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(HTTPException):
    """An answer that is an error. ``allowed`` goes into the message; ``code`` is a word for programs."""

    def __init__(
        self, status: int, what: str, *, allowed: str = "", param: str | None = None, code: str | None = None,
        retry_after: int | None = None,
    ) -> None:  # fmt: skip
        headers = {"Retry-After": str(retry_after)} if retry_after else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, f"{what}; allowed: {allowed}" if allowed else what, headers)
        self.param, self.code = param, code

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error as OpenAI's clients read it."""
        kind = TYPES.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        # ASCII: what the client sent may stand in the message, and need not be valid Unicode
        return Response(json.dumps(self.body()), self.status_code, self.headers, "application/json")
