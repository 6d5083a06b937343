"""`Crowd`: an exchange for many accounts and several workers, which knows who was connected when.

A client's API key is ``<account>@<worker>``: each worker has keys of its own in its environment.
All of it runs on one thread, in an event loop; `_lock` guards `visits` and what is in them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from tests.support.frames import CLOSE, TEXT, frame, text_frame, whole_frames
from tests.support.pushes import push_frame
from tests.support.rig import LOOPBACK, TIMEOUT, Rig
from tests.support.upgrade import request_in, upgrade_response


@dataclass(eq=False)
class Visit:
    """A worker's connection for an account; times are `time.monotonic`'s."""

    account: str
    worker: str
    began: float
    subscribed: float = inf
    ended: float = inf
    unsubscribed: bool = False


class _Client(asyncio.Protocol):
    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._buffer = b""
        self.visit: Visit | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        if self.visit is not None:
            with self._crowd.lock:
                self.visit.ended = min(self.visit.ended, time.monotonic())
            self._crowd.clients.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self.visit is None:
            if b"\r\n\r\n" not in self._buffer:
                return
            _, headers, self._buffer = request_in(self._buffer)
            account, _, worker = headers["api-key"].partition("@")
            self.visit = Visit(account, worker, time.monotonic())
            with self._crowd.lock:
                self._crowd.visits.append(self.visit)
            self._crowd.clients.add(self)
            greeting = text_frame("connect success")
            self.transport.write(upgrade_response(headers["sec-websocket-key"]) + greeting)
        frames, self._buffer = whole_frames(self._buffer)
        for each in frames:
            if each.opcode == TEXT and b'"ping"' in each.payload:
                self.transport.write(text_frame(f'{{"pong":{time.time_ns() // 1000000}}}'))
            elif each.opcode == TEXT and b'"sub"' in each.payload:
                with self._crowd.lock:  # before anybody can say that it is
                    self.visit.subscribed = time.monotonic()
                self.transport.write(text_frame("sub success"))
            elif each.opcode == TEXT and b'"unsub"' in each.payload:
                self.visit.unsubscribed = True
            elif each.opcode == CLOSE:
                self.transport.write(frame(CLOSE, each.payload))
                self.transport.close()


class Crowd(Rig):
    """Serves whoever comes, and sends each subscribed client an order now and then.

    Args:
        rate: so many orders a second each.
    """

    def __init__(self, rate: float = 2.0) -> None:
        super().__init__()
        self._rate = rate
        self.lock = threading.Lock()
        self.visits: list[Visit] = []
        self.clients: set[_Client] = set()  # the loop's

    @property
    def url(self) -> str:
        return f"ws://{LOOPBACK}:{self._port}/"

    def _start(self) -> None:
        listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        self._port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._cleanup.callback(self._stop, thread)
        asyncio.run_coroutine_threadsafe(self._begin(listener), self._loop).result(TIMEOUT)

    def _stop(self, thread: threading.Thread) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(TIMEOUT)
        self._loop.close()

    async def _begin(self, listener: socket.socket) -> None:
        self._server = await self._loop.create_server(
            lambda: _Client(self), sock=listener, backlog=1024
        )
        self._pushing = self._loop.create_task(self._push())

    async def _end(self) -> None:
        self._server.close()
        for client in tuple(self.clients):
            client.transport.abort()
        self._pushing.cancel()
        with suppress(asyncio.CancelledError):
            await self._pushing

    async def _push(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(1 / self._rate)
            number += 1
            order = {"orderId": "1", "volume": number, "orderAction": "1"}
            data = push_frame({"channel": "order", "order": order})
            for client in self.clients:
                if client.visit is not None and client.visit.subscribed != inf:
                    client.transport.write(data)

    # --- for tests --------------------------------------------------------------------------

    def owners(self, asleep: Collection[str] = ()) -> dict[str, set[str]]:
        """By account, the workers that are subscribed, but for those that are held up."""
        found: dict[str, set[str]] = defaultdict(set)
        with self.lock:
            for visit in self.visits:
                if visit.subscribed != inf and visit.ended == inf and visit.worker not in asleep:
                    found[visit.account].add(visit.worker)
        return found

    def doubled(self, held_up: Collection[tuple[str, float, float]] = ()) -> list[str]:
        """When two workers were connected for one account, but for those that were held up.

        Args:
            held_up: of each worker that was, its name, since when and until when.
        """
        found = []
        of: dict[str, list[Visit]] = defaultdict(list)
        with self.lock:
            for visit in self.visits:
                of[visit.account].append(visit)
        for account, visits in of.items():
            visits.sort(key=lambda visit: visit.began)
            for number, first in enumerate(visits):
                for second in visits[number + 1 :]:
                    if second.worker == first.worker or second.began >= first.ended:
                        continue
                    excused = any(
                        who in (first.worker, second.worker)
                        and since <= second.began
                        and first.began <= until
                        for who, since, until in held_up
                    )
                    if not excused:
                        lasted = min(first.ended, time.monotonic()) - second.began
                        found.append(
                            f"{account}: {second.worker} came {lasted * 1000:.1f} ms before "
                            f"{first.worker} had gone"
                        )
        return found
