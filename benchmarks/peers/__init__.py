"""The clients that are compared, each at its best settings, all with the same small face.

A peer connects as the exchange wants it, calls `on_push` with every push that it has decoded,
and sends the exchange's ping every 30 seconds, because a client that does not is disconnected.
Compression is not offered, UTF-8 is not validated, and locks are left out where that is an
option.
"""

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.spec import Spec

__all__ = ["PEERS", "PING_INTERVAL", "READY_WITHIN", "OneOfMany", "Peer", "Target", "ping"]

PING_INTERVAL = 30.0
READY_WITHIN = 10.0


@dataclass(frozen=True)
class Target:
    """Where to connect to, and who is calling."""

    url: str
    api_key: str
    ssl_context: ssl.SSLContext | None

    broker = 1003

    @property
    def subscribe(self) -> str:
        return json.dumps({"event": "sub", "apiKey": self.api_key, "broker": self.broker})


class Peer(Protocol):
    """Made with (Target, on_push); `on_push` is called on whatever thread the client uses."""

    def start(self) -> None:
        """Connects and subscribes; returns when pushes can come."""

    def stop(self) -> None:
        """Closes the connection and ends its threads."""


class OneOfMany(Peer, Protocol):
    """One that a process has many of: all of them begin before the first is waited for."""

    def begin(self) -> None:
        """Begins to connect."""

    def wait_ready(self, timeout: float) -> None:
        """Waits until it is subscribed. Raises TimeoutError if it is not within `timeout` s."""


Factory = Callable[[Target, Callable[[Any], None]], Peer]


def ping() -> str:
    return json.dumps({"ping": int(time.time() * 1000)})


def _spec(label: str, module: str, factory: str, **more: Any) -> Spec:
    return Spec(label, f"benchmarks.peers.{module}", factory, **more)


PEERS = {
    "app-gzip-json": _spec("WebSocketApp + gzip + json", "websocket_app", "gzip_json"),
    "app-isal-orjson": _spec("WebSocketApp + isal + orjson", "websocket_app", "isal_orjson"),
    "websockets": _spec("websockets (threads) + isal + orjson", "websockets_sync", "Client"),
    "picows": _spec("picows + isal + orjson, uvloop", "picows_uvloop", "Client"),
    "fastpos-pure": _spec("fastpos, pure", "fastpos_stream", "Client", native=False),
    "fastpos-native": _spec("fastpos, native", "fastpos_stream", "Client", native=True),
    "fastpos-native-fleet": _spec("fastpos, native, Fleet", "fastpos_fleet", "Client", native=True),
    "fastpos-pure-journal": _spec(
        "fastpos, pure, journal", "fastpos_journal", "Client", native=False
    ),
    "fastpos-native-journal": _spec(
        "fastpos, native, journal", "fastpos_journal", "Client", native=True
    ),
    "fastpos-pure-publisher": _spec(
        "fastpos, pure, publisher", "fastpos_publisher", "Client", native=False
    ),
    "fastpos-native-publisher": _spec(
        "fastpos, native, publisher", "fastpos_publisher", "Client", native=True
    ),
    # With nothing decoded: what it costs to get a frame off the socket.
    "recv-empty": _spec("websocket-client, WebSocket.recv_data", "websocket_recv", "Client"),
    "app-empty": _spec("websocket-client, WebSocketApp", "websocket_app", "empty"),
    "fastpos-pure-empty": _spec(
        "fastpos connection, pure", "fastpos_connection", "Client", native=False
    ),
    "fastpos-native-empty": _spec(
        "fastpos connection, native (inflates)",
        "fastpos_connection",
        "Client",
        native=True,
    ),
}
