"""A network with faults: `TcpProxy` forwards bytes, or does not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tests.support.rig import LOOPBACK, TIMEOUT, Rig, kept_port

T = TypeVar("T")

READ_SIZE = 64 * 1024


@dataclass(eq=False)
class _Connection:
    """One through a `TcpProxy`."""

    ended: bool = False
    sockets: tuple[socket.socket, ...] = ()
    tasks: tuple[asyncio.Task[None], ...] = ()


class TcpProxy(Rig):
    """Forwards bytes between its port and a target; its faults can be had at any time.

    Faults that last (`blackhole`, `pause_*`, `trickle`, `truncate_after`) hold for the connections
    there are and those to come, until `resume`. Each method returns when it has taken effect.

    All of it runs on one thread, in an event loop; the methods have that do what they say.
    """

    port: int

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__()
        self.port = 0
        self._target = (target_host, target_port)
        self._connections: list[_Connection] = []
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._forget_faults()

    def url(self, scheme: str = "ws", path: str = "/") -> str:
        return f"{scheme}://{LOOPBACK}:{self.port}{path}"

    def blackhole(self) -> None:
        """Nothing passes in either direction, ends of connections included; sockets stay open."""
        self._do(lambda: [gate.clear() for gate in self._open.values()])

    def stop_reading_client(self) -> None:
        """What the client sends is left in sockets' buffers, in the end in the client's own."""
        self._do(self._open["up"].clear)

    def pause_downstream(self) -> None:
        """The client gets nothing, while what it sends arrives."""
        self._do(self._open["down"].clear)

    def trickle(self, bytes_per_step: int = 1, interval: float = 0.0) -> None:
        """What goes to the client goes in pieces, `interval` seconds apart."""

        def slow_down() -> None:
            self._step, self._interval = bytes_per_step, interval

        self._do(slow_down)

    def truncate_after(self, size: int) -> None:
        """After `size` more bytes to the client, over all, every connection is closed."""

        def limit() -> None:
            self._allowance = size

        self._do(limit)

    def resume(self) -> None:
        """No fault is left; what was held back goes on."""
        self._do(self._forget_faults)

    def reset(self) -> None:
        """RST to both sides of every connection."""
        self._do(lambda: self._end_all(abruptly=True))

    def refuse(self) -> None:
        """New connections are refused; those there are go on."""
        self._do(self._stop_listening)

    def accept_again(self) -> None:
        self._do(self._listen)

    def _do(self, action: Callable[[], T]) -> T:
        """Have the loop's thread do it, if that still runs."""
        if self._loop.is_closed():
            return action()

        async def act() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(TIMEOUT)

    def _start(self) -> None:
        self.port = self._cleanup.enter_context(kept_port())
        self._loop = asyncio.SelectorEventLoop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._cleanup.callback(self._stop, thread)
        self._do(self._listen)

    def _stop(self, thread: threading.Thread) -> None:
        self._do(self._stop_listening)
        self._do(self._end_all)
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(TIMEOUT)
        # What was cancelled ends in one more turn.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    # --- on the loop's thread -------------------------------------------------------------------

    def _forget_faults(self) -> None:
        for gate in self._open.values():
            gate.set()
        self._step, self._interval = READ_SIZE, 0.0
        self._allowance: int | None = None

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((LOOPBACK, self.port), backlog=128)
            self._listener.setblocking(False)
            self._accepting = self._loop.create_task(self._accept(self._listener))

    def _stop_listening(self) -> None:
        if self._listener is not None and self._accepting is not None:
            self._accepting.cancel()
            # At once, and not when the task has noticed.
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            client, _ = await self._loop.sock_accept(listener)
            try:
                server = socket.create_connection(self._target, TIMEOUT)
            except OSError:
                _close(client, abruptly=True)
                continue
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection()
            self._connections.append(connection)
            connection.sockets = (client, server)
            connection.tasks = (
                self._loop.create_task(self._forward(connection, client, server, "up")),
                self._loop.create_task(self._forward(connection, server, client, "down")),
            )

    async def _forward(
        self, connection: _Connection, source: socket.socket, target: socket.socket, way: str
    ) -> None:
        try:
            while True:
                await self._open[way].wait()
                data = await self._loop.sock_recv(source, READ_SIZE)
                if not data:
                    break
                while data:
                    data = data[await self._pass_on(data, target, way) :]
            await self._open[way].wait()
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._end(connection, abruptly=True)
        if all(task.done() or task is asyncio.current_task() for task in connection.tasks):
            self._end(connection)

    async def _pass_on(self, data: bytes, target: socket.socket, way: str) -> int:
        """Forward as much as may go at once; how many bytes that was."""
        await self._open[way].wait()
        if way == "up":
            await self._loop.sock_sendall(target, data)
            return len(data)
        allowance = self._allowance
        piece = data[: self._step if allowance is None else min(self._step, allowance)]
        await self._loop.sock_sendall(target, piece)
        if self._allowance is not None:
            self._allowance -= len(piece)
            if self._allowance <= 0:
                self._allowance = None
                self._end_all()
        if self._interval:
            await asyncio.sleep(self._interval)
        return len(piece)

    def _end_all(self, abruptly: bool = False) -> None:
        for connection in self._connections:
            self._end(connection, abruptly)

    def _end(self, connection: _Connection, abruptly: bool = False) -> None:
        if not connection.ended:
            connection.ended = True
            for task in connection.tasks:
                task.cancel()
            for sock in connection.sockets:
                self._loop.remove_reader(sock)
                self._loop.remove_writer(sock)
                _close(sock, abruptly)


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
