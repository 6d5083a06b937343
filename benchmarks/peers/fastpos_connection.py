"""fastpos's connection layer alone: frames off the socket, nothing decoded.

Where the extension is there it inflates as it splits, so that row does more than it has to.
"""

import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from benchmarks.peers import PING_INTERVAL, READY_WITHIN, Target, ping
from fastpos.net.connection import Connection
from fastpos.wire.endpoint import Endpoint
from fastpos.wire.frames import INFLATED, TEXT, Message
from fastpos.wire.inflate import new_splitter
from fastpos.wire.scratch import Scratch

__all__ = ["Client"]


class Client:
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._target = target
        self._on_push = on_push
        self._stopped = threading.Event()
        self._sending = threading.Lock()  # guards what the endpoint has to send, and its order
        self._endpoint = Endpoint(1024 * 1024, new_splitter())
        self._received, self._ciphertext = Scratch(), Scratch()
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._ping, daemon=True),
        ]

    def start(self) -> None:
        target = self._target
        self._connection = Connection(
            target.url, {"api-key": target.api_key}, ssl_context=target.ssl_context
        )
        self._connection.open()
        texts = self._texts()
        for expected in ("connect success", "sub success"):
            message = next(texts)
            if message != expected:
                raise ConnectionError(f"the server said {message!r}")
            if message == "connect success":
                self._send(target.subscribe)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._connection.shutdown()
        for thread in self._threads:
            thread.join(5)

    def _send(self, text: str) -> None:
        with self._sending:
            self._endpoint.send(text)
            self._connection.send(self._endpoint.data_to_send())

    def _receive(self) -> Iterator[Message]:
        view = self._endpoint.writable(self._received.view)
        self._endpoint.wrote(self._connection.read_into(view, self._ciphertext.view))
        while (message := self._endpoint.next_message()) is not None:
            yield message

    def _texts(self) -> Iterator[str]:
        deadline = monotonic() + READY_WITHIN
        while self._connection.wait(deadline - monotonic()):
            for opcode, payload in self._receive():
                if opcode == TEXT:
                    yield payload

    def _read(self) -> None:
        on_push = self._on_push
        try:
            while True:
                for opcode, payload in self._receive():
                    if opcode == INFLATED:
                        for push in payload:
                            on_push(push)
                    elif opcode != TEXT:
                        on_push(payload)
        except (EOFError, OSError):
            self._connection.end()

    def _ping(self) -> None:
        while not self._stopped.wait(PING_INTERVAL):
            self._send(ping())
