"""An exchange on which numbered events happen, and what of them came to a stream.

Events are changes of one order and one position in turn, whose volume is the event's number.
"""

from __future__ import annotations

from fastpos import PositionStream
from fastpos.simulator import Exchange
from tests.support.ledger import Ranges, note
from tests.support.recording import Recorder


class Market:
    """Events on one exchange. One thread at a time has them happen."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.sent: dict[int, Ranges] = {}
        """The numbers of the events that were sent on each connection."""
        self.events = 0
        """How many events there were; they are numbered from 1."""
        self.unsent = 0
        """How many of them were sent on no connection."""

    def open(self) -> None:
        """Make what the events are about; nobody is there yet."""
        self._order = self.exchange.place_order(volume=1)
        self._position = self.exchange.open_position(volume=0)

    def happen(self, count: int = 1) -> None:
        """Let so many events happen at one moment."""
        # A predicate sees one moment: nobody comes or goes between the look at the connections
        # and the push.
        self.exchange.wait_for(lambda: all(self._happen() for _ in range(count)))

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

    def is_known_to(self, recorder: Recorder) -> bool:
        """Whether the last event has come there."""
        return sessions(recorder)[-1][-1:] == [self.events]

    def shown(self, stream: PositionStream) -> tuple[object, object]:
        """The position's volume, and what the stream shows of it."""
        volume = self.exchange.positions[self._position]["pv"]
        return volume, stream.positions[self._position].volume


def sessions(recorder: Recorder) -> list[list[int]]:
    """The numbers of the events that came after each `on_ready`.

    Raises:
        AssertionError: one came before, or after `on_disconnect`.
    """
    found: list[list[int]] = []
    subscribed = False
    for name, event in list(recorder.calls):
        if name == "on_ready":
            found.append([])
            subscribed = True
        elif name == "on_disconnect":
            subscribed = False
        elif name in ("on_order", "on_position"):
            assert subscribed, f"delivered while not subscribed: {event}"
            found[-1].append(int(event.volume))
    return found
