"""One client's connection: a socket that never makes its sender wait, and the record of it.

`websockets` runs the protocol on a `Link`; the `Link` is given a `Transport` in place of a socket.
All that goes out is queued there, in one order, and written by one thread. So whoever pushes never
waits for a client, a client that does not read holds up nobody, and a stalled server is one whose
queues take nothing in. TLS runs over memory BIOs: an OpenSSL object must not be used by two threads
at once, and here one reads while another writes.

Locks, from the outside in: the exchange's, a transport's `_lock` (its queue and flags), `_tls_lock`
(the TLS object). None is held while a socket is written to or waited for.
"""

import contextlib
import os
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from websockets.frames import Frame
from websockets.sync.server import ServerConnection

from ._faults import Faults
from ._wire import CLOSE, PONG

_QUEUE_LIMIT = 256 * 1024 * 1024  # bytes; more than this unsent, and the client is cut off
_ABORT = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # SO_LINGER: close with a reset


@dataclass
class Connection:
    """What the exchange knows of one client, from the upgrade on; stays when it has gone."""

    number: int = 0
    """1 for the exchange's first client, and so on."""
    kind: str = ""
    """`"token"` or `"api-key"`: the credential of the upgrade."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """The upgrade's headers by name, as spelled by the client; credentials are hidden."""
    connected_at: float = 0.0
    """When the upgrade was answered (`time.monotonic`)."""
    alive: bool = False
    """True from the upgrade until either side ends the connection."""
    subscribed: bool = False
    """Whether pushes go to it now."""
    subscriptions: list[float] = field(default_factory=list, repr=False)
    """When each `sub success` was sent (`time.monotonic`)."""
    refusals: list[str] = field(default_factory=list)
    """The texts that answered refused subscriptions."""
    unsubscribed_at: float | None = None
    """When the last `unsub` came (`time.monotonic`)."""
    pings: list[tuple[float, int]] = field(default_factory=list, repr=False)
    """The heartbeats: when each came (`time.monotonic`), and its value (ms)."""
    pongs: list[bytes] = field(default_factory=list, repr=False)
    """The payloads of the WebSocket pong frames that came."""
    unanswered_pings: list[int] = field(default_factory=list, repr=False)
    """What `json_ping` asked and the client has not answered yet."""
    close_code: int | None = None
    """The code of the client's close frame; 1005 when it held none; None when none came."""
    close_reason: str = ""
    """The reason in the client's close frame."""
    timed_out: bool = False
    """Whether the exchange ended it for want of a ping."""
    ended_at: float | None = None
    """When its socket was closed (`time.monotonic`)."""
    link: "Link | None" = field(default=None, repr=False, compare=False)
    """The live connection behind the record; not for tests."""


class Owner(Protocol):
    """What a link needs of its server."""

    faults: Faults

    def pong_received(self, link: "Link", data: bytes) -> None:
        """Called for each pong frame, on the link's reading thread."""

    def close_received(self, link: "Link") -> None:
        """Called once, on the same, when a close frame has come, and before it is answered."""

    def link_closed(self, transport: "Transport") -> None:
        """Called once, when the transport's socket is closed."""


