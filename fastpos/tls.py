"""TLS over memory BIOs: ciphertext in one read, records decrypted from memory.

An OpenSSL connection must not be used by two threads at once, and here one reads while others
write; an `ssl.SSLSocket` besides reads one record at a time and gives up the GIL for each. With
an `ssl.SSLObject` the socket is ours: `_lock` (see transport.py) is held around every use of the
object, which is only ever work in memory, and around handing the ciphertext to the socket, so
that records keep their order.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from time import monotonic
from typing import Any

from .transport import Transport

__all__ = ["TlsTransport"]

CIPHERTEXT_SIZE = 32 * 1024  # two of TLS's largest records


class TlsTransport(Transport):
    """Bytes to and from a peer, encrypted.

    Args:
        sock: a connected socket on which nothing was exchanged yet.
        context: client-side settings; they decide what is verified.
        hostname: the server's name, for its certificate and for SNI.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        super().__init__(sock)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._ciphertext = memoryview(bytearray(CIPHERTEXT_SIZE))
        # The reader's: there may be something to be had without reading the socket.
        self._unread = False
        self._ended: Exception | None = None  # what that is, when there are no more bytes

    def handshake(self, deadline: float) -> None:
        """Shake hands, until `deadline` (`time.monotonic`).

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
                self._unread = True
                return
            if remaining <= 0 or not super().wait(remaining):
                raise TimeoutError("the TLS handshake took too long")
            self._take_ciphertext()

    def wait(self, timeout: float | None) -> bool:
        """Wait until there is something to read (see `Transport.wait`)."""
        return self._unread or super().wait(timeout)

    def read_into(self, view: memoryview) -> int:
        """Decrypt what there is into `view` (see `Transport.read_into`)."""
        if not self._unread:  # else this must not wait: `wait` said that there is something
            self._take_ciphertext()
        return self._decrypt(view)

    def _take_ciphertext(self) -> None:
        count = self._receive_into(self._ciphertext)
        with self._lock:
            if count:
                self._incoming.write(self._ciphertext[:count])
            else:
                self._incoming.write_eof()

    def _decrypt(self, view: memoryview) -> int:
        """Decrypt into `view` until it is full or there is no whole record left."""
        if self._ended is not None:
            raise self._ended
        total, size = 0, len(view)
        self._unread = True
        with self._lock:
            try:
                while total < size:
                    count: Any = self._tls.read(size - total, view[total:])
                    if not count:
                        raise ssl.SSLZeroReturnError
                    total += count
            except ssl.SSLWantReadError:
                self._unread = False
            except ssl.SSLError as error:
                # OpenSSL tells it only once. With the next call, if there are bytes before it.
                self._ended = _end(error)
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


def _end(error: ssl.SSLError) -> Exception:
    if isinstance(error, ssl.SSLZeroReturnError):
        return EOFError("the peer ended the TLS connection")
    if isinstance(error, ssl.SSLEOFError):
        return EOFError("the peer ended the connection without TLS's close_notify")
    return error
