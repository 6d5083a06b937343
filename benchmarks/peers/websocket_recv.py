"""websocket-client's WebSocket, its frames read in a loop with nothing done to them."""

import threading
from collections.abc import Callable

import websocket

from benchmarks.peers import PING_INTERVAL, READY_WITHIN, Target, ping

__all__ = ["Client"]


class Client:
    def __init__(self, target: Target, on_push: Callable[[bytes], None]) -> None:
        self._target = target
        self._on_push = on_push
        self._stopped = threading.Event()
        self._socket = websocket.WebSocket(
            sslopt={"context": target.ssl_context},
            skip_utf8_validation=True,
            enable_multithread=False,  # no locks; the ping below is sent between two bursts
        )
        self._threads = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._ping, daemon=True),
        ]

    def start(self) -> None:
        connection, header = self._socket, {"api-key": self._target.api_key}
        connection.settimeout(READY_WITHIN)
        connection.connect(self._target.url, header=header)  # type: ignore[no-untyped-call]
        for expected in (b"connect success", b"sub success"):
            _, message = connection.recv_data()
            if message != expected:
                raise ConnectionError(f"the server said {message!r}")
            if message == b"connect success":
                connection.send(self._target.subscribe)
        connection.settimeout(None)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._socket.shutdown()  # type: ignore[no-untyped-call]
        for thread in self._threads:
            thread.join(5)

    def _read(self) -> None:
        receive, on_push = self._socket.recv_data, self._on_push
        try:
            while True:
                opcode, payload = receive()
                if opcode == websocket.ABNF.OPCODE_BINARY:
                    on_push(payload)
        except (OSError, websocket.WebSocketException):
            if not self._stopped.is_set():
                raise

    def _ping(self) -> None:
        while not self._stopped.wait(PING_INTERVAL):
            self._socket.send(ping())
