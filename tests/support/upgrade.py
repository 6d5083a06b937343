"""A server's side of the opening handshake (RFC 6455, section 4.2)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from tests.support.frames import Peer, read_exactly


def read_request(peer: Peer) -> tuple[str, dict[str, str]]:
    """The request line and the headers, their names in lower case; no byte after them is read."""
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        data += read_exactly(peer, 1)
    request_line, headers, _ = request_in(bytes(data))
    return request_line, headers


def request_in(data: bytes) -> tuple[str, dict[str, str], bytes]:
    """The same of bytes that hold a whole request, and what comes after it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    request_line, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return request_line, {name.strip().lower(): value.strip() for name, _, value in pairs}, rest


def upgrade_response(key: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The 101 that accepts a `Sec-WebSocket-Key`."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    answer = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    return f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode("latin-1")


def accept_upgrade(peer: Peer, first_data: bytes = b"") -> dict[str, str]:
    """Reads the upgrade and accepts it; `first_data` leaves in the same write as the 101."""
    _, headers = read_request(peer)
    peer.sendall(upgrade_response(headers["sec-websocket-key"]) + first_data)
    return headers
