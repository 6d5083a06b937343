"""One WebSocket connection: opened, read in batches, sent on, closed.

Threads: one thread, the reader, calls `open`, `receive` and `end`. Any thread may call the
others. `_lock` guards `_transport` and `_failure`; the sending side has the transport's own lock.
`waiting`, `reads` and `last_heard` are written by the reader and looked at by others.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from time import monotonic, time_ns

from ..errors import ConnectionFailed, FastposError, ProtocolError
from ..wire.frames import CLOSE, PING, PONG, TEXT, FrameParser, Message, parse_close
from ..wire.inflate import Splitter
from .opening import Address, open_transport
from .transport import Transport

__all__ = ["Connection", "ConnectionEnded"]

# How long the peer's part of the closing handshake is waited for, seconds.
CLOSE_TIMEOUT = 1.0


class ConnectionEnded(Exception):
    """The connection has ended.

    Attributes:
        reason: how, for a person.
        close_code: of the peer's close frame, None where it sent none.
        error: the failure, None where it was none.
    """

    def __init__(
        self, reason: str, close_code: int | None = None, error: FastposError | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = close_code
        self.error = error


class Connection:
    """A client's connection to a WebSocket server (RFC 6455), without extensions.

    Args:
        url: a ws or wss URL.
        headers: to be sent with the upgrade.
        connect_timeout: seconds for the whole of opening.
        max_message_size: largest message taken, bytes.
        ssl_context: TLS settings; needed for wss.
        proxy: to go through, or None.
        splitter: see `FrameParser`.
        hide: takes credentials out of what a server said.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        connect_timeout: float = 10.0,
        max_message_size: int = 1024 * 1024,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Address | None = None,
        splitter: Splitter | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._url = url
        self._headers = headers or {}
        self._connect_timeout = connect_timeout
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._hide = hide
        self._parser = FrameParser(max_message_size, splitter)
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._failure: ConnectionEnded | None = None
        self.received_ns = 0
        """When the bytes at hand were read, `time.time_ns()`."""
        self.last_heard = monotonic()
        """When something was last read, or the peer ended the connection, `time.monotonic()`."""
        self.waiting = False
        """True while the reader waits for the peer: it has handled all that it read."""
        self.reads = 0
        """How many reads there were."""
        self.bytes_received = 0
        """How many bytes they brought."""

    # --- the reader's -----------------------------------------------------------------------

    def open(self) -> None:
        """Connect.

        Raises:
            AuthenticationError: HTTP 401 or 403.
            ConnectionFailed: anything else.
            ConnectionEnded: `abort` was called.
        """
        try:
            transport = open_transport(
                self._url,
                self._headers,
                timeout=self._connect_timeout,
                context=self._ssl_context,
                proxy=self._proxy,
                adopt=self._adopt,
                hide=self._hide,
            )
            self._adopt(transport)
        except (FastposError, OSError):
            if self._failure is not None:
                raise self._failure from None
            raise
        self.last_heard = monotonic()

    def _adopt(self, transport: Transport) -> None:
        with self._lock:
            if self._failure is not None:
                raise ConnectionAbortedError(self._failure.reason)
            self._transport = transport

    def receive(self, timeout: float | None = None) -> Iterator[Message]:
        """Read once, what there is, and give the messages that are complete with it.

        Control frames are handled here and not given. There may be no message: when the time
        is up, or what came completes none.

        Args:
            timeout: seconds to wait for something to read, None for ever.

        Raises:
            ConnectionEnded: and how. The messages that came before are given first.
        """
        transport, parser = self._transport, self._parser
        assert transport is not None
        free = parser.writable()
        self.waiting = True
        try:
            if timeout is not None and not transport.wait(timeout):
                return
            count = transport.read_into(free)
        except (EOFError, OSError) as error:
            raise self._lost(error) from error
        finally:
            self.waiting = False
            self.reads += 1
        self.received_ns = time_ns()
        self.last_heard = monotonic()
        self.bytes_received += count
        parser.wrote(count)
        try:
            for message in parser.messages():
                if message[0] & 0x8:
                    self._control(*message)
                else:
                    yield message
        except ProtocolError as error:
            self.close(error.close_code)
            self._drain()
            raise ConnectionEnded(f"protocol error: {error}", None, error) from error

    def end(self) -> None:
        """Close the socket. The connection is of no use any more."""
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            try:
                self._send(PONG, payload, 0.0)
            except TimeoutError as error:
                raise self._lost(error) from error
            except OSError:  # the next read tells; what came after the ping must not be lost
                pass
        elif opcode == CLOSE:
            code, reason = parse_close(payload)
            self.close(code if code != 1005 else None)
            self._drain()
            said = f": {self._hide(reason)}" if reason else ""
            raise ConnectionEnded(f"closed by the server with code {code}{said}", code)

    def _lost(self, error: Exception) -> ConnectionEnded:
        if self._failure is not None:  # the end was made by `abort`
            return self._failure
        if isinstance(error, EOFError):  # it comes in order, so nothing was lost before it
            self.last_heard = monotonic()
        reason = f"the connection was lost: {error}"
        return ConnectionEnded(reason, None, ConnectionFailed(reason))

    def _drain(self) -> None:
        """Wait for the peer to end the connection; it is the server's to do so."""
        transport = self._transport
        assert transport is not None
        deadline = monotonic() + CLOSE_TIMEOUT
        scratch = memoryview(bytearray(4096))
        try:
            while (remaining := deadline - monotonic()) > 0 and transport.wait(remaining):
                transport.read_into(scratch)
        except (EOFError, OSError):
            pass

    # --- anybody's --------------------------------------------------------------------------

    def send(self, payload: str | bytes, opcode: int = TEXT, timeout: float = 0.0) -> None:
        """Send a message.

        Args:
            payload: str for TEXT, bytes for BINARY.
            opcode: TEXT or BINARY.
            timeout: seconds to wait while the peer does not read; with 0 what can't be sent at
                once goes out with the next message.

        Raises:
            OSError: it could not be sent: the connection failed or the peer does not read.
        """
        self._send(opcode, payload, timeout)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a close frame, once, after which nothing is sent any more."""
        payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
        with suppress(OSError):  # it has ended in another way
            self._send(CLOSE, payload, 0.0)

    def abort(self, reason: str, error: FastposError | None = None) -> None:
        """End the connection at once; the reader gets ConnectionEnded with this reason."""
        with self._lock:
            if self._failure is None:
                self._failure = ConnectionEnded(reason, None, error)
            transport = self._transport
        if transport is not None:
            transport.shutdown()

    def silent(self) -> bool:
        """Whether the reader has nothing to read: all that the peer has sent was handled."""
        with self._lock:
            transport = self._transport
        try:
            return self.waiting and transport is not None and not transport.unread()
        except OSError:
            return False

    def _send(self, opcode: int, payload: str | bytes, timeout: float) -> None:
        from websocket import ABNF  # noqa: PLC0415 -- see opening.py

        frame: bytes = ABNF.create_frame(payload, opcode).format()
        with self._lock:
            transport = self._transport
        if transport is None:
            raise ConnectionAbortedError("the connection is closed")
        transport.send(frame, timeout, last=opcode == CLOSE)
