"""What a trial needs: an exchange, a network in front of it, a stream, and events that flow."""

from __future__ import annotations

import functools
import random
import ssl
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from fastpos import PositionStream, ReconnectPolicy
from fastpos.simulator import Exchange
from tests.chaos.host import LOOKED_UP, Host
from tests.support import rig
from tests.support.certificates import make_certificates
from tests.support.ledger import Ranges, note
from tests.support.network import TcpProxy
from tests.support.recording import SOON, Recorder, until

# The stream's settings, seconds; the rest are its defaults.
PING_INTERVAL = PONG_TIMEOUT = CONNECT_TIMEOUT = SUBSCRIBE_TIMEOUT = 1.0
SETTINGS = {
    "ping_interval": PING_INTERVAL,
    "pong_timeout": PONG_TIMEOUT,
    "connect_timeout": CONNECT_TIMEOUT,
    "subscribe_timeout": SUBSCRIBE_TIMEOUT,
}

EVENTS_PER_S = 50


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

    Events are changes of one order and one position in turn, whose volume is the event's number.
    """

    def __init__(self, seed: str, *, tls: bool = False) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        """For whoever puts a fault in; the stream's jitter has numbers of its own."""
        server, client = _tls_contexts() if tls else (None, None)
        self.host = Host()
        self.exchange = Exchange(ssl_context=server)
        self.recorder = Recorder()
        self.sent: dict[int, Ranges] = {}
        """The numbers of the events that were sent on each connection."""
        self.events = 0
        """How many events there were; they are numbered from 1."""
        self.unsent = 0
        """How many of them were sent on no connection."""
        self.policy = _SeededPolicy(random.Random(f"{seed} jitter").random)
        self._client_context = client
        self._stop_feeding = threading.Event()

    def _start(self) -> None:
        enter = self._cleanup.enter_context
        enter(self.host)
        enter(self.exchange)
        self._order = self.exchange.place_order(volume=1)
        self._position = self.exchange.open_position(volume=0)
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
        enter(self.stream)
        assert self.stream.wait_ready(SOON), "the stream was never subscribed"
        until(lambda: bool(self.sessions), SOON, "that on_ready was called")
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()
        self._cleanup.callback(self._end_feeding)

    # --- events -----------------------------------------------------------------------------

    def _feed(self) -> None:
        while not self._stop_feeding.wait(1 / EVENTS_PER_S):
            # A predicate sees one moment: nobody comes or goes between the look at the
            # connections and the push.
            self.exchange.wait_for(self._happen)

    def _end_feeding(self) -> None:
        self._stop_feeding.set()
        self._feeder.join(SOON)

    def _happen(self) -> bool:
        exchange = self.exchange
        there = [c.number for c in exchange.connections if c.subscribed]
        takers = there if exchange.faults.pushes else []
        self.events += 1
        self.unsent += not takers
        for taker in takers:
            note(self.sent.setdefault(taker, []), self.events)
        number = self.events
        if number % 2:
            exchange.change_order(self._order, volume=number)
        else:
            exchange.update_position(self._position, volume=number)
        return True

    def burst(self) -> None:
        """Let many events happen at once, so that what follows is in one read with them."""
        count = self.rng.randint(5, 20)
        self.exchange.wait_for(lambda: all(self._happen() for _ in range(count)))

    @property
    def sessions(self) -> list[list[int]]:
        """The numbers of the events that came after each `on_ready`.

        Raises:
            AssertionError: one came before, or after `on_disconnect`.
        """
        sessions: list[list[int]] = []
        subscribed = False
        for name, event in list(self.recorder.calls):
            if name == "on_ready":
                sessions.append([])
                subscribed = True
            elif name == "on_disconnect":
                subscribed = False
            elif name in ("on_order", "on_position"):
                assert subscribed, f"delivered while not subscribed: {event}"
                sessions[-1].append(int(event.volume))
        return sessions

    def wait_events(self, count: int, timeout: float = SOON) -> None:
        """Wait until `count` events came since the last `on_ready`, which there is by now."""
        until(lambda: len(self.sessions[-1]) >= count, timeout, f"that {count} events came")

    def wait_pings(self, count: int) -> None:
        """Wait for so many more pings."""
        assert self.exchange.wait_for("ping", SOON, self.exchange.counts["ping"] + count), "no ping"

    def settle(self) -> None:
        """Let nothing more happen, and wait until what did is delivered and shown."""
        self._end_feeding()
        last = self.events
        until(lambda: self.sessions[-1][-1:] == [last], SOON, f"that event {last} came")
        volume = self.exchange.positions[self._position]["pv"]
        shown = self.stream.positions[self._position].volume
        assert shown == volume, f"the position is shown with volume {shown}, not {volume}"


@functools.cache
def _tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's."""
    with tempfile.TemporaryDirectory() as directory:
        certificates = make_certificates(Path(directory))
        return certificates.good.context(), certificates.client_context()
