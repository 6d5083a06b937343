"""One connection: opened up to and including the HTTP upgrade, read, sent on, ended.

Opening goes in order: TCP, a proxy if there is one, TLS, the upgrade; all of it within one time,
and to be ended by another thread at any moment.

Threads: one thread, the reader, calls `open`, `read_into`, `wait` and `end`. Any thread may call
the others. `_lock` guards `_transport` and `_shut`, and is not held while anything is waited for;
the sending side has the transport's own lock.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping

from ..clock import monotonic
from ..errors import ConnectionFailed
from ..tracebacks import clears_locals
from .address import Address, Source, parse_url
from .dial import connect_tcp
from .proxy import hiding_login, open_tunnel
from .tls import TlsTransport
from .transport import Transport
from .upgrade import Guarded, Upgrading, upgrade

__all__ = ["Connection", "start_tls"]


class Connection:
    """A client's connection to a WebSocket server: bytes to and from it.

    Args:
        url: a ws or wss URL.
        headers: to be sent with the upgrade, in place of websocket-client's own; None: such a one
            is left out.
        connect_timeout: seconds for the whole of opening.
        ssl_context: TLS settings; needed for wss.
        proxy: to go through, or None.
        source: where to connect from; None: the system chooses.
        hide: takes credentials out of what a server said.
    """

    __slots__ = (
        "_connect_timeout", "_headers", "_hide", "_lock", "_proxy", "_shut", "_source",
        "_ssl_context", "_transport", "_url",
    )  # fmt: skip

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str | None] | None = None,
        *,
        connect_timeout: float = 10.0,
        ssl_context: ssl.SSLContext | None = None,
        proxy: Address | None = None,
        source: Source | None = None,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._url = url
        self._headers = headers or {}
        self._connect_timeout = connect_timeout
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._source = source
        self._hide = hide
        self._lock = threading.Lock()
        self._transport: Transport | None = None
        self._shut = False

    # --- the reader's -----------------------------------------------------------------------

    @clears_locals
    def open(self) -> None:
        """Connect.

        Raises:
            AuthenticationError: the upgrade was answered with HTTP 401, or with a 403 that does not
                come from what stands before the exchange.
            ConnectionFailed: it did not work out; the message says where it ended.
        """
        deadline = monotonic() + self._connect_timeout
        target = parse_url(self._url)
        proxy, hide = self._proxy, self._hide
        if proxy is not None:
            hide = hiding_login(proxy, hide)
        transport = connect_tcp(proxy or target, deadline, self._adopt, self._source)
        try:
            if proxy is not None:
                open_tunnel(Guarded(transport, deadline, f"proxy {proxy}"), proxy, target, hide)
            if target.scheme == "wss":
                assert self._ssl_context is not None
                transport = start_tls(transport, self._ssl_context, target, deadline, self._adopt)
            upgrade(Upgrading(transport, deadline, str(target), self._headers, hide), self._url)
            self._adopt(transport)
        except OSError as error:
            transport.close()
            raise ConnectionFailed(f"{target}: {error}") from error
        except BaseException:
            transport.close()
            raise

    def _adopt(self, transport: Transport) -> None:
        """Take a transport before it waits for anything, so that `shutdown` reaches it."""
        with self._lock:
            if self._shut:
                raise ConnectionAbortedError("stopped")
            self._transport = transport

    def wake_for_signals(self) -> None:
        """Have the reader look for signals now and then: it is the main thread (see transport)."""
        if self._transport is not None:
            self._transport.wake_for_signals()

    def never_wait(self) -> Transport:
        """Have reads raise BlockingIOError where there is nothing; give what the reader may read
        with nothing in between, until it calls `end`."""
        transport = self._open_transport()
        transport.never_wait()
        return transport

    def wait(self, timeout: float) -> bool:
        """Wait until there is something to read, at most `timeout` seconds; True if there is.

        Raises:
            OSError: the connection failed.
        """
        return self._open_transport().wait(timeout)

    def read_into(self, view: memoryview, ciphertext: memoryview | None = None) -> int:
        """Read what there is into `view`; wait while there is nothing.

        Args:
            view: where to put it.
            ciphertext: a buffer that TLS may use meanwhile.

        Returns:
            How many bytes were put there; it may be 0.

        Raises:
            EOFError: the peer has ended the connection; the message says how.
            OSError: the connection failed.
        """
        transport = self._transport  # not by the way of others, as each frame comes here
        if transport is None:
            transport = self._open_transport()
        return transport.read_into(view, ciphertext)

    def drain(self, deadline: float, scratch: memoryview) -> None:
        """Wait until `deadline` (`clock.monotonic`) for the peer to end the connection."""
        try:
            while (remaining := deadline - monotonic()) > 0 and self.wait(remaining):
                self.read_into(scratch)
        except (EOFError, OSError):
            pass

    def end(self) -> None:
        """Close the socket. The connection is of no use any more."""
        with self._lock:
            transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()

    # --- anybody's --------------------------------------------------------------------------

    @clears_locals
    def send(self, data: bytes, timeout: float = 0.0) -> None:
        """Send, after all that was sent before.

        Args:
            data: the bytes.
            timeout: seconds to wait while the peer does not read; with 0 what can't be sent at
                once goes out with the next.

        Raises:
            TimeoutError: the peer does not read, or with 0 has long stopped reading.
            OSError: the connection failed.
        """
        self._open_transport().send(data, timeout)

    def shutdown(self) -> None:
        """End the connection at once, wherever it is; a reader that waits is woken by it."""
        with self._lock:
            self._shut = True
            transport = self._transport
        if transport is not None:
            transport.shutdown()

    def unread(self) -> bool:
        """Whether the system has something that the reader has not taken yet; raises OSError."""
        return self._open_transport().unread()

    def _open_transport(self) -> Transport:
        transport = self._transport
        if transport is None:
            raise ConnectionAbortedError("the connection is closed")
        return transport


# --- opening, step by step ------------------------------------------------------------------------


def start_tls(
    transport: Transport,
    context: ssl.SSLContext,
    target: Address,
    deadline: float,
    adopt: Callable[[Transport], None],
) -> Transport:
    try:
        tls = TlsTransport(transport.detach(), context, target.host)
    except ValueError as error:  # the name can't be in a certificate
        raise ConnectionFailed(f"{target}: the TLS handshake failed: {error}") from error
    try:
        adopt(tls)
        tls.handshake(deadline)
    except ssl.SSLCertVerificationError as error:
        tls.close()
        raise ConnectionFailed(
            f"{target}: the server's certificate is not accepted: {error.verify_message}"
        ).advising(
            "Look at this machine's clock and certificates; a company's own authority belongs into "
            "ssl_context."
        ) from error
    except (OSError, EOFError) as error:
        tls.close()
        raise ConnectionFailed(f"{target}: the TLS handshake failed: {error}") from error
    except BaseException:
        tls.close()
        raise
    return tls
