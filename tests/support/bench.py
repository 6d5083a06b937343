"""A stream, the exchange that it talks to, and a recorder of what it tells."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fastpos import PositionStream
from fastpos.simulator import Exchange
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder


class Bench:
    """Makes streams of `exchange` that call `recorder`; they are stopped when the test ends."""

    def __init__(
        self, exchange: Exchange, recorder: Recorder, new_stream: Callable[..., PositionStream]
    ) -> None:
        self.exchange, self.recorder, self.wait = exchange, recorder, recorder.wait
        self._new_stream = new_stream
        self.entered, self.open = threading.Event(), threading.Event()

    def new(self, **options: Any) -> PositionStream:
        return self._new_stream(self.exchange, **options)

    def start(self, **options: Any) -> PositionStream:
        """One that is subscribed."""
        stream = self.new(**options).start()
        assert stream.wait_ready(SOON)
        return stream

    def push(self, *numbers: int) -> None:
        for number in numbers:
            self.exchange.push(order(number))

    @property
    def orders(self) -> list[int]:
        """The numbers that came."""
        return [int(event.order_id) for event in self.recorder.on_order]

    def gate(self, _: object) -> None:
        """A callback that waits until `open`."""
        self.entered.set()
        assert self.open.wait(SOON)
