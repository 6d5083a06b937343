"""What is known at one moment: of the account from the stream, of the connection from its events.

Threads: the stream's call `Notes.note` and `Notes.tick`, which only remember; whoever draws calls
`look`. What they share is replaced or appended in one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from time import time_ns
from typing import Any, NamedTuple

from ...model.events import (
    AccountUpdate,
    AdlPrice,
    Balance,
    Disconnect,
    Order,
    Position,
    Ready,
    Stale,
    Synced,
    Trigger,
)
from ...runtime.callbacks import CALLBACK_NAMES
from ...runtime.stats import Stats
from ...stream import PositionStream

__all__ = ["Known", "Link", "Note", "Notes", "State", "after", "look"]

# So many events are remembered: more than any terminal has lines.
KEPT = 300


class State(Enum):
    """What a stream's connection is."""

    CONNECTING = "CONNECTING"
    """None has been there yet."""
    SUBSCRIBED = "SUBSCRIBED"
    LOST = "LOST"
    """None is there, after one that was subscribed."""
    ENDED = "ENDED"
    """There will be none any more."""


class Link(NamedTuple):
    """What is known of the connection. Times are nanoseconds since the epoch."""

    state: State
    since_ns: int
    """When it became so."""
    reason: str = ""
    """Why there is no connection."""
    retry_ns: int | None = None
    """When the next attempt is."""
    attempts: int = 0
    """So many attempts have failed since there was a connection."""
    gaps: int = 0
    """How often pushes were missed and came again."""
    missed_s: float = 0.0
    """How long in all, seconds."""
    gap_s: float = 0.0
    """How long the last time, seconds."""
    gap_ns: int = 0
    """When that was over."""
    synced_ns: int | None = None
    """When a snapshot was last merged."""
    silent_ns: int | None = None
    """Since when ticks are missed, while the connection is there."""


def after(link: Link, event: object) -> Link:
    """Give what is known of the connection after an event."""
    if isinstance(event, Ready):
        gap = event.gap_s
        link = link._replace(
            state=State.SUBSCRIBED,
            since_ns=event.received_ns,
            reason="",
            retry_ns=None,
            attempts=0,
            silent_ns=None,
        )
        if gap is None:
            return link
        return link._replace(
            gaps=link.gaps + 1,
            missed_s=link.missed_s + gap,
            gap_s=gap,
            gap_ns=event.received_ns,
        )
    if isinstance(event, Disconnect):
        had_one = link.state is not State.CONNECTING
        state = State.LOST if had_one else State.CONNECTING
        retry_ns = None
        if event.retry_in_s is None:
            state = State.ENDED
        else:
            retry_ns = event.received_ns + int(event.retry_in_s * 1e9)
        return link._replace(
            state=state,
            since_ns=link.since_ns if link.state is state else event.received_ns,
            reason=event.reason,
            retry_ns=retry_ns,
            attempts=link.attempts + (link.state is not State.SUBSCRIBED),
            silent_ns=None,
        )
    if isinstance(event, Synced):
        return link._replace(synced_ns=event.received_ns)
    if isinstance(event, Stale):
        silent_ns = event.received_ns - int((event.silent_s or 0.0) * 1e9)
        return link._replace(silent_ns=silent_ns)
    return link


class Note(NamedTuple):
    """Something that happened."""

    at_ns: int
    event: Any
    """An event, an error, or the text of a log record."""


class Notes:
    """What a stream's functions were called with, but for ticks."""

    def __init__(self, began_ns: int) -> None:
        self._notes: deque[Note] = deque(maxlen=KEPT)
        self._link = Link(State.CONNECTING, began_ns)
        self._balances: Mapping[str, Balance] | None = None  # as they were last noted
        self._told: object = None  # the error of the last disconnect, which says it already

    def follow(self, stream: PositionStream) -> None:
        """Have a stream call this."""
        for name in CALLBACK_NAMES:
            getattr(stream, name)(self.tick if name == "on_adl_price" else self.note)

    def note(self, event: Any) -> None:
        """Remember an event, an error or a text."""
        if not isinstance(event, str):
            # A log record comes on any thread: it must not put back what the stream's has replaced.
            self._link = after(self._link, event)
        if isinstance(event, AccountUpdate):
            # The exchange tells them again with every change of a position.
            if event.balances == self._balances:
                return
            self._balances = event.balances
        elif isinstance(event, Disconnect):
            self._told = event.error
        elif event is self._told:
            return
        self._notes.append(Note(getattr(event, "received_ns", 0) or time_ns(), event))

    def tick(self, _: AdlPrice) -> None:
        """Ticks come: so there is no silence."""
        if self._link.silent_ns is not None:
            self._link = self._link._replace(silent_ns=None)

    @property
    def link(self) -> Link:
        """What is known of the connection."""
        return self._link

    @property
    def all(self) -> list[Note]:
        """The last ones, the newest last."""
        return list(self._notes)


@dataclass(frozen=True)
class Known:
    """All that is shown, at one moment."""

    title: str
    """Which stream, and where it connects."""
    link: Link
    stats: Stats
    synced: bool
    positions: Sequence[Position] = ()
    orders: Sequence[Order] = ()
    triggers: Sequence[Trigger] = ()
    balances: Sequence[Balance] = ()
    notes: Sequence[Note] = ()


def look(stream: PositionStream, notes: Notes, title: str) -> Known:
    """Look at a stream."""
    return Known(
        title=title,
        link=notes.link,
        stats=stream.stats,
        synced=stream.synced,
        positions=list(stream.positions.values()),
        orders=list(stream.orders.values()),
        triggers=list(stream.triggers.values()),
        balances=list(stream.balances.values()),
        notes=notes.all,
    )
