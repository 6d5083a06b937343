"""What a row of the table of channels says (exchange.py has the rows).

A push is an object with a channel. Its *body* is the object that an event's attributes are read
from: the push itself, or what stands under one of its keys. In the body are *parts*, each one
object or a list of them, or the body itself.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from .fields import (
    Record,
    as_integer,
    as_name,
    as_number,
    as_parsed,
    as_text,
    forms_of,
    identity_of,
)
from .slots import NumberType

__all__ = ["Channel", "Merge", "Part", "Resting"]


class Merge(IntEnum):
    """How a part changes what is known."""

    NONE = 0
    """It does not: it is only told."""
    PATCH = 1
    """It is laid over what is known; a key that is missing or null is no news."""
    REPLACE = 2
    """It is a whole thing, kept in place of the one known before: a null in it is a fact."""
    TICK = 3
    """It is laid over a thing that is known, nulls too; what it does not list is missing."""


class Resting:
    """Tells what is kept while it is open: an order ends when it is cancelled or all filled.

    Args:
        action: key of what happened to it.
        names: of the codes for that; CANCEL is one.
        filled, volume: keys of what was filled and of what was asked for.
        kind: key of what kind of thing it is.
        immediate: codes of the kinds that never rest.
    """

    __slots__ = ("_action", "_filled", "_immediate", "_kind", "_names", "_volume")

    def __init__(
        self,
        action: str,
        names: dict[str, str],
        *,
        filled: str = "",
        volume: str = "",
        kind: str = "",
        immediate: tuple[int, ...] = (),
    ) -> None:
        self._kind = as_parsed(kind)
        self._immediate = frozenset(immediate)
        self._action = as_parsed(action)
        self._names = forms_of(names)
        self._filled = as_parsed(filled)
        self._volume = as_parsed(volume)

    def is_open(self, wire: dict[str, Any], number: NumberType) -> bool:
        """Whether what `wire` says is still open."""
        action = as_name(wire.get(self._action), self._names)
        return action != "CANCEL" and self.may_rest(wire, number)

    def may_rest(self, wire: dict[str, Any], number: NumberType) -> bool:
        """Whether it is of a kind that rests, and not all of it was filled."""
        if self._immediate:
            kind = as_integer(wire.get(self._kind))
            if type(kind) is int and kind in self._immediate:
                return False
        return not self._is_filled(wire, number)

    def _is_filled(self, wire: dict[str, Any], number: NumberType) -> bool:
        if not self._filled:
            return False
        filled = wire.get(self._filled)
        if filled == 0:
            return False
        volume = wire.get(self._volume)
        if type(filled) is not int or type(volume) is not int:
            filled, volume = as_number(filled, number), as_number(volume, number)
            if type(filled) is not number or type(volume) is not number:
                return False
        return bool(filled >= volume > 0)


class Part:
    """A part of a body.

    Args:
        record: class that shows it.
        key: where it stands in the body; None: it is the body.
        many: whether it is a list of objects.
        exact: keys of ids, which may have more digits than a double holds.
        merge: how it changes what is known.
        store: where that is known, an attribute of `Book` and of `Snapshot`; "": nowhere.
        change: key in the body of what is done to it, CREATE, UPDATE or DELETE. It is then told as
            an event of its own, which shows it merged.
        resting: what is kept while it is open; None: all of it.
        expires: key of when it ends by itself, milliseconds since the epoch.
        callback: gets that event, or the channel's event where this part has something in it.
        attribute: where the channel's event has its records.
        line: what the command line shows of a record; names of attributes in braces.
    """

    __slots__ = (
        "attribute", "callback", "change", "exact", "expires", "id_is_text", "id_key", "key",
        "line", "many", "merge", "names", "record", "resting", "store",
    )  # fmt: skip

    def __init__(
        self,
        record: type[Record],
        key: str | None = None,
        *,
        many: bool = False,
        exact: tuple[str, ...] = (),
        merge: Merge = Merge.NONE,
        store: str = "",
        change: str | None = None,
        resting: Resting | None = None,
        expires: str | None = None,
        callback: str | None = None,
        attribute: str | None = None,
        line: str | None = None,
    ) -> None:
        self.record: type[Record] = record
        self.key: Any = as_parsed(key)
        self.many: bool = many
        self.exact: tuple[Any, ...] = tuple(map(as_parsed, exact))
        self.merge: int = int(merge)
        self.store: str = store
        self.change: Any = as_parsed(change)
        self.resting: Resting | None = resting
        self.expires: Any = as_parsed(expires)
        self.callback: str | None = callback
        self.attribute: str | None = attribute
        self.line: str | None = line
        self.id_key: Any = None
        self.id_is_text: bool = False
        if store:
            self.id_key = as_parsed(identity_of(record).key)
            self.id_is_text = identity_of(record).is_text
        # Key on the wire -> attribute.
        self.names: dict[str, str] = {
            key: name
            for name, field in record._fields.items()
            if (key := field.key) and key[0] != ":"
        }

    def id_of(self, wire: dict[str, Any]) -> Any:
        """Give the id of the thing that `wire` tells of, None where it has none."""
        id = wire.get(self.id_key)
        if self.id_is_text:
            if type(id) is not str:
                id = as_text(id)
                return id if type(id) is str else None
        elif type(id) is not int:
            id = as_integer(id)
            return id if type(id) is int else None
        return id


class Channel:
    """A channel and what is done with its pushes.

    Args:
        name: the channel, "" for all that have no row.
        event: class of its events.
        body: key of the body; None: it is the push.
        exact: keys of ids beside the body.
        only: a key of the push and the one value that makes it this event.
        parts: see `Part`. One that is told as an event of its own comes before the others.
        callback: gets each event.
        conflated: whether of many that wait the newest does.
        line: what the command line shows of an event, where no part has a line.
    """

    __slots__ = (
        "body", "body_exact", "callback", "conflated", "event", "exact", "inner", "line", "merged",
        "name", "only", "parts",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        event: type[Record],
        *,
        body: str | None = None,
        exact: tuple[str, ...] = (),
        only: tuple[str, str] | None = None,
        parts: tuple[Part, ...] = (),
        callback: str | None = None,
        conflated: bool = False,
        line: str | None = None,
    ) -> None:
        self.name: str = name
        self.event: type[Record] = event
        self.body: Any = as_parsed(body)
        self.exact: tuple[Any, ...] = tuple(map(as_parsed, exact))
        self.only: tuple[Any, str] | None = only and (as_parsed(only[0]), only[1])
        self.parts: tuple[Part, ...] = parts
        self.merged: tuple[Part, ...] = tuple([part for part in parts if part.merge])
        self.inner: tuple[Part, ...] = tuple([part for part in parts if part.key is not None])
        self.body_exact: tuple[Any, ...] = tuple(
            [key for part in parts if part.key is None for key in part.exact]
        )
        self.callback: str | None = callback
        self.conflated: bool = conflated
        self.line: str | None = line
