"""The threading client of the `websockets` library."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import orjson
from isal import isal_zlib
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from benchmarks.peers import PING_INTERVAL, READY_WITHIN, Target, ping

__all__ = ["Client"]


class Client:
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._target = target
        self._on_push = on_push
        self._stopped = threading.Event()
        self._cleanup = contextlib.ExitStack()

    def start(self) -> None:
        connection = self._cleanup.enter_context(
            connect(
                self._target.url,
                ssl=self._target.ssl_context,
                additional_headers={"api-key": self._target.api_key},
                compression=None,
                proxy=None,
                ping_interval=None,
                max_queue=None,  # a reader that is never paused is faster, over TLS by a fifth
            )
        )
        for expected in ("connect success", "sub success"):
            message = connection.recv(READY_WITHIN)
            if message != expected:
                raise ConnectionError(f"the server said {message!r}")
            if message == "connect success":
                connection.send(self._target.subscribe)
        for work in (self._read, self._ping):
            thread = threading.Thread(target=work, args=(connection,), daemon=True)
            thread.start()
            self._cleanup.callback(thread.join, 5)
        self._cleanup.callback(connection.close)  # before the joins: last in, first out

    def stop(self) -> None:
        self._stopped.set()
        self._cleanup.close()

    def _read(self, connection: ClientConnection) -> None:
        receive, on_push = connection.recv, self._on_push
        decompress, loads = isal_zlib.decompress, orjson.loads
        with contextlib.suppress(ConnectionClosed):
            while True:
                message = receive()
                if isinstance(message, bytes):
                    on_push(loads(decompress(message, 31)))

    def _ping(self, connection: ClientConnection) -> None:
        while not self._stopped.wait(PING_INTERVAL):
            connection.send(ping())
