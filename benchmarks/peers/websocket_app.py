"""websocket-client's WebSocketApp: what most people use, and with a faster decoder."""

import gzip
import json
import threading
from collections.abc import Callable
from typing import Any

import orjson
import websocket
from isal import isal_zlib

from benchmarks.peers import PING_INTERVAL, READY_WITHIN, Target, ping

__all__ = ["Client", "empty", "gzip_json", "isal_orjson"]

OnPush = Callable[[Any], None]


class Client:
    def __init__(self, target: Target, on_push: OnPush, decode: Callable[[bytes], Any]) -> None:
        self._target = target
        self._on_push = on_push
        self._decode = decode
        self._ready = threading.Event()
        self._stopped = threading.Event()
        self._app = websocket.WebSocketApp(
            target.url, header={"api-key": target.api_key}, on_message=self._greeted
        )
        self._threads = [
            threading.Thread(target=self._run, daemon=True),
            threading.Thread(target=self._ping, daemon=True),
        ]

    def start(self) -> None:
        self.begin()
        self.wait_ready(READY_WITHIN)

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait_ready(self, timeout: float) -> None:
        if not self._ready.wait(timeout):
            raise TimeoutError("not subscribed")

    def stop(self) -> None:
        self._stopped.set()
        self._app.close(timeout=1)
        for thread in self._threads:
            thread.join(5)

    def _run(self) -> None:
        self._app.run_forever(
            sslopt={"context": self._target.ssl_context}, skip_utf8_validation=True
        )

    def _ping(self) -> None:
        while not self._stopped.wait(PING_INTERVAL):
            self._app.send(ping())

    # Text comes as bytes when UTF-8 is not validated.
    def _greeted(self, app: websocket.WebSocketApp, message: bytes) -> None:
        if message == b"connect success":
            app.send(self._target.subscribe)
        elif message == b"sub success":
            app.on_message = self._pushed
            self._ready.set()

    def _pushed(self, _app: websocket.WebSocketApp, message: bytes) -> None:
        if message[0] == 0x1F:  # gzip; anything else is a pong
            self._on_push(self._decode(message))


def gzip_json(target: Target, on_push: OnPush) -> Client:
    decompress, loads = gzip.decompress, json.loads
    return Client(target, on_push, lambda data: loads(decompress(data)))


def isal_orjson(target: Target, on_push: OnPush) -> Client:
    decompress, loads = isal_zlib.decompress, orjson.loads
    return Client(target, on_push, lambda data: loads(decompress(data, 31)))


def empty(target: Target, on_push: OnPush) -> Client:
    return Client(target, on_push, lambda data: data)
