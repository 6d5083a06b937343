"""A server on a loopback socket whose behaviour is a function, and what such a function needs."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from tests.support.frames import CLOSE, ClientFrame, frame, frames, read_frame, text_frame
from tests.support.rig import LOOPBACK, TIMEOUT, Rig
from tests.support.upgrade import accept_upgrade


class ScriptedServer(Rig):
    """Runs `handler(socket)` in a thread for each connection, and closes the socket after it.

    With `ssl_context` the handler gets the `ssl.SSLSocket` after the TLS handshake. Its time-out is
    `timeout`. A handler that fails fails the test: its exception is raised when the `with` block
    ends, except those that a vanished client causes (OSError), which are only kept in `errors`.
    """

    port: int

    def __init__(
        self,
        handler: Callable[[socket.socket], object],
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self._handler = handler
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._closing = False
        self.accepted = 0
        self.finished = 0

    @property
    def url(self) -> str:
        return f"{'wss' if self._ssl_context else 'ws'}://{LOOPBACK}:{self.port}/"

    def wait_finished(self, count: int, timeout: float = TIMEOUT) -> None:
        """Until the handlers of so many connections have returned, over all."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.finished >= count, timeout):
                raise AssertionError(f"{self.finished} connections ended, not {count}")

    def __exit__(self, kind: object, *more: object) -> None:
        super().__exit__(kind, *more)
        for failure in self.errors if kind is None else ():
            if not isinstance(failure, OSError):
                raise failure

    def _start(self) -> None:
        listener = self._cleanup.enter_context(socket.create_server((LOOPBACK, 0), backlog=128))
        self.port = listener.getsockname()[1]
        acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        acceptor.start()
        self._cleanup.callback(self._stop, acceptor)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with self._changed:
                if self._closing:
                    connection.close()
                    return
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                self._sockets.add(connection)
                self.accepted += 1
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        connection: socket.socket | ssl.SSLSocket = raw
        try:
            raw.settimeout(self._timeout)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                # Known before its handshake, so that the end of the test cuts that short too.
                with self._changed:
                    connection = self._ssl_context.wrap_socket(
                        raw,
                        server_side=True,
                        do_handshake_on_connect=False,
                        suppress_ragged_eofs=False,
                    )
                    self._sockets.discard(raw)
                    self._sockets.add(connection)
                    if self._closing:
                        return
                connection.do_handshake()
            self._handler(connection)
        except Exception as error:
            self.errors.append(error)
        finally:
            with self._changed:
                self._sockets.discard(raw)
                self._sockets.discard(connection)
                connection.close()
                self.finished += 1
                self._changed.notify_all()

    def _stop(self, acceptor: threading.Thread) -> None:
        with self._changed:
            self._closing = True
            for connection in self._sockets:
                # Wakes a handler that waits; the plain socket's method, for no TLS object is to be
                # used by two threads.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        # Not every system wakes an accept() whose socket is closed; a connection always does.
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), TIMEOUT):
            pass
        for thread in (acceptor, *self._threads):
            thread.join(TIMEOUT)
            if thread.is_alive():
                raise AssertionError("a handler of ScriptedServer does not return")


# --- an exchange's manners --------------------------------------------------------------------


def serve_subscription(peer: socket.socket) -> ClientFrame:
    """A right upgrade, greeting and subscription; the client's sub message."""
    accept_upgrade(peer, text_frame("connect success"))
    message = read_frame(peer)
    peer.sendall(text_frame("sub success"))
    return message


def echo(peer: Any) -> None:
    """Accept the upgrade, and say again what is said."""
    accept_upgrade(peer)
    for received in frames(peer):
        peer.sendall(frame(received.opcode, received.payload))


def answer_until_close(peer: socket.socket) -> list[ClientFrame]:
    """Read to the client's close frame and answer that; the frames that were read."""
    heard = []
    while True:
        heard.append(read_frame(peer))
        if heard[-1].opcode == CLOSE:
            peer.sendall(frame(CLOSE, heard[-1].payload))
            return heard
