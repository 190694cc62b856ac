"""Start the model server: `make serve`, or `python -m helpers.serving.serve -p port 8080 -p backend vllm`.

Settings come from config/serving.yaml (or `--config`); `-p` overrides any of them. Exit codes: 0 after SIGTERM or Ctrl-C,
2 for settings that cannot be, 3 when the engine cannot start, 70 when it died too often or could not be started again.
"""

import argparse
import asyncio
import logging
import socket
import sys

import uvicorn

from helpers.course.command_line import add_settings, settings_of
from helpers.course.errors import InputError
from helpers.serving.api import make_app
from helpers.serving.engine import Engine
from helpers.serving.served import context_length, load_served, with_tuned_adapter
from helpers.serving.settings import API_KEY, ServingSettings, is_local
from helpers.serving.turns import Turns

GAVE_UP = 70
log = logging.getLogger("uvicorn.error")


class Server(uvicorn.Server):
    """uvicorn that gives running answers some seconds after SIGTERM, then ends them with an error, then leaves."""

    turns: Turns
    seconds: float
    gave_up = False

    async def shutdown(self, sockets=None) -> None:
        """Take no more requests, and end those that are not done after ``seconds``."""
        self.turns.closing = True
        grace = 0 if self.gave_up else self.seconds
        ending = asyncio.get_running_loop().call_later(grace, self.turns.close)
        await super().shutdown(sockets)
        ending.cancel()

    def handle_exit(self, sig: int, frame) -> None:
        """Of SIGTERM and Ctrl-C: leave, with exit code 0."""
        super().handle_exit(sig, frame)
        if not self.started:
            log.info("the server ends as soon as its model is loaded")
        self._captured_signals.clear()  # uvicorn would raise the signal again at its end: an orderly end is exit code 0

    def give_up(self) -> None:
        """Leave, because the engine cannot be kept alive."""
        log.error("the server ends: it has no engine")
        self.gave_up = self.should_exit = True


def run(settings: ServingSettings) -> int:
    """Serve until told to stop; the exit code. Raises :class:`InputError` for what cannot be served."""
    if not is_local(settings.host) and not settings.api_key:
        raise InputError(
            "whoever reaches this address could use the model: a server that others reach needs a key",
            place="host",
            given=settings.host,
            allowed="127.0.0.1, ::1 or localhost without a key",
            hint=f"set the environment variable {API_KEY}",
        )
    need_port(settings.host, settings.port)
    settings = with_tuned_adapter(settings)
    context, served = context_length(settings), load_served(settings)
    engine = Engine(settings, context, lambda: server.give_up())
    app = make_app(settings, served, engine)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level="info", access_log=False, server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_seconds) + 5, timeout_keep_alive=30,
    )  # fmt: skip
    server = Server(config)
    server.turns, server.seconds = app.state.turns, settings.shutdown_seconds
    log.info("models: %s; backend: %s", ", ".join(served), settings.backend)
    server.run()
    return GAVE_UP if server.gave_up else 0


def need_port(host: str, port: int) -> None:
    """Raise :class:`InputError` where the server could not listen: otherwise it would say so after loading the model."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: only a listener is in the way
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"the server cannot listen here: {error.strerror}",
                place="host and port",
                given=f"{host}, {port}",
                hint="end what listens there, or take another port: -p port 8080 (0: any free one)",
            ) from error


def main(arguments: list[str] | None = None) -> int:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m helpers.serving.serve", description=__doc__.split("\n")[0])
    add_settings(parser, ServingSettings)
    options = parser.parse_args(arguments)
    try:
        return run(settings_of(ServingSettings, options))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the server handles signals itself
        return 0


if __name__ == "__main__":
    sys.exit(main())
