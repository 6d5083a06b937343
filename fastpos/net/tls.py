"""TLS over memory BIOs: ciphertext in one read, records decrypted from memory.

An OpenSSL connection must not be used by two threads at once, and here one reads while others
write; an `ssl.SSLSocket` besides reads one record at a time and gives up the GIL for each. With
an `ssl.SSLObject` the socket is ours: `_lock` (see transport.py) is held around every use of the
object, which is only ever work in memory, and around handing the ciphertext to the socket, so
that records keep their order.

`SSLObject.read`, too, gives one record and lets go of the GIL for it. `_tls.Reader` decrypts all
that is there with the GIL held; where it was not built, with ``FASTPOS_PURE=1`` in the environment,
or if it does not find what it needs in this Python's `ssl`, records are read one by one.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .._c import mechanism, why_not
from ..clock import monotonic
from ..logs import fields, log
from .transport import Transport

if TYPE_CHECKING:
    from .._c._tls import Reader

__all__ = ["CIPHERTEXT_SIZE", "TlsTransport", "direct_error"]

# Two of the largest records are read at once; OpenSSL keeps the room that it once needed.
CIPHERTEXT_SIZE = 32 * 1024

_KINDS: dict[int, type[ssl.SSLError]] = {
    ssl.SSL_ERROR_ZERO_RETURN: ssl.SSLZeroReturnError,
    ssl.SSL_ERROR_EOF: ssl.SSLEOFError,
    ssl.SSL_ERROR_SYSCALL: ssl.SSLSyscallError,
}


_tls = mechanism("_tls")
_Reader: type[Reader] | None = None if _tls is None else _tls.Reader

direct_error: str | None = why_not.get("_tls")
"""Why records are read one by one; None when they are read directly."""


class TlsTransport(Transport):
    """Bytes to and from a peer, encrypted.

    Args:
        sock: a connected socket on which nothing was exchanged yet.
        context: client-side settings; they decide what is verified.
        hostname: the server's name, for its certificate and for SNI.
    """

    __slots__ = ("_ended", "_incoming", "_outgoing", "_reader", "_tls", "_unread")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._reader: Reader | None = None  # for `_tls`, after the handshake; under `_lock` as well
        # The reader's: there may be something to be had without reading the socket.
        self._unread = False
        self._ended: Exception | None = None  # what that is, when there are no more bytes

    def handshake(self, deadline: float) -> None:
        """Shake hands, until `deadline` (`clock.monotonic`).

        Raises:
            TimeoutError: the peer took too long.
            ssl.SSLError: it failed; `ssl.SSLCertVerificationError` where the certificate is wrong.
            OSError: the connection failed.
        """
        while True:
            failure = None
            with self._lock:
                try:
                    self._tls.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
                except ssl.SSLError as error:
                    failure = error
            remaining = deadline - monotonic()
            try:
                self.send(b"", max(remaining, 0.0))  # flights of ours, and alerts
            except OSError:
                if failure is None:
                    raise
            if failure is not None:
                raise failure
            if done:
                self._reader = self._new_reader()
                self._unread = True
                return
            if remaining <= 0 or not super().wait(remaining):
                raise TimeoutError("the TLS handshake took too long")
            self._take_ciphertext(memoryview(bytearray(CIPHERTEXT_SIZE)))

    def _new_reader(self) -> Reader | None:
        if _Reader is None:
            return None
        try:
            with self._lock:
                return _Reader(self._tls, self._incoming)
        except ValueError as error:
            log.debug(
                "TLS records are read one by one: %s",
                error,
                extra=fields("tls_by_ssl_module", reason=str(error)),
            )
            return None

    @property
    def has_more(self) -> bool:
        """Whether there is something to be had that no selector knows of."""
        return self._unread

    def wait(self, timeout: float) -> bool:
        """Wait until there is something to read (see `Transport.wait`)."""
        return self._unread or super().wait(timeout)

    def peek(self, size: int) -> bytes:
        """Give nothing: what is there is encrypted."""
        return b""

    def read_into(self, view: memoryview, ciphertext: memoryview | None = None) -> int:
        """Decrypt what there is into `view` (see `Transport.read_into`)."""
        if not self._unread:  # else this must not wait: `wait` said that there is something
            if ciphertext is None:
                ciphertext = memoryview(bytearray(CIPHERTEXT_SIZE))
            self._take_ciphertext(ciphertext)
        return self._decrypt(view)

    def _take_ciphertext(self, buffer: memoryview) -> None:
        count = self._receive_into(buffer)
        with self._lock:
            if count:
                self._incoming.write(buffer[:count])
            else:
                self._incoming.write_eof()

    def _decrypt(self, view: memoryview) -> int:
        """Decrypt into `view` until it is full or there is no whole record left."""
        if self._ended is not None:
            raise self._ended
        self._unread = True
        with self._lock:
            if self._reader is not None:
                total, failure = _read_directly(self._reader, view)
            else:
                total, failure = _read_one_by_one(self._tls, view)
            self._unread = failure is not None or total == len(view)
            if failure is not None:
                # OpenSSL tells it only once. With the next call, if there are bytes before it.
                self._ended = _end(failure)
                if not total:
                    raise self._ended from None
            # What TLS itself has to say (an alert; to a renegotiation) is in the outgoing BIO now.
            if self._outgoing.pending:
                self._pending += self._outgoing.read()
                with suppress(OSError):  # the next read tells; what was decrypted must not be lost
                    self._flush()
        return total

    def close(self) -> None:
        """Send TLS's close_notify, if that needs no waiting, and close the socket."""
        with self._lock:
            # It raises when it wants the peer's close_notify, or the connection is broken.
            with suppress(ssl.SSLError, ValueError):
                self._tls.unwrap()
            with suppress(OSError):
                self._pending += self._outgoing.read()
                self._flush()
        super().close()

    def _encode(self, data: bytes) -> bytes:
        if data:
            self._tls.write(data)
        return self._outgoing.read()


def _read_directly(reader: Reader, view: memoryview) -> tuple[int, ssl.SSLError | None]:
    """Decrypt into `view`; give the count of bytes put there, and the failure that ended it."""
    count, code, reason = reader.read(view)
    if code in (ssl.SSL_ERROR_WANT_READ, 0):
        return count, None
    return count, _error(code, reason)


def _read_one_by_one(tls: ssl.SSLObject, view: memoryview) -> tuple[int, ssl.SSLError | None]:
    """The same through `ssl`."""
    total, size = 0, len(view)
    try:
        while total < size:
            count: Any = tls.read(size - total, view[total:])
            if not count:
                raise ssl.SSLZeroReturnError
            total += count
    except ssl.SSLWantReadError:
        pass
    except ssl.SSLError as error:
        return total, error
    return total, None


def _error(code: int, reason: str | None) -> ssl.SSLError:
    """What `ssl` makes of an error of OpenSSL's."""
    kind = _KINDS.get(code, ssl.SSLError)
    name = (reason or "unknown error").upper().replace(" ", "_")
    error = kind(code, f"[SSL: {name}] {reason}")
    error.library, error.reason = "SSL", name
    return error


def _end(error: ssl.SSLError) -> Exception:
    if isinstance(error, ssl.SSLZeroReturnError):
        return EOFError("the peer ended the TLS connection")
    if isinstance(error, ssl.SSLEOFError):
        return EOFError("the peer ended the connection without TLS's close_notify")
    return error