class Transport:
    """What `websockets` takes for a connected socket (the methods it uses, no more)."""

    def __init__(self, raw: socket.socket, owner: Owner, tls: ssl.SSLContext | None) -> None:
        self.family: socket.AddressFamily = raw.family
        self.owner = owner
        self.finished: threading.Event = threading.Event()
        self.linked = False  # whether a Link uses it
        self._link: Link | None = None  # which, once it has begun
        raw.setblocking(False)
        self._raw = raw
        self._lock = threading.RLock()  # see fastpos/wakeup.py
        self._cond = threading.Condition(self._lock)
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._upgraded = False
        self._ended = False  # nothing more may be queued
        self._half_close = False  # after the queue, end our direction
        self._closing = False  # after the queue, close the socket
        self._aborted = False
        self._patience: float | None = None  # seconds for the peer to end it, after the queue
        self._recv_lock = threading.Lock()  # keeps the descriptor alive while recv uses it
        self._tls: ssl.SSLObject | None = None
        self._tls_lock = threading.Lock()
        self._tls_in, self._tls_out = ssl.MemoryBIO(), ssl.MemoryBIO()
        if tls is not None:
            self._tls = tls.wrap_bio(self._tls_in, self._tls_out, server_side=True)
        self._writer: threading.Thread | None = None

    # For the exchange: none of these waits.

    def put(self, data: bytes, *, last: bool = False) -> bool:
        """Queue `data`; with `last`, nothing may follow it. False when the connection is ending."""
        with self._lock:
            if self._ended:
                return False
            self._queue.append(data)
            self._queued += len(data)
            self._ended = last
            if len(self._queue) == 1:
                self._cond.notify_all()
            overflow = self._queued > _QUEUE_LIMIT and len(self._queue) > 1
        if overflow:
            self.abort()
            return False
        return True

    def finish(self, patience: float) -> None:
        """Take nothing more; when the peer has not ended it `patience` seconds later, close."""
        with self._lock:
            self._ended = True
            self._patience = patience
            self._cond.notify_all()

    def hang_up(self) -> None:
        """End our direction after what is queued, without a close frame, then as `finish`."""
        with self._lock:
            self._half_close = True
        self.finish(1.0)

    def abort(self) -> None:
        """Reset the TCP connection, now; what is queued is lost."""
        with self._lock:
            if self.finished.is_set():
                return
            self._aborted = self._ended = True
            self._queue.clear()
            with contextlib.suppress(OSError):
                self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                self._raw.shutdown(socket.SHUT_RD)  # wakes the reader; the peer sees no FIN
            self._cond.notify_all()

    def start(self, link: "Link") -> None:
        """Start the writing thread; from now on it is the one that closes the socket."""
        self._link = link
        self._writer = threading.Thread(
            target=self._run, args=(link,), name="fastpos-exchange-writer", daemon=True
        )
        self._writer.start()

    def join(self, timeout: float) -> None:
        """Wait for the writing thread's end."""
        if self._writer is not None:
            self._writer.join(timeout)

    def wake(self) -> None:
        """Make waiting threads look at the faults again."""
        with self._lock:
            self._cond.notify_all()

    # For websockets.

    def sendall(self, data: bytes) -> None:
        """Queue what the protocol says by itself: the upgrade's answer, pongs, close frames."""
        faults = self.owner.faults
        opcode = data[0] & 0x0F if self._upgraded else None
        self._upgraded = True
        if opcode == CLOSE and self._link is not None:
            self._link.note_close()  # the client has not ended before that is known
        if (opcode == PONG and not faults.pongs) or (opcode == CLOSE and not faults.closes):
            return
        self.put(data, last=opcode == CLOSE)

    def shutdown(self, how: int) -> None:
        """End our direction after what is queued."""
        if how == socket.SHUT_WR and self._upgraded and not self.owner.faults.closes:
            return
        self.hang_up()

    def close(self) -> None:
        """Close after what is queued."""
        with self._lock:
            self._closing = self._ended = True
            if not self.finished.is_set():
                with contextlib.suppress(OSError):
                    self._raw.shutdown(socket.SHUT_RD)  # wakes the reader
            self._cond.notify_all()
        if not self.linked:
            self._dispose()

    def recv(self, size: int) -> bytes:
        """Wait for data; b"" at the end."""
        while True:
            with self._lock:
                self._cond.wait_for(
                    lambda: self.owner.faults.reading or self._aborted or self._closing
                )
            with self._recv_lock:
                if self.finished.is_set():
                    return b""
                try:
                    data = self._raw.recv(size)
                except BlockingIOError:
                    self._wait_for(selectors.EVENT_READ, None)
                    continue
                if self._tls is None:
                    return data
                plain, at_end = self._decrypt(data)
                if plain or at_end:
                    return plain

    def fileno(self) -> int:
        return self._raw.fileno()

    def getsockname(self) -> Any:
        return self._raw.getsockname()

    def getpeername(self) -> Any:
        return self._raw.getpeername()

    def setsockopt(self, *args: Any) -> None:
        with contextlib.suppress(OSError):  # aborted already
            self._raw.setsockopt(*args)

    def settimeout(self, timeout: float | None) -> None:
        """Nothing to do: sending never waits."""

    # The writing thread.

    def _run(self, link: "Link") -> None:
        try:
            while self._write_next():
                pass
        except OSError:
            pass  # the peer has gone; the reading thread hears of it too
        finally:
            # The reader must have left, by itself, before the descriptor is closed: closed under
            # it, it would wait for ever; told to by `close_socket`, it may trip over its last data.
            self.close()
            link.reader_left.wait(1.0)
            self._dispose()
            link.close_socket()  # for a reader that was stuck

    def _write_next(self) -> bool:
        """Write what is queued, or wait for it; False when the socket is to be closed."""
        half_closing = False
        with self._lock:
            give_up_at: float | None = None
            while not (self._queue or self._aborted or self._closing or self._half_close):
                if self._tls_out.pending:
                    break
                if self._patience is not None and give_up_at is None:
                    give_up_at = time.monotonic() + self._patience
                left = None if give_up_at is None else give_up_at - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._cond.wait(left)
            if self._aborted:
                return False
            frames = list(self._queue)
            self._queue.clear()
            self._queued = 0
            half_closing, self._half_close = self._half_close, False
            closing = self._closing
        self._write(self._encrypt(frames, half_closing or closing))
        if half_closing:
            self._raw.shutdown(socket.SHUT_WR)
        return not closing

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._aborted:
            trickle = self.owner.faults.trickle
            try:
                sent = self._raw.send(view if trickle is None else view[: trickle[0]])
            except BlockingIOError:
                # The time-out is for an abort, which must not wake us by a shutdown: that is a FIN.
                self._wait_for(selectors.EVENT_WRITE, 0.05)
                continue
            view = view[sent:]
            if trickle is not None and trickle[1]:
                with self._lock:
                    self._cond.wait_for(
                        lambda: self._aborted or self.owner.faults.trickle is None, trickle[1]
                    )

    def _wait_for(self, event: int, timeout: float | None) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._raw, event)
            selector.select(timeout)

    def _dispose(self) -> None:
        with self._lock:
            if self.finished.is_set():
                return
            self._ended = True
            self._queue.clear()
            with contextlib.suppress(OSError):
                self._raw.shutdown(socket.SHUT_RD)
            self.finished.set()
            self._cond.notify_all()
        with self._recv_lock:
            self._raw.close()
        self.owner.link_closed(self)

    # TLS, in memory only.

    def _encrypt(self, frames: list[bytes], ending: bool) -> bytes:
        if self._tls is None:
            return b"".join(frames)
        with self._tls_lock:
            for data in frames:  # a record for each, as a server that does not batch sends them
                view = memoryview(data)
                while view:
                    view = view[self._tls.write(view) :]
            if ending:
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()  # queues close_notify; the peer's is not waited for
            return self._tls_out.read()

    def _decrypt(self, data: bytes) -> tuple[bytes, bool]:
        """All the plain text there is now, and whether no more will come."""
        assert self._tls is not None
        pieces: list[bytes] = []
        at_end = False
        with self._tls_lock:
            if data:
                self._tls_in.write(data)
            else:
                self._tls_in.write_eof()
            try:
                while piece := self._tls.read(65536):
                    pieces.append(piece)
                at_end = True
            except ssl.SSLWantReadError:
                at_end = not data
            except ssl.SSLError:  # close_notify, a bare end, or a failed handshake
                at_end = True
            answer = self._tls_out.pending
        if answer:
            self.wake()
        return b"".join(pieces), at_end


