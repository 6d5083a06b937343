"""What records keep inside, apart from the classes that show it: compiled, these are C structs.

Compiled, an attribute that was never set reads None; not compiled it raises AttributeError. Ask
with ``getattr(record, name, None)`` where it may not have been set.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from . import primitives

__all__ = ["EventSlots", "NumberType", "PositionSlots", "Slots", "position_of", "view"]

NumberType = type[float] | type[Decimal]


class Slots:
    """Of every record."""

    __slots__ = ("_copy", "_number", "_raw", "_wire")
    # The JSON object as the wire gave it, which other records show as well, and a book merges:
    # nobody changes it.
    _raw: dict[str, Any]
    _copy: Any  # what `raw` gave
    _wire: dict[str, Any]  # the object that the fields are read from
    _number: NumberType


class EventSlots(Slots):
    """Of every event."""

    __slots__ = ("_part", "_received_ns", "_stream")
    _received_ns: int
    _stream: str | None  # the name of the stream that it came by
    _part: Any  # the part that has a callback of its own, merged


class PositionSlots(EventSlots):
    """Of a position."""

    __slots__ = ("_before", "_change", "_complete")
    _before: dict[str, Any]  # its wire before the push
    _change: Any
    _complete: bool


def view(kind: Any, wire: dict[str, Any], number: NumberType) -> Any:
    """Make a record that shows the wire's object `wire`, which nobody changes any more."""
    record = primitives.new(kind)
    record._raw = record._wire = wire
    record._number = number
    return record


def position_of(
    kind: Any,
    push: EventSlots,
    wire: dict[str, Any],
    before: dict[str, Any],
    complete: bool,
    change: Any,
) -> Any:
    """Make the position that `wire` shows, which was `before` until `push` came."""
    position = primitives.new(kind)
    position._raw = push._raw
    position._received_ns = push._received_ns
    position._stream = push._stream
    position._number = push._number
    position._wire = wire
    position._before = before
    position._complete = complete
    position._change = change
    return position
