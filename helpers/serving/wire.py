"""How the server and its engine's process talk: messages over a socket, each whole, in order.

The server's end belongs to its event loop and never waits; the worker's end waits when it has nothing else to do.
"""

import asyncio
import pickle
import socket
from multiprocessing.connection import wait
from typing import Any

SIZE = 4
"""Bytes in front of each message: how many follow."""


def packed(message: object) -> bytes:
    """The message as it is sent."""
    body = pickle.dumps(message)
    return len(body).to_bytes(SIZE, "big") + body


async def received(reader: asyncio.StreamReader) -> Any:
    """The next message. Raises :class:`EOFError` (asyncio's IncompleteReadError) where the other end is gone."""
    size = int.from_bytes(await reader.readexactly(SIZE), "big")
    return pickle.loads(await reader.readexactly(size))


class ServerGone(Exception):
    """The other end of the worker's wire is closed."""


class Wire:
    """The worker's end."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: object) -> None:
        """Send it all, however long that takes. Raises :class:`ServerGone`."""
        data = packed(message)
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ServerGone from error

    def recv(self) -> Any:
        """Wait for the next message. Raises :class:`ServerGone`."""
        return pickle.loads(self._read(int.from_bytes(self._read(SIZE), "big")))

    def poll(self) -> bool:
        """Whether :meth:`recv` has something to read."""
        return bool(wait([self._socket], 0))

    def _read(self, size: int) -> bytes:
        try:
            data = self._socket.recv(size, socket.MSG_WAITALL)
        except OSError as error:
            raise ServerGone from error
        if len(data) < size:
            raise ServerGone
        return data
