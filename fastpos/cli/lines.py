"""An event as a line that a person can read, as the table of channels has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from ..errors import FastposError
from ..model.events import Disconnect, Ready, Stale, Synced
from ..model.exchange import CHANNELS, UNDOCUMENTED
from ..model.table import Channel, Part
from ..printable import printable

__all__ = ["LONGEST", "line", "parts"]

# Of an event, characters.
LONGEST = 4000


def line(event: Any, at_ns: int | None = None) -> str:
    """Give `event` as one line, with the time of day first.

    Args:
        event: an event or an error.
        at_ns: when it was, nanoseconds since the epoch; None: now.
    """
    now, kind, text = parts(event, at_ns)
    return f"{now}  {kind:<13}  {printable(text, LONGEST)}"


def parts(event: Any, at_ns: int | None = None) -> tuple[str, str, str]:
    """Give the same in parts: the time of day, what kind it is, and what it says, which may be
    anything: see `printable`."""
    time = datetime.now() if at_ns is None else datetime.fromtimestamp(at_ns / 1e9)
    now = time.strftime("%H:%M:%S.%f")[:-3]
    describe = _DESCRIPTIONS.get(type(event), repr)
    kind = "error" if isinstance(event, FastposError) else type(event).__name__
    text = f"{type(event).__name__}: {event}" if kind == "error" else describe(event)
    return now, kind, text


def _of_channel(channel: Channel, event: Any) -> str:
    if channel.line is not None:
        return channel.line.format_map(_Shown(event))
    return "  ".join(
        part.line.format_map(_Shown(record))
        for part in channel.parts
        if part.line is not None and part.attribute is not None
        for record in _values(getattr(event, part.attribute))
    )


def _of_part(part: Part, event: Any) -> str:
    parts = [(part.line or "").format_map(_Shown(event))]
    if event.changed and event.change == "UPDATE":
        parts.append(f"changed: {', '.join(sorted(event.changed))}")
    if not event.complete:
        parts.append("(not all is known of it)")
    return "  ".join(parts)


class _Shown(dict[str, str]):
    """A record's attributes as text, for a row's line; what is not known as a question mark."""

    def __init__(self, record: Any) -> None:
        super().__init__()
        self._record = record

    def __missing__(self, name: str) -> str:
        value = getattr(self._record, name)
        return "?" if value is None else str(value)


def _values(records: Any) -> Iterable[Any]:
    return records.values() if isinstance(records, dict) else records


def _ready(event: Ready) -> str:
    if event.gap_s is None:
        return "subscribed"
    return f"subscribed again after {event.gap_s:.2f} s, attempt {event.attempts}"


def _synced(event: Synced) -> str:
    found = {"new": event.created, "changed": event.updated, "closed": event.deleted}
    told = ", ".join(f"{count} {what}" for what, count in found.items() if count)
    after = "" if event.gap_s is None else f" after a gap of {event.gap_s:.2f} s"
    return f"a snapshot was merged{after}; positions: {told or 'all as known'}"


def _stale(event: Stale) -> str:
    return event.reason


def _disconnect(event: Disconnect) -> str:
    if event.retry_in_s is None:
        return f"{event.reason}; no further attempt"
    return f"{event.reason}; next attempt in {event.retry_in_s:.2f} s"


_DESCRIPTIONS: dict[type, Callable[[Any], str]] = {
    Ready: _ready,
    Synced: _synced,
    Stale: _stale,
    Disconnect: _disconnect,
}
for _channel in (*CHANNELS, UNDOCUMENTED):
    _DESCRIPTIONS[_channel.event] = partial(_of_channel, _channel)
    for _part in _channel.parts:
        if _part.change is not None:  # told as an event of its own
            _DESCRIPTIONS[_part.record] = partial(_of_part, _part)