class Link(ServerConnection):
    """A `websockets` connection that tells its owner of every frame."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        self.transport: Transport = cast(Transport, sock)
        self.transport.linked = True
        self.reader_left: threading.Event = (
            threading.Event()
        )  # joining a thread twice at once is not safe
        self.record: Connection = Connection(link=self)
        self._has_noted = False  # that the client's close frame came; under `protocol_mutex`
        super().__init__(sock, *args, **kwargs)
        self.recv_events_thread.name = "fastpos-exchange-reader"
        self.transport.start(self)

    def recv_events(self) -> None:
        """See `ServerConnection`; all that the reading thread does."""
        try:
            super().recv_events()
        finally:
            self.reader_left.set()

    def process_event(self, event: Any) -> None:
        """See `ServerConnection`; called on the reading thread."""
        super().process_event(event)
        if isinstance(event, Frame) and event.opcode == PONG:
            self.transport.owner.pong_received(self, bytes(event.data))
        elif isinstance(event, Frame) and event.opcode == CLOSE:
            self.note_close()

    def note_close(self) -> None:
        """Tell the owner if a close frame has come, once."""
        if self.protocol.close_rcvd is not None and not self._has_noted:
            self._has_noted = True
            self.transport.owner.close_received(self)


class Listener:
    """What `websockets` takes for a listening socket: it hands out transports."""

    def __init__(self, raw: socket.socket, adopt: Callable[[socket.socket], Transport]) -> None:
        self.family = raw.family
        self._raw = raw
        self._adopt = adopt

    def accept(self) -> tuple[Transport, Any]:
        while True:
            try:
                raw, address = self._raw.accept()
            except ConnectionAbortedError:
                continue  # this client has gone already; others come
            return self._adopt(raw), address

    def fileno(self) -> int:
        return self._raw.fileno()

    def getsockname(self) -> Any:
        return self._raw.getsockname()

    def close(self) -> None:
        self._raw.close()
