"""A connected TCP socket with one reader and any number of senders.

Threads: one thread reads, and it alone closes. Any thread may send or `shutdown`. `_lock` guards
the socket's sending side, `_pending` and, in the TLS subclass, the OpenSSL object; it is held for
work in memory and for system calls that can't block, never while waiting. It may be entered again
by the thread that holds it, for the sake of a signal handler that has interrupted it and calls
`shutdown`, which changes nothing that others rely on.

Where the platform has MSG_DONTWAIT the socket stays in blocking mode, so that a read which waits
for data gives up the GIL once, not twice (once to poll, once to read): beside a busy thread each
time can cost the whole switch interval.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import Any

from ..clock import monotonic

__all__ = ["Transport", "new_selector"]

# macOS has the flag, and does not heed it when it sends.
_DONTWAIT: int = 0 if sys.platform == "darwin" else getattr(socket, "MSG_DONTWAIT", 0)
new_selector: type[selectors.BaseSelector] = getattr(
    selectors, "PollSelector", selectors.SelectSelector
)
"""For a few sockets and one wait; it needs no descriptor of its own."""

_UNDER_WAY = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY}
# How often a reader that waits goes back to Python, where signals are handled, seconds.
INTERRUPT_CHECK = 0.5
_INTERRUPT_CHECK = struct.pack("@ll", 0, int(INTERRUPT_CHECK * 1e6))  # a struct timeval
# More than this waiting to be sent means that the peer has long stopped reading.
MAX_PENDING = 256 * 1024


class Transport:
    """Bytes to and from a peer, in the clear (see tls.py for the other kind)."""

    __slots__ = ("_closed", "_dontwait", "_lock", "_pending", "_shut", "_sock", "_waits")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.RLock()
        self._pending = bytearray()
        self._closed = False
        self._shut = False
        self._waits = True  # whether a read waits while there is nothing
        # A socket of gevent's waits in `send` whatever the flags say.
        self._dontwait = _DONTWAIT if type(sock).__module__ == "socket" else 0
        sock.setblocking(bool(self._dontwait))

    # --- the reader's -----------------------------------------------------------------------

    def begin_connect(self, place: Any) -> None:
        """Begin to connect to the socket address `place`; raises OSError if it fails at once.

        It has connected or failed when the socket is writable; then call `end_connect`.
        """
        self._sock.setblocking(False)
        code = self._sock.connect_ex(place)
        if code and code not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))

    def end_connect(self) -> None:
        """Make the connection ready for use; raises OSError if it has failed."""
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self._sock.setblocking(bool(self._dontwait))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        """Give the socket's descriptor, for a selector."""
        return self._sock.fileno()

    def detach(self) -> socket.socket:
        """Give the socket away; this object is of no use any more."""
        with self._lock:
            self._closed = True
            return self._sock

    def wake_for_signals(self) -> None:
        """Have reads that wait go back to Python now and then.

        Only there are signals handled, and one that comes just before the system call that waits
        does not end it. The main thread needs this, which alone handles them. It is the system's
        own time-out for a read, and costs nothing while data comes.
        """
        with suppress(OSError):  # or else the signal waits for the next data
            if self._dontwait:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _INTERRUPT_CHECK)

    def never_wait(self) -> None:
        """Have `read_into` raise BlockingIOError where there is nothing: a selector tells."""
        self._waits = False
        self._sock.setblocking(False)

    @property
    def has_more(self) -> bool:
        """Whether there is something to be had that no selector knows of."""
        return False

    def wait(self, timeout: float) -> bool:
        """Wait until there is something to read, at most `timeout` seconds; True if there is."""
        deadline = monotonic() + timeout
        while not self._wait(selectors.EVENT_READ, min(timeout, INTERRUPT_CHECK)):
            timeout = deadline - monotonic()
            if timeout <= 0:
                return False
        return True

    def peek(self, size: int) -> bytes:
        """Give what could be read at once, and leave it there; nothing where that can't be told."""
        if not self._dontwait:
            return b""
        try:
            return self._sock.recv(size, socket.MSG_PEEK | self._dontwait)
        except OSError:  # the next read tells
            return b""

    def read_into(self, view: memoryview, ciphertext: memoryview | None = None) -> int:
        """Read what there is into `view`; wait while there is nothing (see `never_wait`).

        Args:
            view: where to put it.
            ciphertext: a buffer that TLS may use meanwhile.

        Returns:
            How many bytes were put there; 0 where what came makes no whole byte of the peer's
            yet, which TLS knows.

        Raises:
            EOFError: the peer has ended the connection; the message says how.
            OSError: the connection failed.
        """
        count = self._receive_into(view)
        if not count:
            raise EOFError("the peer ended the connection")
        return count

    def _receive_into(self, view: memoryview) -> int:
        while True:
            try:
                return self._sock.recv_into(view)
            except BlockingIOError:
                if not self._waits:
                    raise
                if not self._dontwait:  # else the system has waited already
                    self._wait(selectors.EVENT_READ, INTERRUPT_CHECK)

    def close(self) -> None:
        """Close the socket."""
        with self._lock:  # no send may be under way: the descriptor's number is soon another's
            self._closed = True
            with suppress(OSError):  # wakes a sender that waits, which a mere close does not
                self._sock.shutdown(socket.SHUT_RDWR)
            self._sock.close()

    # --- anybody's --------------------------------------------------------------------------

    def unread(self) -> bool:
        """Whether there are bytes that the reader has not taken yet."""
        return self._wait(selectors.EVENT_READ, 0)

    def send(self, data: bytes, timeout: float) -> None:
        """Send `data`, after all that was sent before.

        Args:
            data: the bytes.
            timeout: seconds to wait while the peer does not read. With 0 what can't be sent at
                once is kept, and goes out before the next send's data.

        Raises:
            TimeoutError: the peer does not read.
            OSError: the connection failed.
        """
        deadline = monotonic() + timeout
        with self._lock:
            self._check_open()
            self._pending += self._encode(data)
            self._flush()
            left = len(self._pending)
        if left and not timeout:
            if left > MAX_PENDING:
                raise TimeoutError("the peer does not read what is sent")
            return
        while left:
            remaining = deadline - monotonic()
            if remaining <= 0 or not self._wait(selectors.EVENT_WRITE, remaining):
                raise TimeoutError("the peer does not read what is sent")
            with self._lock:
                self._check_open()
                self._flush()
                left = len(self._pending)

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionAbortedError("the connection is closed")

    @property
    def is_shut(self) -> bool:
        """Whether `shutdown` was called."""
        return self._shut

    def shutdown(self) -> None:
        """End the connection at once; a reader that waits is woken by it."""
        with self._lock:
            self._shut = True
            if not self._closed:
                with suppress(OSError):  # it may not be connected yet, or no more
                    self._sock.shutdown(socket.SHUT_RDWR)

    # --- for the subclass -------------------------------------------------------------------

    def _encode(self, data: bytes) -> bytes:
        """What goes over the wire for `data`; called under the lock."""
        return data

    def _flush(self) -> None:
        """Send what the kernel takes of what is pending; called under the lock."""
        while self._pending:
            # Not pending while it is sent: a Ctrl-C right after that must not have it sent again.
            data, self._pending = self._pending, bytearray()
            try:
                sent = self._sock.send(data, self._dontwait)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                self._pending = data[sent:]
            if not sent:
                return

    def _wait(self, event: int, timeout: float | None) -> bool:
        with new_selector() as selector:
            try:
                selector.register(self._sock, event)
            except (ValueError, OSError):  # closed by the reader while a sender was waiting
                raise ConnectionAbortedError("the connection is closed") from None
            return bool(selector.select(timeout))
