"""fastpos as a user has it: a started stream, a function for each kind of push."""

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.peers import READY_WITHIN, Target
from fastpos import PositionStream

__all__ = ["Client"]


class Client:
    """One call of `on_push` for each of `MIXED`: an ACCOUNT_UPDATE counts by its position."""

    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._stopping = False
        self._stream = PositionStream(
            target.url,
            api_key=target.api_key,
            broker=target.broker,
            ssl_context=target.ssl_context,
            on_position=on_push,
            on_adl_price=on_push,
            on_order=on_push,
            on_disconnect=self._disconnected,
        )

    def start(self) -> None:
        self._stream.start()
        if not self._stream.wait_ready(READY_WITHIN):
            raise TimeoutError("not subscribed")

    def stop(self) -> None:
        self._stopping = True
        self._stream.stop()

    def _disconnected(self, event: Any) -> None:
        if not self._stopping:  # what was under way is lost, and the measurement with it
            print(event, file=sys.stderr, flush=True)
