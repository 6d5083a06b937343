"""fastpos with a publisher, to a Redis of its own."""

from collections.abc import Callable
from typing import Any

from benchmarks import redis_server
from benchmarks.peers import Target, fastpos_stream
from fastpos.redis import Publisher

__all__ = ["Client"]

if redis_server.WHY_NOT:
    raise ImportError(redis_server.WHY_NOT)


class Client(fastpos_stream.Client):
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._server = redis_server.Server()
        super().__init__(target, on_push, publisher=Publisher(self._server.url))

    def stop(self) -> None:
        super().stop()
        self._server.close()
