"""picows, the fastest asyncio client: its core API on uvloop, the payload read in place."""

import asyncio
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


class Client:
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._target = target
        self._on_push = on_push
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._background: set[asyncio.Future[Any]] = set()

    def start(self) -> None:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._connect(), self._loop).result(READY_WITHIN)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

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
