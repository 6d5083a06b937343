"""A network with faults: `TcpProxy` forwards bytes, or does not."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from tests.support.rig import LOOPBACK, TIMEOUT, Rig

__all__ = ["ProxiedConnection", "TcpProxy"]

T = TypeVar("T")


@dataclass(eq=False)
class ProxiedConnection:
    """One connection through a `TcpProxy`, kept after its end."""

    started: float
    """`time.monotonic()` when it was accepted."""

    up_bytes: int = 0
    """Forwarded from the client to the server."""

    down_bytes: int = 0
    """Forwarded from the server to the client."""

    ended: str | None = None
    """None while it lasts, then who or what ended it."""

    _flows: tuple[_Flow, ...] = field(default=(), repr=False)


@dataclass(eq=False)
class _Flow:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    connection: ProxiedConnection
    down: bool
    waiting: bytearray = field(default_factory=bytearray)
    source_ended: bool = False
    target_told: bool = False
    not_before: float = 0.0


class TcpProxy(Rig):
    """Forwards bytes between its port and a target; its faults can be had at any time.

    Faults that last (`blackhole`, `pause_*`, `trickle`, `truncate_after`) hold for the connections
    there are and those to come, until `resume`. Each method returns when it has taken effect.
    """

    port: int

    _READ_SIZE = 64 * 1024

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__()
        self._target = (target_host, target_port)
        self._connections: list[ProxiedConnection] = []
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._orders: list[Callable[[], None]] = []
        self._orders_lock = threading.Lock()
        self._stopping = False
        self._up_paused = self._down_paused = False
        self._step = self._READ_SIZE
        self._interval = 0.0
        self._allowance: int | None = None

    def url(self, scheme: str = "ws", path: str = "/") -> str:
        return f"{scheme}://{LOOPBACK}:{self.port}{path}"

    @property
    def connections(self) -> list[ProxiedConnection]:
        """All there were, the oldest first; what they count is exact at this moment."""
        return self._order(lambda: list(self._connections))

    @property
    def open_connections(self) -> int:
        return sum(connection.ended is None for connection in self.connections)

    @property
    def up_bytes(self) -> int:
        return sum(connection.up_bytes for connection in self.connections)

    @property
    def down_bytes(self) -> int:
        return sum(connection.down_bytes for connection in self.connections)

    def blackhole(self) -> None:
        """Nothing passes in either direction, ends of connections included; sockets stay open."""
        self._order(lambda: self._pause(up=True, down=True))

    def stop_reading_client(self) -> None:
        """What the client sends is left in its socket's buffer, then in the client's own."""
        self._order(lambda: self._pause(up=True))

    def pause_downstream(self) -> None:
        """The client gets nothing, while what it sends arrives."""
        self._order(lambda: self._pause(down=True))

    def trickle(self, bytes_per_step: int = 1, interval: float = 0.0) -> None:
        """What goes to the client goes in pieces, `interval` seconds apart."""

        def slow_down() -> None:
            self._step, self._interval = bytes_per_step, interval

        self._order(slow_down)

    def truncate_after(self, size: int) -> None:
        """After `size` more bytes to the client, over all, every connection is closed."""

        def limit() -> None:
            self._allowance = size

        self._order(limit)

    def resume(self) -> None:
        """No fault is left; what was held back goes on."""
        self._order(self._forget_faults)

    def reset(self) -> None:
        """RST to both sides of every connection."""
        self._order(lambda: self._end_all("reset", abruptly=True))

    def close(self) -> None:
        """FIN to both sides of every connection."""
        self._order(lambda: self._end_all("closed"))

    def refuse(self) -> None:
        """New connections are refused; those there are go on."""
        self._order(self._stop_listening)

    def accept_again(self) -> None:
        self._order(self._listen)

    # What follows runs on the proxy's one thread, so its state needs no lock.

    def _start(self) -> None:
        self.port = 0
        self._listen()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._cleanup.callback(self._stop)

    def _stop(self) -> None:
        def leave() -> None:
            self._stop_listening()
            self._end_all("closed")
            self._stopping = True

        self._order(leave)
        self._thread.join(TIMEOUT)
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _order(self, action: Callable[[], T]) -> T:
        if self._stopping:
            return action()
        done: Future[T] = Future()

        def act() -> None:
            try:
                done.set_result(action())
            except Exception as error:
                done.set_exception(error)

        with self._orders_lock:
            self._orders.append(act)
        # A full buffer means that it will wake anyway.
        with contextlib.suppress(BlockingIOError):
            self._wake_writer.send(b"\0")
        return done.result(TIMEOUT)

    def _forget_faults(self) -> None:
        self._up_paused = self._down_paused = False
        self._step = self._READ_SIZE
        self._interval = 0.0
        self._allowance = None

    def _pause(self, up: bool = False, down: bool = False) -> None:
        self._up_paused = self._up_paused or up
        self._down_paused = self._down_paused or down

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((LOOPBACK, self.port), backlog=128)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _live(self) -> list[_Flow]:
        return [flow for connection in self._connections for flow in connection._flows]

    def _run(self) -> None:
        while not self._stopping:
            ready = {key.fileobj: mask for key, mask in self._selector.select(self._arrange())}
            if self._wake_reader in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
                with self._orders_lock:
                    orders, self._orders = self._orders, []
                for order in orders:
                    order()
            if self._listener is not None and self._listener in ready:
                self._accept(self._listener)
            for flow in self._live():
                self._forward(
                    flow,
                    bool(ready.get(flow.source, 0) & selectors.EVENT_READ),
                    bool(ready.get(flow.target, 0) & selectors.EVENT_WRITE),
                )

    def _arrange(self) -> float | None:
        """Registers what each socket is waited for; returns the seconds to the next timed step."""
        wanted: dict[socket.socket, int] = {}
        next_step: float | None = None
        now = time.monotonic()
        for flow in self._live():
            wanted.setdefault(flow.source, 0)
            if self._down_paused if flow.down else self._up_paused:
                continue
            if not flow.waiting and not flow.source_ended:
                wanted[flow.source] |= selectors.EVENT_READ
            elif flow.waiting and flow.not_before > now:
                step = flow.not_before - now
                next_step = step if next_step is None else min(step, next_step)
            elif flow.waiting:
                wanted[flow.target] = wanted.get(flow.target, 0) | selectors.EVENT_WRITE
        for sock, mask in wanted.items():
            registered = self._selector.get_map().get(sock)
            if registered is not None and not mask:
                self._selector.unregister(sock)
            elif registered is None and mask:
                self._selector.register(sock, mask)
            elif registered is not None and registered.events != mask:
                self._selector.modify(sock, mask)
        return next_step

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        connection = ProxiedConnection(started=time.monotonic())
        self._connections.append(connection)
        try:
            server = socket.create_connection(self._target, TIMEOUT)
        except OSError as error:
            connection.ended = f"the server can't be reached: {error}"
            _close(client, abruptly=True)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection._flows = (
            _Flow(client, server, connection, down=False),
            _Flow(server, client, connection, down=True),
        )

    def _forward(self, flow: _Flow, readable: bool, writable: bool) -> None:
        connection = flow.connection
        # An order or another flow may have changed everything since the wait began.
        paused = self._down_paused if flow.down else self._up_paused
        if connection.ended is not None or paused:
            return
        try:
            if readable and not flow.waiting and not flow.source_ended:
                data = flow.source.recv(self._READ_SIZE)
                flow.source_ended = not data
                flow.waiting += data
                writable = True
            if writable and flow.waiting and time.monotonic() >= flow.not_before:
                self._write(flow)
        except BlockingIOError:
            return
        except OSError as error:
            side = "server" if flow.down else "client"
            self._end(connection, f"by the {side}: {error}", abruptly=True)
            return
        if flow.source_ended and not flow.waiting and not flow.target_told:
            flow.target_told = True
            with contextlib.suppress(OSError):
                flow.target.shutdown(socket.SHUT_WR)
            if all(other.target_told for other in connection._flows):
                self._end(connection, "by the client" if flow.down else "by the server")

    def _write(self, flow: _Flow) -> None:
        size = len(flow.waiting)
        if flow.down:
            size = min(size, self._step)
            if self._allowance is not None:
                size = min(size, self._allowance)
        sent = flow.target.send(flow.waiting[:size]) if size else 0
        del flow.waiting[:sent]
        if not flow.down:
            flow.connection.up_bytes += sent
            return
        flow.connection.down_bytes += sent
        if self._interval:
            flow.not_before = time.monotonic() + self._interval
        if self._allowance is not None:
            self._allowance -= sent
            if self._allowance <= 0:
                self._allowance = None
                self._end_all("truncated")

    def _end_all(self, how: str, abruptly: bool = False) -> None:
        for connection in self._connections:
            if connection.ended is None:
                self._end(connection, how, abruptly)

    def _end(self, connection: ProxiedConnection, how: str, abruptly: bool = False) -> None:
        for flow in connection._flows:
            if self._selector.get_map().get(flow.source) is not None:
                self._selector.unregister(flow.source)
            _close(flow.source, abruptly)
        connection._flows = ()
        connection.ended = how


def _close(sock: socket.socket, abruptly: bool) -> None:
    if abruptly:
        # To linger for no time is to send RST.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        # With unread data in its buffer a close would send RST, where FIN was wanted.
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    sock.close()
