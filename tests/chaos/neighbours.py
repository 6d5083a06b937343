"""The other streams of a fleet: at exchanges where nothing goes wrong, so nothing may be seen.

Half of them are connected over TCP and half over TLS.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from fastpos import PositionStream
from fastpos.simulator import Exchange
from tests.chaos.market import Market, sessions
from tests.chaos.settings import MARGIN, PING_INTERVAL, PONG_TIMEOUT, contexts
from tests.support import rig
from tests.support.recording import Recorder, until

# Their events are fewer, as each of them goes to many: one in so many of the faulty exchange's.
SELDOM = 5


class Neighbours(rig.Rig):
    """Entered, their exchanges are there; they are for a fleet to run."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.streams: list[PositionStream] = []
        self._count = count
        self._due = 0
        self._told: list[tuple[Market, Recorder]] = []
        self.markets: list[Market] = []
        """Theirs, over TCP and over TLS; they are at one and the other in turn."""

    def _start(self) -> None:
        if not self._count:
            return
        server, client = contexts()
        for context in (None, server):
            # Who does not ping in time is disconnected; the host's clock may be wrong.
            exchange = Exchange(
                ssl_context=context, ping_timeout=PING_INTERVAL + MARGIN, ping_tolerance=1e9
            )
            self.markets.append(Market(self._cleanup.enter_context(exchange)))
            self.markets[-1].open()
        for number in range(self._count):
            market, recorder = self.markets[number % 2], Recorder()
            self._told.append((market, recorder))
            exchange = market.exchange
            stream = PositionStream(
                exchange.url,
                api_key=exchange.api_key,
                broker=exchange.broker,
                name=f"neighbour-{number}",
                proxy="",
                ssl_context=client,
                ping_interval=PING_INTERVAL,
                pong_timeout=PONG_TIMEOUT,
                **recorder.callbacks,  # type: ignore[arg-type]
            )
            self.streams.append(stream)

    def happen(self) -> None:
        """Let an event happen on each exchange, if it is time for one."""
        self._due += 1
        for market in self.markets if self._due % SELDOM == 0 else ():
            market.happen()

    def settle(self) -> None:
        """Wait until all of them have everything; if they never do, `problems` tells."""
        with suppress(AssertionError):
            until(lambda: all(market.is_known_to(recorder) for market, recorder in self._told))

    def problems(self, held: float) -> list[str]:
        """What they have seen of a fault that held up their callbacks for so many seconds."""
        found: list[str] = []
        for stream, (market, recorder) in zip(self.streams, self._told, strict=True):
            seen = [event.reason for event in recorder.on_disconnect] + recorder.on_error
            if sessions(recorder) != [[*range(1, market.events + 1)]]:
                seen.append("not every event came, once and in order")
            times = sorted(recorder.times["on_order"] + recorder.times["on_position"])
            silent = max((b - a for a, b in pairwise(times)), default=0.0)
            if silent > held + MARGIN:
                seen.append(f"nothing came for {silent:.2f} s")
            found += [f"{stream.name}: {what}" for what in seen]
        for exchange in (market.exchange for market in self.markets):
            found += [f"a neighbours' exchange complains: {text}" for text in exchange.violations]
            late = exchange.counts["timeout"]
            found += [f"{late} neighbours pinged too late"] if late else []
        return found
