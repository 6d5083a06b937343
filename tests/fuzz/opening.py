"""The answers to the opening handshake: of the server to the upgrade, of a proxy to CONNECT.

An input is one byte that says which proxy there is, if any, and what the peer says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any
from unittest import mock

import websocket._handshake

import fastpos.net.connection
from fastpos import AuthenticationError, FastposError
from fastpos.errors import ConnectionFailed
from fastpos.net.address import parse_proxy
from fastpos.net.connection import Connection
from fastpos.net.upgrade import MAX_HANDSHAKE, MAX_RETRY_AFTER
from fastpos.wire.credential import Credential
from tests.fuzz.mutators import mutate_bytes
from tests.support.upgrade import upgrade_response

SECRET = "fuzzed-token-91b3e4"
PASSWORD = "fuzzed-password-c2"
URL = "ws://exchange.example/position_order/ws"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
RIGHT = upgrade_response(KEY)
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
PROXIES = ("", f"http://user:{PASSWORD}@proxy", f"socks5h://user:{PASSWORD}@proxy")

LINES = [
    *RIGHT.split(b"\r\n")[:4],
    b"HTTP/1.1 407 Proxy Authentication Required",
    b"Upgrade: x, WebSocket",
    b"Connection: close",
    b"Sec-WebSocket-Accept: " + ACCEPT.upper(),
    b"Sec-WebSocket-Extensions: permessage-deflate",
    b"Sec-WebSocket-Protocol: mqtt",
    b"Content-Length: 99999999999",
    b"Content-Length: -1",
    b"Set-Cookie: a=b; Domain=exchange.example",
    b"Retry-After: 99999999999999999999",
    b"Retry-After: Fri, 31 Dec 9999 23:59:59 +9999",
    b"Location: wss://elsewhere/?token=" + SECRET.encode(),
    b"no colon",
    b"Two: colons: here",
    b"",
]

ANSWER = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ")


class Peer:
    """What `fastpos.net.transport.Transport` is to its users; the peer says `data` and is gone."""

    def __init__(self, data: bytes) -> None:
        self.left = data
        self.closed = False

    def peek(self, size: int) -> bytes:
        return self.left[:size]

    def read_into(self, view: memoryview, ciphertext: memoryview | None = None) -> int:
        count = min(len(view), len(self.left))
        if not count:
            raise EOFError("the peer ended the connection")
        view[:count], self.left = self.left[:count], self.left[count:]
        return count

    def wait(self, timeout: float) -> bool:
        return True

    def send(self, data: bytes, timeout: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def shutdown(self) -> None:
        self.left = b""

    def unread(self) -> bool:
        return bool(self.left)


def one(data: bytes) -> None:
    if not data:
        return
    proxy = PROXIES[data[0] % len(PROXIES)]
    said, peer = data[1:], Peer(data[1:])
    error = opened(peer, proxy)
    assert len(said) - len(peer.left) <= MAX_HANDSHAKE * (2 if proxy else 1)
    if error is None:
        assert not peer.closed
        assert ACCEPT.lower() in said[: len(said) - len(peer.left)].lower()
        assert said[: len(said) - len(peer.left)].endswith(b"\n")
    else:
        assert peer.closed
        check_error(error, SECRET, *[PASSWORD] * bool(proxy))
    if not proxy and said.startswith(RIGHT):
        assert error is None, repr(error)
        assert peer.left == said[len(RIGHT) :]
    if not proxy and (answer := ANSWER.match(said)) and answer[1] != b"101":
        assert error is not None


def opened(peer: Peer, proxy: str) -> FastposError | None:
    """How opening a connection to `peer` fails; None if it does not."""
    credential = Credential("token", SECRET)
    credential.get()

    def connect(*_: object) -> Any:
        return peer

    with (
        replaced(fastpos.net.connection, "connect_tcp", connect),
        replaced(websocket._handshake, "_create_sec_websocket_key", lambda: KEY),
    ):
        try:
            Connection(
                URL,
                {"token": SECRET},
                connect_timeout=60,
                proxy=parse_proxy(proxy) if proxy else None,
                hide=credential.hide,
            ).open()
        except (ConnectionFailed, AuthenticationError) as error:
            return error
    return None


replaced: Callable[..., Any] = mock.patch.object


def check_error(error: FastposError, *secrets: str) -> None:
    assert len(str(error)) < 1000
    assert "exchange.example" in str(error) or "proxy" in str(error)
    shown = f"{error!r} {error} {error.__cause__!r} {vars(error)}"
    for secret in secrets:
        assert secret not in shown
    if isinstance(error, ConnectionFailed) and error.retry_after is not None:
        assert 0 <= error.retry_after <= MAX_RETRY_AFTER


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    random = Random(seed)
    if random.random() < 0.4:
        return mutate_bytes(data, max_size)
    if random.random() < 0.4:
        status = b" %d " % random.choice([101, random.randrange(100, 600)])
        return re.sub(rb" [0-9]{3} ", status, data, count=random.randrange(2))[:max_size]
    lines = data[1:].split(b"\r\n")
    at = random.randrange(len(lines))
    lines[at : at + random.randrange(2)] = random.choices(LINES, k=random.randrange(2))
    return (data[:1] + b"\r\n".join(lines))[:max_size]
