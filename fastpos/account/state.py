"""What is known of an account, merged by the table of channels.

An UPDATE and a tick carry only part of a position, so the wire's values are kept and what comes is
laid over them. Nothing that anybody may have seen is changed: a merge makes a new dict where it
can't keep what the push brought, and a new `Entry`, which takes the old one's place.

Threads: one writes (the reader thread), anybody may read at any moment without a lock, a signal
handler that has interrupted the writer too. Who reads takes a copy of a store, which is one step
under the GIL, and every entry in it is as some push left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

from ..logs import fields, log
from ..model import primitives
from ..model.events import CHANGES, AdlTick, AttachedOrder, Event, Order, Position
from ..model.exchange import CHANNELS
from ..model.fields import NumberType, Record, as_integer, as_name, forms_of, identity_of
from ..model.slots import EventSlots, position_of, view
from ..model.snapshot import Snapshot
from ..model.table import Channel, Merge, Part

__all__ = ["STORED", "Entry", "State", "adapted", "no_push", "wire_of"]

# A position that so many ticks in a row do not list is marked.
MISSED_TICKS = 3
# So many closed positions are remembered, for the ticks that still list them; and so many of what a
# push has ended of each kind, for the pushes that come late.
REMEMBERED = 1000
# A position that so many ticks list after it was closed is open: again, or the snapshot erred. It
# has, too, where so many list one that neither it nor a CREATE (which may be late) has told of.
LATE_TICKS = 3
# So many of each kind are kept. Of what is more the oldest untouched goes, a tenth at once.
KEPT = 10_000

STORED: dict[str, Part] = {
    part.store: part for channel in CHANNELS for part in channel.merged if part.merge != Merge.TICK
}
"""What is kept, by the name of its store, and the part that tells of it."""

_PATCH, _REPLACE, _TICK = int(Merge.PATCH), int(Merge.REPLACE), int(Merge.TICK)
_CREATE, _DELETE = "CREATE", "DELETE"
_CHANGES = forms_of(CHANGES)
_NOTHING: frozenset[str] = frozenset()
_UNKNOWN: dict[str, Any] = {}  # what was known of a thing that is new; nobody changes it

# What only ticks tell of a position.
_TICK_KEYS = frozenset(field.key for field in AdlTick._fields.values() if field.key) - frozenset(
    ("id", "rp", "mr")
)
_LASTING = frozenset(
    name for key, name in STORED["positions"].names.items() if key not in _TICK_KEYS
)
# An order's derived attributes, and how their keys begin on the wire.
_ATTACHED = {":take_profit": "takerProfit", ":stop_loss": "stopLoss"}


class Entry:
    """One thing that is known. It is not changed once it stands in a store."""

    __slots__ = ("complete", "heard", "latest", "published", "stale", "tick", "wire")
    wire: dict[str, Any]  # all that was told of it, but for `tick`
    latest: Any  # the push that was last merged
    stale: frozenset[str]  # keys of what may be out of date
    # Of what is told as an event of its own, and of ticks:
    complete: bool  # whether its CREATE was seen
    published: dict[str, Any] | None  # what its callback was last called with
    tick: dict[str, Any] | None  # the last one, where it is not in `wire` yet
    heard: int  # which tick it was, of all, that it was last heard of in or after


def entry_of(
    wire: dict[str, Any],
    latest: EventSlots,
    stale: frozenset[str] = _NOTHING,
    complete: bool = False,
    published: dict[str, Any] | None = None,
    tick: dict[str, Any] | None = None,
    heard: int = 0,
) -> Entry:
    """Make an entry."""
    entry: Entry = primitives.new(Entry)
    entry.wire = wire
    entry.latest = latest
    entry.stale = stale
    entry.complete = complete
    entry.published = published
    entry.tick = tick
    entry.heard = heard
    return entry


def whole(entry: Entry) -> dict[str, Any]:
    """Give all that is known, the last tick included."""
    return entry.wire if entry.tick is None else {**entry.wire, **entry.tick}


def merged(known: dict[str, Any], news: dict[str, Any]) -> dict[str, Any]:
    """Give both together, a new dict; a null is no news."""
    both = {**known, **news}
    for key, value in news.items():
        if value is None and key in known:
            both[key] = known[key]
    return both


class Store:
    """All things of one kind that are known, by their id.

    Args:
        name: of the kind.
        base: looked in for what is not known here.
    """

    __slots__ = ("base", "crowded", "ended", "entries", "limit", "name")

    def __init__(self, name: str, base: Store | None = None) -> None:
        self.name: str = name
        self.base: Store | None = base
        self.limit: int = KEPT
        self.entries: dict[Any, Entry] = {}
        # Ids that a push has ended: ids are not used again, so what another push says of one came
        # late.
        self.ended: dict[Any, None] = {} if base is None else dict(base.ended)
        self.crowded: bool = base is not None and base.crowded  # that is said in the log, once

    def known(self, id: Any) -> Entry | None:
        """Give what is known of a thing, None where nothing is."""
        entry = self.entries.get(id)
        if entry is None and self.base is not None:
            entry = self.base.entries.get(id)
        return entry

    def keep(self, id: Any, entry: Entry) -> None:
        """Have `entry` known of a thing."""
        self.entries[id] = entry
        if len(self.entries) > self.limit:
            self._make_room()

    def end(self, id: Any) -> None:
        """Take note that a push has ended a thing."""
        self.entries.pop(id, None)
        self.ended[id] = None
        if len(self.ended) > REMEMBERED:
            del self.ended[next(iter(self.ended))]

    def _make_room(self) -> None:
        """Forget what no push has told of for the longest."""
        entries = self.entries
        oldest = sorted(entries, key=lambda id: entries[id].latest._received_ns)
        for id in oldest[: len(entries) - self.limit + self.limit // 10]:
            del entries[id]
        if not self.crowded:
            self.crowded = True
            log.warning(
                "over %d %s: the oldest that no push tells of are forgotten",
                self.limit,
                self.name,
                extra=fields("forgotten", kind=self.name),
            )


class State:
    """An account as the pushes (and perhaps a snapshot before them) tell it.

    Args:
        number: type of numbers in what is handed out.
        base: looked in for what is not known here, while a journal is applied.
    """

    __slots__ = ("_closed", "_number", "_untold", "base", "contradicted", "stores", "ticks")

    def __init__(self, number: NumberType, base: State | None = None) -> None:
        self._number = number
        self.base = base
        self.stores: dict[str, Store] = {
            name: Store(name, None if base is None else base.stores[name]) for name in STORED
        }
        self.contradicted: bool = False
        """Whether ticks or an UPDATE tell of a position that the snapshot does not have. It means
        nothing where none was taken since the last gap."""
        self.ticks: int = 0
        """How many ticks there were."""
        # Id of a position that neither a snapshot nor a CREATE has told of -> how many ticks have.
        self._untold: dict[int, int] = {}
        # Id of a closed position -> how many ticks have listed it since.
        self._closed: dict[int, int] = {} if base is None else dict(base._closed)

    # --- pushes -----------------------------------------------------------------------------

    def apply(self, event: Any, channel: Channel) -> None:
        """Merge a push of `channel`."""
        body = event._wire
        for part in channel.merged:
            value = body if part.key is None else body.get(part.key)
            if value is None:
                continue
            if part.merge == _TICK:
                self._tick(part, value, event)
            elif part.change is not None:
                if value:
                    change = as_name(body.get(part.change), _CHANGES)
                    told = self._patch_and_tell(part, value, event, change)
                    if self.base is None:  # else it comes from a journal, and was told before
                        event._part = told
            elif part.many:
                store = self.stores[part.store]
                for item in value:
                    self._keep(part, store, item, event)
            else:
                self._keep(part, self.stores[part.store], value, event)

    def _keep(self, part: Part, store: Store, wire: dict[str, Any], event: EventSlots) -> None:
        """Patch or replace what is known of a thing; drop it where it ended."""
        id = part.id_of(wire)
        if id is None:
            return
        stale = _NOTHING
        if part.merge == _PATCH:
            known = store.known(id)
            if known is not None and not primitives.tells_all(wire, known.wire):
                if known.stale:
                    stale = known.stale - _told(wire)
                wire = merged(known.wire, wire)
        if part.resting is not None:
            if store.ended and id in store.ended:
                return
            if not part.resting.is_open(wire, self._number):
                store.end(id)
                return
        store.keep(id, entry_of(wire, event, stale))

    def _patch_and_tell(
        self, part: Part, news: dict[str, Any], event: EventSlots, change: Any
    ) -> Any:
        """Patch what is known of a thing; give the event that tells of it."""
        is_new = change == _CREATE
        id = part.id_of(news)
        if id is None:  # there is nothing to merge it with
            return position_of(part.record, event, news, {}, is_new, change)
        store = self.stores[part.store]
        if store.ended:
            if is_new:
                store.ended.pop(id, None)  # it was opened again
            elif id in store.ended:
                return position_of(part.record, event, news, {}, False, change)
        known = store.known(id)
        complete = is_new
        stale = _NOTHING
        if known is None or (is_new and known.complete):  # a new one, of which all is told
            before = _UNKNOWN
            wire = news
        else:
            complete = is_new or known.complete
            before = whole(known)
            wire = {**before, **news} if is_new else merged(before, news)
            if known.stale and not is_new:
                stale = known.stale - _told(news)
        told = position_of(part.record, event, wire, before, complete, change)
        if stale:
            _show_stale(part, told, stale)
        if change == _DELETE:
            self.note_closed(id)
            store.end(id)
        else:
            if not complete and self.base is None:
                self.contradicted = True  # a CREATE would have come before
            if self._closed and (known is None or self.base is not None):
                self._closed.pop(id, None)  # it was opened again
            store.keep(id, entry_of(wire, event, stale, complete, wire, None, self.ticks))
        return told

    def _tick(self, part: Part, ticks: list[Any], event: EventSlots) -> None:
        store = self.stores[part.store]
        number = self.ticks + 1
        for wire in ticks:
            id = part.id_of(wire)
            if id is None or (self._closed and self._is_late(store, id)):
                continue
            known = store.entries.get(id)
            if known is None:
                if self.base is not None:
                    continue  # the snapshot lacks it, and no push has said that it is open
                store.ended.pop(id, None)
                store.keep(id, entry_of(wire, event, _NOTHING, False, None, None, number))
                continue
            if not (known.complete or self.contradicted) and known.latest is not event:
                self._doubt(id)
            tick = known.tick
            if tick is not None and not primitives.tells_all(wire, tick):
                tick = {**tick, **wire}
            else:
                tick = wire  # it tells all that the one before it did
            stale = known.stale
            if stale:
                stale = stale.difference(wire)
            store.keep(
                id,
                entry_of(known.wire, event, stale, known.complete, known.published, tick, number),
            )
        self.ticks = number  # last, so that nobody sees as missed what is about to be listed

    def _doubt(self, id: int) -> None:
        """Take note that a tick lists a position of which nothing else has told that it is open."""
        times = self._untold.get(id, 1)  # with the one that told of it first
        self._untold[id] = times + 1
        if times >= LATE_TICKS:
            self.contradicted = True

    def note_closed(self, id: int) -> None:
        """Take note that a position is closed, for ticks that were made before."""
        self._untold.pop(id, None)
        self._closed[id] = 0
        if len(self._closed) > REMEMBERED:
            del self._closed[next(iter(self._closed))]

    def _is_late(self, store: Store, id: int) -> bool:
        """Whether a tick that lists `id` was made before its position was closed."""
        times = self._closed.get(id)
        if times is None:
            return False
        if self.base is not None:  # the ticks of a journal were counted when they came
            return True
        if times < LATE_TICKS:
            self._closed[id] = times + 1
            return True
        del self._closed[id]
        if id not in store.ended:  # it was a snapshot that closed it, and no push
            self.contradicted = True
        return False

    # --- gaps and snapshots -----------------------------------------------------------------

    def mark_stale(self) -> None:
        """Take note that pushes may have been missed."""
        for name, part in STORED.items():
            entries = self.stores[name].entries
            for id, entry in [*entries.items()]:
                entries[id] = _doubtful(entry, part, self.ticks)

    def go_on_from(self, other: State) -> None:
        """Know what `other` does, into an empty state that has a base."""
        for name, store in other.stores.items():
            self.stores[name].entries.update(store.entries)
            self.stores[name].ended.update(store.ended)
        self._closed.update(other._closed)
        self.ticks = other.ticks
        self.contradicted = other.contradicted

    def keep_base(self) -> None:
        """Know what only the base does, too, as stale."""
        assert self.base is not None
        for name, part in STORED.items():
            store = self.stores[name]
            for id, entry in self.base.stores[name].entries.items():
                if id not in store.entries:
                    store.entries[id] = _doubtful(entry, part, self.ticks)

    def take(self, snapshot: Snapshot, received_ns: int) -> None:
        """Put a snapshot in, into an empty state that has a base.

        What the snapshot does not tell of a position or a coin is taken from the base, but for
        what ticks tell, which is soon out of date.

        Raises:
            TypeError, ValueError: it is no snapshot.
        """
        base = self.base
        assert base is not None
        for name, part in STORED.items():
            store, before = self.stores[name], base.stores[name].entries
            records = getattr(snapshot, name)
            if records is None and name in Snapshot._field_defaults:  # the source does not know
                store.entries.update(before)
                continue
            for record, id, latest in self._items(records, part, received_ns):
                wire = wire_of(record, partial(adapted, number=self._number))
                known, stale = before.get(id), _NOTHING
                if known is not None:
                    lasting = whole(known)
                    if part.merge == _PATCH:
                        lasting = {k: v for k, v in lasting.items() if k not in _TICK_KEYS}
                    # What the gap made doubtful and the snapshot does not tell stays so.
                    stale = frozenset((known.stale & lasting.keys()) - wire.keys())
                    wire = {**lasting, **wire}
                if part.resting is None or part.resting.may_rest(wire, self._number):
                    store.entries[id] = entry_of(wire, latest, stale, complete=True)
                    store.ended.pop(id, None)
                if part.change is not None:
                    self._closed.pop(id, None)

    def _items(
        self, records: Iterable[Any], part: Part, received_ns: int
    ) -> Iterator[tuple[Any, Any, Event]]:
        """Give each record with its id, and with what stands for the push that it came in."""
        name = identity_of(part.record).name
        for record in records:
            if not isinstance(record, part.record):
                kind = part.record.__name__
                raise TypeError(f"the snapshot holds {record!r} where a {kind} belongs")
            id = getattr(record, name)
            if type(id) is not (str if part.id_is_text else int):
                raise ValueError(f"the snapshot holds a {part.record.__name__} of no {name}")
            yield record, id, no_push(self._number, received_ns, record._raw)

    def settle(self, received_ns: int) -> list[Position]:
        """Part from the base: what was published is from now on what is known.

        Returns:
            What a bot has to be told that was told what the base says, as events.
        """
        assert self.base is not None
        before, self.base = self.base.stores["positions"].entries, None
        for store in self.stores.values():
            store.base = None
        part, entries = STORED["positions"], self.stores["positions"].entries
        events: list[Any] = []
        for id, entry in [*entries.items()]:
            wire = whole(entry)
            known = before.get(id)
            told = None if known is None else known.published  # not by the journal
            if told is None:
                events.append(
                    position_of(part.record, entry.latest, wire, {}, entry.complete, _CREATE)
                )
            elif _differ(told, wire, self._number):
                events.append(
                    position_of(part.record, entry.latest, wire, told, entry.complete, "UPDATE")
                )
            entries[id] = entry_of(
                wire, entry.latest, entry.stale, entry.complete, wire, heard=self.ticks
            )
        nothing = no_push(self._number, received_ns)
        for id, old in before.items():
            if id not in entries:
                if old.published is not None:
                    wire = whole(old)
                    events.append(
                        position_of(part.record, nothing, wire, wire, old.complete, _DELETE)
                    )
                self.note_closed(id)
        for event in events:
            event._source = "SNAPSHOT"
            event._received_ns = received_ns
        return events

    # --- what is handed out -----------------------------------------------------------------

    def show(self, name: str, stale: bool, now_ms: int) -> dict[Any, Any]:
        """Give the records of a store by id, but for what has expired.

        Args:
            name: of the store.
            stale: all that they say may be out of date.
            now_ms: milliseconds since the epoch.
        """
        part, number = STORED[name], self._number
        shown = {}
        for id, entry in self.stores[name].entries.copy().items():
            wire = whole(entry)
            if part.expires is not None:
                ends = as_integer(wire.get(part.expires))
                if type(ends) is int and 0 < ends < now_ms:
                    continue
            old = frozenset(wire.keys() & part.names) if stale else entry.stale
            if part.change is None:
                record = view(part.record, wire, number)
                record._stale = bool(old)
                if isinstance(record, EventSlots):
                    record._raw = entry.latest._raw
                    record._received_ns = entry.latest._received_ns
                    record._stream = entry.latest._stream
            else:
                record = position_of(part.record, entry.latest, wire, wire, entry.complete, None)
                if old:
                    _show_stale(part, record, old)
                if self.ticks - entry.heard >= MISSED_TICKS:
                    record._missing = True
            shown[id] = record
        return shown


def _doubtful(entry: Entry, part: Part, ticks: int) -> Entry:
    """Give the same, all of it stale."""
    wire = whole(entry)
    return entry_of(
        wire,
        entry.latest,
        frozenset(wire.keys() & part.names),
        entry.complete,
        entry.published,
        heard=ticks,
    )


def wire_of(record: Record, adapted: Callable[[Any], Any] | None = None) -> dict[str, Any]:
    """Give what the wire would have said of a record that is made by other means.

    Args:
        record: the record.
        adapted: makes another value of each; None: they stay as they are.
    """
    wire = {
        key: value if adapted is None else adapted(value)
        for key, value in record._wire.items()
        if key[0] != ":" and value is not None
    }
    if type(record) is Order:  # made with keywords it holds these apart
        for key, prefix in _ATTACHED.items():
            attached = record._wire.get(key)
            if type(attached) is AttachedOrder:
                parts = {prefix + k: v for k, v in wire_of(attached, adapted).items()}
                wire["otoOrder"] = {**wire.get("otoOrder", {}), **parts}
    return wire


def adapted(value: Any, number: NumberType) -> Any:
    """Give a value, or all within it, with its numbers of the type that is wanted."""
    if type(value) is dict:
        return {key: adapted(each, number) for key, each in value.items()}
    if type(value) is list:
        return [adapted(each, number) for each in value]
    if type(value) is Decimal and number is float:
        return float(value)
    if type(value) is float and number is Decimal:
        return Decimal(repr(value))  # the shortest decimal that is this float
    return value


def _told(wire: dict[str, Any]) -> frozenset[str]:
    """The keys of which `wire` says something; a null is no news."""
    return frozenset([key for key, value in wire.items() if value is not None])


def _differ(old: dict[str, Any], new: dict[str, Any], number: NumberType) -> bool:
    before, after = Position._view(old, number), Position._view(new, number)
    return any(getattr(before, name) != getattr(after, name) for name in _LASTING)


def _show_stale(part: Part, record: Any, keys: frozenset[str]) -> None:
    record._stale = True
    record._stale_fields = frozenset([part.names[key] for key in keys])


def no_push(number: NumberType, received_ns: int, raw: dict[str, Any] | None = None) -> Event:
    """Make a push that says nothing, for what did not come by one."""
    event: Event = view(Event, {}, number)
    event._received_ns = received_ns
    event._stream = None
    if raw is not None:
        event._raw = raw
    return event
