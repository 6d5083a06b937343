"""picows, the fastest asyncio client: its core API on uvloop, the payload read in place.

A process has one loop, for as many connections as there are.
"""

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import Callable
from typing import Any

import orjson
import uvloop
from isal import isal_zlib
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.peers import PING_INTERVAL, READY_WITHIN, Target, ping

__all__ = ["Client"]


class _Listener(WSListener):
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._target = target
        self._on_push = on_push
        self._binary = WSMsgType.BINARY  # an attribute of an enum is a slow thing to look up
        self._decompress = isal_zlib.decompress
        self._loads = orjson.loads
        self.subscribed = asyncio.get_running_loop().create_future()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is self._binary:
            data = self._decompress(frame.get_payload_as_memoryview(), 31)
            self._on_push(self._loads(data))
        elif frame.msg_type == WSMsgType.TEXT:
            text = frame.get_payload_as_ascii_text()
            if text == "connect success":
                transport.send(WSMsgType.TEXT, self._target.subscribe.encode())
            elif text == "sub success":
                self.subscribed.set_result(None)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """The process's, which runs."""
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class Client:
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._target = target
        self._on_push = on_push

    def start(self) -> None:
        self.begin()
        self.wait_ready(READY_WITHIN)

    def begin(self) -> None:
        self._connecting: concurrent.futures.Future[None] | None
        self._connecting = asyncio.run_coroutine_threadsafe(self._connect(), _loop())

    def wait_ready(self, timeout: float) -> None:
        assert self._connecting is not None
        self._connecting.result(timeout)
        self._connecting = None

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._disconnect(), _loop()).result(5)

    async def _connect(self) -> None:
        self._transport, listener = await ws_connect(
            lambda: _Listener(self._target, self._on_push),
            self._target.url,
            ssl_context=self._target.ssl_context,
            extra_headers={"api-key": self._target.api_key},
        )
        assert isinstance(listener, _Listener)
        await listener.subscribed
        self._pinging = asyncio.ensure_future(self._ping())

    async def _disconnect(self) -> None:
        self._pinging.cancel()
        self._transport.disconnect()
        await self._transport.wait_disconnected()

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL)
            self._transport.send(WSMsgType.TEXT, ping().encode())
