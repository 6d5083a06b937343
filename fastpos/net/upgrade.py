"""The HTTP upgrade to a WebSocket (RFC 6455, section 4), by websocket-client.

Neither it nor python-socks (see proxy.py) limits how long the whole may take or how much a peer may
send, so both see the socket through `Guarded`, which does: one deadline and one limit for
everything from the first byte to the last of the HTTP answer.

The headers that carry credentials never pass through websocket-client, whose
``enableTrace(True)`` prints all that does: `Upgrading` puts them into the request on its way.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from time import time
from types import ModuleType
from typing import Any

from ..clock import monotonic
from ..errors import AuthenticationError, ConnectionFailed
from ..printable import printable
from .transport import Transport

__all__ = ["Guarded", "Upgrading", "import_websocket_client", "upgrade"]

# All that a server (or proxy) may send before the connection is up, bytes.
MAX_HANDSHAKE = 64 * 1024
LINE = 1024  # a line of the answer is hardly longer, bytes
# A server may ask for so much time until the next attempt, seconds; not every platform's waits
# can be longer than some weeks.
MAX_RETRY_AFTER = 24 * 3600.0
_OF_WEBSOCKET_CLIENT = ("ABNF", "WebSocket", "WebSocketBadStatusException", "WebSocketException")
# What an answer that accepts says: a credential that is part of it by chance is not hidden in it.
_WORD = r"(?:websocket|upgrade|keep-alive|[\w+/]{27}=)"
_EXPECTED = rf"{_WORD}(?:\s*,\s*{_WORD})*\s*"  # compiled when needed, which takes a while
# Where in a line something else can begin.
_BEGIN = rb"HTTP/[\d.]+ \d+ |[\w-]+:\s*"


class Guarded:
    """A transport as a socket, with a deadline and a limit on what is received."""

    def __init__(self, transport: Transport, deadline: float, peer: str) -> None:
        self._transport = transport
        self._deadline = deadline
        self.peer = peer
        self._left = MAX_HANDSHAKE

    def recv(self, size: int) -> bytes:
        buffer = bytearray(min(size, self._left))
        if not buffer:
            raise ConnectionFailed(
                f"{self.peer}: an answer of over {MAX_HANDSHAKE // 1024} KiB to the handshake"
            )
        count = 0
        while not count:
            remaining = self._deadline - monotonic()
            if remaining <= 0 or not self._transport.wait(remaining):
                raise ConnectionFailed(f"{self.peer}: no whole answer to the handshake in time")
            try:
                count = self._transport.read_into(memoryview(buffer))
            except EOFError:
                raise ConnectionFailed(
                    f"{self.peer}: closed the connection during the handshake"
                ) from None
        self._left -= count
        return bytes(buffer[:count])

    def send(self, data: bytes) -> int:
        self._transport.send(data, max(self._deadline - monotonic(), 0.001))
        return len(data)

    sendall = send

    def gettimeout(self) -> float:
        return max(self._deadline - monotonic(), 0.001)

    def settimeout(self, timeout: float | None) -> None:
        """The deadline is what counts."""

    def close(self) -> None:
        """The transport is closed by whoever opened it."""


class Upgrading(Guarded):
    """The HTTP request and its answer, as websocket-client is to see them.

    The request gets headers that it does not know. Of the answer it does not see two headers on
    which it acts: for a Content-Length it reads the body of a refusal, whatever length is
    announced, and cookies it keeps for all connections of the process.

    Args:
        transport: to the server.
        deadline: for all of it, `clock.monotonic()`.
        peer: the server, for messages.
        headers: to be sent, in place of websocket-client's own; None: such a one is left out.
        hide: takes credentials out of what the server says.
    """

    def __init__(
        self,
        transport: Transport,
        deadline: float,
        peer: str,
        headers: Mapping[str, str | None] | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        super().__init__(transport, deadline, peer)
        self._headers = headers or {}
        self.hide = hide
        self._line = b""

    def send(self, data: bytes) -> int:
        super().send(_with_headers(data, self._headers))
        return len(data)

    sendall = send

    def recv(self, size: int) -> bytes:
        while not self._line:
            line = b""
            while not line.endswith(b"\n"):
                # Not beyond its end: what follows the answer is no longer HTTP.
                there = self._transport.peek(LINE)
                line += super().recv(there.find(b"\n") + 1 or len(there) or 1)
            name = line.partition(b":")[0].strip().lower()
            if name not in (b"content-length", b"set-cookie"):
                self._line = self._fit_to_be_traced(line)
        data, self._line = self._line[:size], self._line[size:]
        return data

    def _fit_to_be_traced(self, line: bytes) -> bytes:
        begin = re.match(_BEGIN, line)
        start = 0 if begin is None else begin.end()
        text = line[start:].decode("utf-8", "surrogateescape").rstrip("\r\n")
        hidden = self.hide(text)
        if hidden != "***" and re.fullmatch(_EXPECTED, text, re.I):
            return line
        return line[:start] + f"{printable(hidden, MAX_HANDSHAKE)}\r\n".encode()


def _with_headers(request: bytes, headers: Mapping[str, str | None]) -> bytes:
    """Put headers into a request, in place of those of the same name; None: there is none."""
    ours = {name.lower() for name in headers}
    first, *lines = request.decode().rstrip("\r\n").split("\r\n")
    kept = [line for line in lines if line.partition(":")[0].strip().lower() not in ours]
    added = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([first, *kept, *added, "", ""]).encode()


def import_websocket_client() -> ModuleType:
    """Give websocket-client's module. With the first start, as it takes longer than this package.

    Raises:
        ImportError: it is not installed, or another module has its name.
    """
    import websocket  # noqa: PLC0415

    if not all(hasattr(websocket, name) for name in _OF_WEBSOCKET_CLIENT):
        where = getattr(websocket, "__file__", None) or [*getattr(websocket, "__path__", ())]
        raise ImportError(
            f"the module 'websocket' is {where}, which is not websocket-client's and hides it: "
            "give it another name, or uninstall the package that it belongs to",
            name="websocket",
        )
    return websocket


def upgrade(upgrading: Upgrading, url: str) -> None:
    """Become a WebSocket.

    Raises:
        AuthenticationError: the answer was HTTP 401 or 403.
        ConnectionFailed: the answer was another, or none.
    """
    websocket = import_websocket_client()
    peer, hide = upgrading.peer, upgrading.hide
    client: Any = websocket.WebSocket(enable_multithread=False)
    try:
        client.connect(url, socket=upgrading, redirect_limit=0)
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(peer, error.status_code, error.resp_headers or {}, hide) from None
    except (websocket.WebSocketException, ValueError) as error:
        if client.handshake_response is None:
            said = printable(hide(str(error)))
            raise ConnectionFailed(f"{peer}: not a WebSocket server's answer: {said}") from None
    answer = client.handshake_response
    assert answer is not None
    if answer.status != 101:
        raise _refusal(peer, answer.status, answer.headers, hide)
    for header in ("sec-websocket-extensions", "sec-websocket-protocol"):
        if answer.headers.get(header):
            raise ConnectionFailed(f"{peer}: answers with {header}, of which nothing was offered")


def _refusal(
    peer: str, status: int | None, headers: Mapping[str, str], hide: Callable[[str], str]
) -> Exception:
    if status is None or not 100 <= status <= 999:
        return ConnectionFailed(f"{peer}: not a WebSocket server's answer: no status")
    if status == 401 or (status == 403 and not _is_of_an_edge(headers)):
        return AuthenticationError(f"{peer}: the credential is refused: HTTP {status}")
    if 300 <= status < 400:
        where = printable(hide(headers.get("location", "nowhere")))
        return ConnectionFailed(
            f"{peer}: redirects to '{where}', which is not followed: "
            "the credential is for this host only",
            status,
        ).advising("Give the address it leads to as url, if that is the exchange's.")
    return ConnectionFailed(
        f"{peer}: the upgrade is refused: HTTP {status}",
        status,
        _seconds(headers.get("retry-after")),
    )


def _is_of_an_edge(headers: Mapping[str, str]) -> bool:
    """Whether an answer comes from what stands before the exchange and has seen no credential.

    A CDN or a firewall says so by its name, its own headers, or a page for a person; a rate limiter
    by the time to wait.
    """
    return (
        "cloudflare" in headers.get("server", "").lower()
        or any(name.lower().startswith("cf-") for name in headers)
        or "retry-after" in headers
        or "text/html" in headers.get("content-type", "").lower()
    )


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), None if unclear."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        seconds = float(retry_after)
    else:
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 -- large, and rarely needed

        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
