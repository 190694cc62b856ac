"""The engine as the server sees it: jobs in, tokens out, asynchronously; a process that is replaced when it dies."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from multiprocessing import resource_tracker

from helpers.serving import worker
from helpers.serving.jobs import Job, Refused, Tokens, Unfinished
from helpers.serving.settings import ServingSettings
from helpers.serving.wire import packed, received

log = logging.getLogger("uvicorn.error")
WINDOW = 600
"""Seconds within which ``max_restarts`` deaths are too many."""


class EngineDied(Exception):
    """The engine's process ended while this job ran."""


class EngineNotReady(Exception):
    """No engine at the moment; another one is being started."""


class EngineRefused(ValueError):
    """The engine cannot take this job."""


class EngineFailed(Exception):
    """The engine left this job unfinished, and lives."""


ERRORS = {Refused: EngineRefused, Unfinished: EngineFailed}


class EngineProcess:
    """One process with one engine. It belongs to the event loop in which it was made."""

    def __init__(self, settings: ServingSettings, context: int, on_death: Callable[[], None]) -> None:
        methods = multiprocessing.get_context("spawn")  # a fork would inherit threads and sockets of the server
        ours, theirs = socket.socketpair()
        self.process = methods.Process(target=worker.main, args=(theirs, settings, context), daemon=True)
        try:
            self._start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()  # or the connection would not end with the process
        self._answers: dict[int, asyncio.Queue] = {}  # of the jobs under way
        self._on_death, self.alive, self.last_word = on_death, True, time.monotonic()
        self._writer: asyncio.StreamWriter | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listening = asyncio.ensure_future(self._listen(ours))

    def _start(self) -> None:
        # Ctrl-C reaches the whole group, and so does what systemd sends to stop a service; the server decides what ends
        # when, so its child inherits deaf ears. Blocked, not ignored: what comes in between is heard right after.
        resource_tracker.ensure_running()  # `start` would, and unblock both
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def generate(self, jobs: Sequence[Job]) -> AsyncGenerator[Tokens]:
        """The tokens of these jobs as they come, for as long as one asks: to leave the iteration stops what is not done.

        Raises :class:`EngineDied`, :class:`EngineRefused` and :class:`EngineFailed`.
        """
        if not self.alive:
            raise EngineDied
        answers: asyncio.Queue[Tokens | Exception] = asyncio.Queue()
        for job in jobs:
            self._answers[job.id] = answers
            self._send(job)
        try:
            while True:
                item = await answers.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            for job in jobs:
                self.stop(job)

    def stop(self, job: Job) -> None:
        """End one job; one that is done already is no error."""
        if self._answers.pop(job.id, None) and self.alive:
            self._send(job.id)

    def close(self) -> None:
        """End the process: first by asking, then by force. Blocks for some seconds at most."""
        self.alive = False
        self._send(None)
        self.process.join(3)
        if self.process.is_alive():
            self.process.kill()
        self.process.join(1)

    def _send(self, message: Job | int | None) -> None:
        """Pass on a job, the id of one that is to stop, or None, the worker's word for the end."""
        if self._writer is not None and not self._writer.is_closing():  # else uvloop raises
            self._writer.write(packed(message))

    async def _listen(self, end: socket.socket) -> None:
        try:
            reader, self._writer = await asyncio.open_connection(sock=end)
            while True:
                self._deliver(await received(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the process is gone
        except Exception:
            log.exception("the engine process %s cannot be understood and is killed", self.process.pid)
            self.process.kill()
        finally:
            (self._writer or end).close()
        self._died()

    def _deliver(self, message: str | list[Tokens | Refused | Unfinished]) -> None:
        self.last_word = time.monotonic()
        if message == worker.READY:
            self.ready.set_result(None)
            return
        for item in message:
            if answers := self._answers.get(item.job):
                error = ERRORS.get(type(item))
                answers.put_nowait(error(item.why) if error else item)
                if error or item.finish:
                    del self._answers[item.job]

    def _died(self) -> None:
        if not self.alive:
            return
        self.alive = False
        for answers in self._answers.values():
            answers.put_nowait(EngineDied())
        if not self.ready.done():
            self.ready.set_exception(EngineDied())
            self.ready.exception()  # seen, even where nobody waits
        self._on_death()


class Engine:
    """An engine that is there again after it died; ``on_give_up`` is called where it dies too often or cannot start."""

    def __init__(self, settings: ServingSettings, context: int, on_give_up: Callable[[], None]) -> None:
        self._settings, self._context, self._on_give_up = settings, context, on_give_up
        self._current: EngineProcess | None = None
        self._deaths: deque[float] = deque()
        self._was_ready = False
        self.restarts = 0

    async def start(self) -> None:
        """Start the process and wait until its model is loaded. Raises :class:`EngineDied` where that fails."""
        self._current = EngineProcess(self._settings, self._context, self._replace)
        await self._current.ready
        self._was_ready = True

    @property
    def ready(self) -> bool:
        """Whether a process is there whose model is loaded."""
        process = self._current
        return process is not None and process.alive and process.ready.done()

    @property
    def pid(self) -> int | None:
        """The id of the engine's process."""
        return self._current.process.pid if self._current else None

    def generate(self, jobs: Sequence[Job]) -> AsyncGenerator[Tokens]:
        """As the process's own; raises what it raises, and :class:`EngineNotReady`."""
        if not self.ready:
            raise EngineNotReady
        return self._current.generate(jobs)

    def stop(self, job: Job) -> None:
        """As the process's own; the jobs of one that died are done."""
        self._current.stop(job)

    def kill_if_silent(self) -> None:
        """End an engine that said nothing for as long as an answer may take; its death is handled like any other."""
        if self.ready and time.monotonic() - self._current.last_word > self._settings.request_seconds:
            log.error("the engine process %s says nothing and is killed", self.pid)
            self._current.process.kill()

    def close(self) -> None:
        if self._current is not None:
            self._current.close()

    def _replace(self) -> None:
        process, now = self._current, time.monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - WINDOW:
            self._deaths.popleft()
        process.process.join(1)
        log.error("the engine process %s died (exit code %s)", process.process.pid, process.process.exitcode)
        if not self._was_ready:
            return  # `start` raises: what cannot start once will not start the second time
        if len(self._deaths) > self._settings.max_restarts:
            log.error("the engine died too often")
            self._on_give_up()
            return
        try:
            self._current = EngineProcess(self._settings, self._context, self._replace)
        except OSError:
            log.exception("the engine cannot be started again")
            self._on_give_up()
        else:
            self.restarts += 1
