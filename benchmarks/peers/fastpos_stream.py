"""fastpos as a user has it: a started stream, a function for each kind of push."""

import sys
from collections.abc import Callable
from typing import Any

from benchmarks.peers import READY_WITHIN, Target
from fastpos import PositionStream

__all__ = ["Client"]


class Client:
    """One call of `on_push` for each of `MIXED`: an ACCOUNT_UPDATE counts by its position."""

    def __init__(self, target: Target, on_push: Callable[[Any], None], **arguments: Any) -> None:
        self._stopping = False
        self.stream = PositionStream(
            target.url,
            api_key=target.api_key,
            broker=target.broker,
            ssl_context=target.ssl_context,
            on_position=on_push,
            on_adl_price=on_push,
            on_order=on_push,
            on_disconnect=self._disconnected,
            tick_timeout=600.0,  # a peer gets nothing while it is another's turn
            **arguments,
        )

    def start(self) -> None:
        self.begin()
        self.wait_ready(READY_WITHIN)

    def begin(self) -> None:
        self.stream.start()

    def wait_ready(self, timeout: float) -> None:
        if not self.stream.wait_ready(timeout):
            raise TimeoutError("not subscribed")

    def stop(self) -> None:
        self._stopping = True
        self.stream.stop()

    def _disconnected(self, event: Any) -> None:
        if not self._stopping:  # what was under way is lost, and the measurement with it
            print(event, file=sys.stderr, flush=True)
