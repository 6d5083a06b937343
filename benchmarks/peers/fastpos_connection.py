"""fastpos's connection layer alone: frames off the socket, nothing decoded.

Where the extension is there it inflates as it splits, so that row does more than it has to.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.peers import PING_INTERVAL, READY_WITHIN, Target, ping
from fastpos.net.connection import Connection, ConnectionEnded
from fastpos.wire.frames import INFLATED, TEXT
from fastpos.wire.inflate import new_splitter

__all__ = ["Client"]


def _connect(target: Target) -> Connection:
    connection = Connection(
        target.url,
        {"api-key": target.api_key},
        ssl_context=target.ssl_context,
        splitter=new_splitter(),
    )
    connection.open()
    return connection


class Client:
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._target = target
        self._on_push = on_push
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._ping, daemon=True),
        ]

    def start(self) -> None:
        self._connection = _connect(self._target)
        texts = self._texts()
        for expected in ("connect success", "sub success"):
            message = next(texts)
            if message != expected:
                raise ConnectionError(f"the server said {message!r}")
            if message == "connect success":
                self._connection.send(self._target.subscribe)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._connection.abort("stopped")
        for thread in self._threads:
            thread.join(5)

    def _texts(self) -> Iterator[str]:
        while True:
            for opcode, payload in self._connection.receive(READY_WITHIN):
                if opcode == TEXT:
                    yield payload

    def _read(self) -> None:
        receive, on_push = self._connection.receive, self._on_push
        try:
            while True:
                for opcode, payload in receive():
                    if opcode == INFLATED:
                        for push in payload:
                            on_push(push)
                    elif opcode != TEXT:
                        on_push(payload)
        except ConnectionEnded:
            self._connection.end()

    def _ping(self) -> None:
        while not self._stopped.wait(PING_INTERVAL):
            self._connection.send(ping())
