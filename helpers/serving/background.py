"""Servers in processes of their own, for the lesson and the tests: started, awaited, and ended for certain."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from helpers.course.errors import InputError
from helpers.course.launch import free_port
from helpers.course.paths import REPOSITORY, short_path


@dataclass
class Running:
    """A server that answers at ``url``; what it writes goes to ``log``."""

    process: subprocess.Popen
    url: str
    log: Path

    def get(self, path: str, seconds: float = 10) -> tuple[int, str]:
        """Status and body of a GET."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=seconds) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def health(self) -> dict[str, Any]:
        """What /health says, whatever its status: also while no engine is there."""
        return json.loads(self.get("/health")[1])


@contextmanager
def model_server(
    log: Path, *, seconds: float = 400, environment: dict[str, str] | None = None, **parameters: Any
) -> Iterator[Running]:
    """The model server with these settings on a free port; it and its engine are gone at the end of the block.

    Raises :class:`InputError` with the end of the log where it does not start within ``seconds``.
    """
    port = free_port()
    pairs = [("port", port), *((name, value) for name, value in parameters.items() if value is not None)]
    options = [part for name, value in pairs for part in ("-p", name, _written(value))]
    command = [sys.executable, "-m", "helpers.serving.serve", *options]
    with background(command, f"http://127.0.0.1:{port}", "/health", log, seconds, environment) as running:
        yield running


@contextmanager
def background(
    command: list[str], url: str, path: str, log: Path, seconds: float, environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """A command that serves ``url``; the block begins when ``path`` answers 200 there."""
    log.parent.mkdir(parents=True, exist_ok=True)
    own = os.environ | {"PYTHONPATH": str(REPOSITORY)} | (environment or {})
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=own)
    running = Running(process, url, log)
    try:
        _wait(running, path, seconds)
        yield running
    finally:
        _end(process)


def _wait(running: Running, path: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while running.process.poll() is None and time.monotonic() < end:
        try:
            if running.get(path, 5)[0] == 200:
                return
        except OSError:
            pass  # nothing listens yet
        time.sleep(0.1)
    code = running.process.poll()
    raise InputError(
        "the server did not start" if code is None else f"the server ended at once, with exit code {code}",
        file=short_path(running.log),
        hint="its last lines:\n" + "\n".join(running.log.read_text(errors="replace").splitlines()[-12:]),
    )


def _end(process: subprocess.Popen) -> None:
    """Ask it to end, then end it and all its children."""
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()
    psutil.wait_procs(family, 5)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
