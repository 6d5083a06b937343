"""A session with the exchange that is fed bytes: no socket, and the clock is an argument."""

from __future__ import annotations

from fastpos.wire.session import Closed, Event, Session


def fed(session: Session, data: bytes, now: float = 0.0, size: int = 4096) -> list[Event]:
    """What comes of these bytes, read in pieces of up to `size`, until that ends it."""
    scratch = memoryview(bytearray(4096))
    events: list[Event] = []
    while data and not (events and type(events[-1]) is Closed):
        free = session.writable(scratch)
        count = min(len(data), len(free), size)
        free[:count], data = data[:count], data[count:]
        session.wrote(count)
        events += iter(lambda: session.next_event(now), None)
    return events
