"""What a trial needs: an exchange, a network in front of it, a stream, and events that flow.

The stream is driven by itself, or by a fleet in which there are others (neighbours.py).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from fastpos import Fleet, PositionStream, ReconnectPolicy
from fastpos.simulator import Exchange
from tests.chaos.host import LOOKED_UP, Host
from tests.chaos.market import Market, sessions
from tests.chaos.neighbours import Neighbours
from tests.chaos.settings import EVENTS_PER_S, SETTINGS, contexts
from tests.support import rig
from tests.support.network import TcpProxy
from tests.support.recording import SOON, Recorder, until


class _SeededPolicy(ReconnectPolicy):
    """The default policy, its jitter taken from the trial's numbers."""

    __slots__ = ("_rand", "asked")

    def __init__(self, rand: Callable[[], float]) -> None:
        super().__init__()
        self._rand = rand
        self.asked: list[int] = []
        """The failures in a row, each time that it was asked for a wait."""

    def delay(
        self,
        failures: int,
        outage_s: float = float("inf"),
        rand: Callable[[], float] = random.random,
    ) -> float:
        self.asked.append(failures)
        return super().delay(failures, outage_s, self._rand)


class Rig(rig.Rig):
    """Entered, the stream is started and events flow; left, all has ended.

    Args:
        seed: of all that is random.
        tls: whether the faulty connection is over TLS.
        streams: so many are there. 1: it runs alone. More: a fleet drives it and the others.
        callback_threads: the fleet's.
    """

    def __init__(
        self, seed: str, *, tls: bool = False, streams: int = 1, callback_threads: int = 0
    ) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        """For whoever puts a fault in; the stream's jitter has numbers of its own."""
        server, self._client_context = contexts() if tls else (None, None)
        self.host = Host()
        self.market = Market(Exchange(ssl_context=server))
        self.exchange = self.market.exchange
        self.recorder = Recorder()
        self.policy = _SeededPolicy(random.Random(f"{seed} jitter").random)
        self.neighbours = Neighbours(streams - 1)
        self.callback_threads = callback_threads
        self._fleet: Fleet | None = None
        self._stop_feeding = threading.Event()

    def _start(self) -> None:
        enter = self._cleanup.enter_context
        enter(self.host)
        enter(self.exchange)
        self.market.open()
        self.network = enter(TcpProxy("127.0.0.1", self.exchange.port))
        scheme = "ws" if self._client_context is None else "wss"
        self.stream = PositionStream(
            f"{scheme}://{LOOKED_UP}:{self.network.port}/position_order/ws",
            api_key=self.exchange.api_key,
            broker=self.exchange.broker,
            reconnect=self.policy,
            ssl_context=self._client_context,
            proxy="",
            **SETTINGS,  # type: ignore[arg-type]
            **self.recorder.callbacks,  # type: ignore[arg-type]
        )
        enter(self.neighbours)
        if self.neighbours.streams:
            # It comes in their midst, where its place among them matters.
            some = self.neighbours.streams
            half = len(some) // 2
            everybody = [*some[:half], self.stream, *some[half:]]
            self._fleet = enter(
                Fleet(everybody, connect_rate=None, callback_threads=self.callback_threads)
            )
            assert self._fleet.wait_ready(SOON), "not all of the fleet were subscribed"
        else:
            enter(self.stream)
        assert self.stream.wait_ready(SOON), "the stream was never subscribed"
        until(lambda: bool(self.sessions), SOON, "that on_ready was called")
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()
        self._cleanup.callback(self._end_feeding)

    def start_again(self) -> None:
        """Start the stream, which has ended; in a fleet that is to take it out and in again."""
        if self._fleet is None:
            self.stream.start()
        else:
            self._fleet.remove(self.stream)
            self._fleet.add(self.stream)

    # --- events -----------------------------------------------------------------------------

    def _feed(self) -> None:
        while not self._stop_feeding.wait(1 / EVENTS_PER_S):
            self.market.happen()
            self.neighbours.happen()

    def _end_feeding(self) -> None:
        self._stop_feeding.set()
        self._feeder.join(SOON)

    def burst(self) -> None:
        """Let many events happen at once, so that what follows is in one read with them."""
        self.market.happen(self.rng.randint(5, 20))

    @property
    def sessions(self) -> list[list[int]]:
        """The numbers of the events that came after each `on_ready`; see market.py."""
        return sessions(self.recorder)

    def wait_events(self, count: int, timeout: float = SOON) -> None:
        """Wait until `count` events came since the last `on_ready`, which there is by now."""
        until(lambda: len(self.sessions[-1]) >= count, timeout, f"that {count} events came")

    def wait_pings(self, count: int) -> None:
        """Wait for so many more pings."""
        assert self.exchange.wait_for("ping", SOON, self.exchange.counts["ping"] + count), "no ping"

    def settle(self) -> None:
        """Let nothing more happen, and wait until what did is delivered and shown."""
        self._end_feeding()
        last = f"that event {self.market.events} came"
        until(lambda: self.market.is_known_to(self.recorder), SOON, last)
        volume, shown = self.market.shown(self.stream)
        assert shown == volume, f"the position is shown with volume {shown}, not {volume}"
        self.neighbours.settle()
