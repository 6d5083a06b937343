"""`replay`: have a stream do again what a journal says it did.

Every record is something that came from outside, or that a clock decided, in the order in which it
happened. Each is put in where it came in then (runtime/feed.py, account/synchronizer.py), and all
that follows from it is done by the same code: decoding, merging, calling. So at every event
`positions`, `stale` and `synced` are what they were when a function on the reader thread was called
with it. What is not in a journal is what the process did by itself; docs/journal.md lists it.

Threads: none but the caller's; `stop` may be called on any.
"""

from __future__ import annotations

import itertools
import os
import threading
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .. import errors
from ..account.state import STORED
from ..clock import monotonic
from ..errors import DecodeError, FastposError, JournalError, SnapshotError
from ..model.events import Disconnect, Ready, Stale
from ..model.slots import view
from ..model.snapshot import Snapshot
from ..runtime.run import Control, Parts, Run
from ..stream import PositionStream, begin, hand_over, let_go
from .format import PUSH
from .reader import Record, Time, read

if TYPE_CHECKING:
    from ..runtime.delivery import Delivery
    from ..runtime.feed import Feed
    from ..runtime.snapshots import Snapshots

__all__ = ["Players", "Puts", "replay"]

_numbers = itertools.count(1)
# What a stream that is only replayed would connect to, and never does.
_NOWHERE = "ws://127.0.0.1:9/"
# What comes of a record that is not as it was written.
NONSENSE = ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError
# So many records are read ahead at the most.
AHEAD = 10_000


def replay(
    path: str | os.PathLike[str],
    *,
    stream: str | None = None,
    speed: float | None = None,
    since: Time | None = None,
    until: Time | None = None,
    into: PositionStream | None = None,
    **arguments: Any,
) -> PositionStream:
    """Replay a stream's journal in the calling thread, until its end or `stop` in a callback.

    Events have the recorded times in `received_ns`. What a callback raises goes to `on_error`, as
    in a stream. It says there, too, where the journal has a gap: records that were not written.

    The same functions are called with the same events in the same order, and `positions` and the
    like show at each what they showed to a function on the reader thread. docs/journal.md tells
    what is not in a journal, and so not as it was.

    Args:
        path: the journal's folder, or one of its files.
        stream: the name of the stream; None: the only one that is in it.
        speed: 1.0 for the recorded pace, 10.0 for ten times as fast; None: as fast as it goes.
        since, until: see `read`. What was known before `since` is not known to the replay.
        into: a stream of yours that is not running, whose functions are called and whose
            `positions` and so on are kept; None: a new one.
        **arguments: the new one's: callbacks, and others of a `PositionStream`, like `number`,
            which is the recorded one's if it is not given; with `since` it may have to be.

    Returns:
        The stream, with `positions`, `stats` and so on as they were at the end.

    Raises:
        JournalError: there is no journal, or it was altered; the replay has come to there.
        ValueError: it has several streams and `stream` is None, or none of that name; or an
            argument is unusable.
        TypeError: an argument is unusable.
        RuntimeError: `into` is running.
    """
    if into is not None and arguments:
        raise TypeError(f"into has its own arguments: {', '.join(arguments)} can't be given")
    if speed is not None and not (isinstance(speed, (int, float)) and speed > 0):
        raise ValueError(f"speed must be a number above 0 or None, not {speed!r}")
    players = Players(lambda name, number: into or _new_stream(name, number, arguments), speed)
    wanted = stream

    def mine() -> Iterable[Record]:
        nonlocal wanted
        for record in read(path, stream=wanted, since=since, until=until):
            if record.stream != wanted:
                if wanted is not None:
                    raise ValueError(
                        f"the journal has several streams, {wanted} and {record.stream} among "
                        "them: say which with stream="
                    )
                wanted = record.stream
            yield record

    players.play(mine())
    if not players.streams:
        what = "nothing" if wanted is None else f"nothing of a stream {wanted!r}"
        raise ValueError(f"there is {what} in {path}")
    return next(iter(players.streams.values()))


def _new_stream(name: str, number: type, arguments: dict[str, Any]) -> PositionStream:
    own = {"api_key": "replay", "broker": 0, "name": name, "number": number}
    return PositionStream(_NOWHERE, **{**own, **arguments})


class Players:
    """Replays any number of streams side by side, in the order of the records.

    Args:
        new_stream: makes a stream, which is not running, of a name and the type of its numbers.
        speed: see `replay`.
    """

    def __init__(
        self, new_stream: Callable[[str, type], PositionStream], speed: float | None = None
    ) -> None:
        self._new_stream = new_stream
        self._speed = speed
        self._players: dict[str, _Player] = {}
        self._began: tuple[int, float] | None = None  # the first record's time, and then

    @property
    def streams(self) -> dict[str, PositionStream]:
        """The streams by name."""
        return {name: player.stream for name, player in self._players.items()}

    def play(self, records: Iterable[Record]) -> None:
        """Replay records; those of a stream that is stopped meanwhile are passed over."""
        try:
            for record, texts in _units(records):
                player = self._player(record)
                if self._speed is not None:
                    self._keep_pace(player, record[0])
                if record[3] == PUSH:
                    player.pushes(texts, record[0])
                else:
                    player.put(record)
                if player.is_stopped and all(each.is_stopped for each in self._players.values()):
                    return
        finally:
            for each in self._players.values():
                each.end()

    def _player(self, record: Record) -> _Player:
        player = self._players.get(record.stream)
        if player is None:
            exact = record.values.get("number") == "Decimal"
            stream = self._new_stream(record.stream, Decimal if exact else float)
            player = self._players[record.stream] = _player_of(stream)
        return player

    def _keep_pace(self, player: _Player, ns: int) -> None:
        assert self._speed is not None
        now = monotonic()
        if self._began is None:
            self._began = ns, now
        first, began = self._began
        left = began + (ns - first) / 1e9 / self._speed - now
        if left > 0:
            player.wait(left)


class _Unit:
    """A record, or pushes that were read at once."""

    __slots__ = ("head", "is_whole", "late", "record", "texts")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.head = record[:3]
        self.is_whole = record[3] != PUSH
        """Whether it is known what became of all of them."""
        self.texts = [] if self.is_whole else [record[4]]
        self.late = 0
        """How many were read with them and not delivered."""


def _units(records: Iterable[Record]) -> Iterator[tuple[Record, list[bytes]]]:
    """Put together what was read at once, and apart where it was not delivered so.

    What became of the last pushes of a read says the stream's next record. So the records are read
    ahead, but no further than `AHEAD`, as a stream may have no next one for long.
    """
    waiting: deque[_Unit] = deque()  # in order
    last: dict[str, _Unit] = {}  # of each stream, pushes of which that is not known yet
    unit: _Unit | None = None  # the newest of them, if it is pushes
    for record in records:
        kind = record[3]
        if unit is not None and kind == PUSH and record[:3] == unit.head:
            unit.texts.append(record[4])
            continue
        unit = None
        before = last.get(record[1])
        rest: _Unit | None = None
        if before is not None:
            if kind == "undelivered" and "count" not in record[5]:
                before.late += 1
                continue
            if kind == PUSH and record[:3] == before.head:
                before.texts.append(record[4])
                unit = before
                continue
            rest = _part(before, record)
            before.is_whole = True
            del last[record[1]]
        if kind == PUSH:
            unit = _Unit(record)
            waiting.append(unit)
            last[record[1]] = unit
        else:
            waiting.append(_Unit(record))
            if rest is not None:
                waiting.append(rest)
                last[record[1]] = rest
        while waiting and (waiting[0].is_whole or len(waiting) > AHEAD):
            first = waiting.popleft()
            if first.texts or first.record[3] != PUSH:
                yield first.record, first.texts
            if last.get(first.record[1]) is first:
                del last[first.record[1]]
            if unit is first:
                unit = None
    for each in waiting:
        if each.texts or each.record[3] != PUSH:
            yield each.record, each.texts


def _part(unit: _Unit, record: Record) -> _Unit | None:
    """Take from pushes what was not delivered, or not before `record`; give the latter."""
    values = record[5]
    if record[3] == "undelivered":
        late = values.get("count")
        if type(late) is int and late > 0:
            del unit.texts[-late:]
    elif record[3] == "paused" and "after" in values:
        begun = max(len(unit.texts) + unit.late - values["of"] + values["after"], 0)
        texts = unit.texts[begun:]
        if texts:
            rest = _Unit(unit.record)
            unit.texts, rest.texts, rest.late = unit.texts[:begun], texts, unit.late
            return rest
    return None


def _player_of(stream: PositionStream) -> _Player:
    settings = stream._settings
    if settings.dispatch != "reader" or settings.journal is not None:
        what = "a journal" if settings.journal is not None else 'dispatch="thread"'
        raise ValueError(f"{stream.name} has {what}: it can't be replayed into")
    player = hand_over(stream, partial(_Player, stream))
    run = Run(next(_numbers), threading.current_thread(), is_ours=False, background=False)
    try:
        begin(stream, run)
    except BaseException:
        let_go(stream)
        raise
    player.begin_at(run)
    return player


class Puts:
    """Puts records in where they came in: for a driver of a stream (`Control`)."""

    # The driver's.
    feed: Feed
    snapshots: Snapshots
    stream: PositionStream
    current: Run
    now_ns: int
    _delivery: Delivery
    _tell: Callable[[list[tuple[str, object]]], None]

    def pushes(self, texts: list[bytes], received_ns: int) -> bool:
        """Put in pushes that were read at once; whether all of them were, before it is to stop."""
        if self.current.stopping:
            return False
        self.now_ns = received_ns
        counters = self.stream._counters
        counters.messages += len(texts)
        counters.last_message_ns = received_ns
        self._delivery.received(monotonic())
        self._delivery.pushes(texts, received_ns)
        return self._delivery.begun == len(texts)

    def put(self, record: Record) -> bool:
        """Put in one record; whether that was done, before it is to stop."""
        if record.kind == PUSH:
            return self.pushes([record.text], record.received_ns)
        if self.current.stopping:
            return False
        self.now_ns = record.received_ns
        step = getattr(self, f"put_{record.kind}", None)
        if step is None:
            raise JournalError(f"a record of kind {record.kind!r} is not known here").advising(
                "Read it with the version of fastpos that wrote it, or a newer one."
            )
        try:
            step(record.received_ns, **record.values)
        except NONSENSE as error:  # never of a user's function
            message = f"a record of kind {record.kind!r} can't be used: {error}"
            raise JournalError(message).advising(
                "It was altered, or is of another version of fastpos; read() shows it, and since= "
                "begins behind it."
            ) from error
        return True

    # --- the kinds --------------------------------------------------------------------------

    def put_started(self, ns: int, run: int = 1, book: str | None = None, **_: Any) -> None:
        if run == 1:  # another process, which knew nothing
            self.snapshots.end()
            self.stream.book.forget()
        # Also where the replay begins with this run.
        if book is not None and self.stream.book.is_empty:
            self.stream.book.load(book)
        self.feed.begin()
        self.feed.attempt()

    def put_connected(self, ns: int, **_: Any) -> None:
        self.stream._counters.connects += 1

    def put_subscribed(self, ns: int, first: bool, gap_s: Any, attempts: int, **_: Any) -> None:
        gap = None if gap_s is None else float(gap_s)
        self.feed.ready(Ready(first=first, gap_s=gap, attempts=attempts, received_ns=ns))

    def put_paused(self, ns: int, **_: Any) -> None:
        self.feed.interrupted()

    def put_stale(self, ns: int, reason: str, silent_s: Any, **_: Any) -> None:
        silent = None if silent_s is None else float(silent_s)
        self.feed.stale(Stale(reason=reason, silent_s=silent, received_ns=ns))

    def put_undecodable(self, ns: int, error: str, base64: str, **_: Any) -> None:
        self.feed.undecodable(DecodeError(error, b64decode(base64)), ns)

    def put_disconnected(
        self, ns: int, reason: str, close_code: int | None, error: Any, retry_in_s: Any, **_: Any
    ) -> None:
        self.feed.left(None)
        failure = None if error is None else _error_of(error, FastposError)
        if failure is not None:
            failure.stream = self.stream.name
        self.feed.disconnected(
            Disconnect(
                reason=reason,
                close_code=close_code,
                error=failure,
                retry_in_s=None if retry_in_s is None else float(retry_in_s),
                received_ns=ns,
            )
        )
        self.feed.attempt()

    def put_snapshot_asked(self, ns: int, **_: Any) -> None:
        self.snapshots.rules.asked()

    def put_snapshot_unwanted(self, ns: int, **_: Any) -> None:
        self.snapshots.end()

    def put_snapshot_doubted(self, ns: int, **_: Any) -> None:
        self.snapshots.rules.doubt(monotonic())

    def put_snapshot_failed(self, ns: int, error: Any, **_: Any) -> None:
        failure = _error_of(error, SnapshotError)
        self._tell(self.snapshots.rules.failed(failure, monotonic()))

    def put_snapshot(self, ns: int, **stores: Any) -> None:
        number = self.stream._settings.number
        given: dict[str, Any] = {
            name: None
            if stores.get(name) is None
            else [view(part.record, wire, number) for wire in stores[name]]
            for name, part in STORED.items()
        }
        self.snapshots.rules.asked()  # where the journal does not say so, or only before `since`
        self._tell(self.snapshots.rules.take(Snapshot(**given), ns))

    def put_dropped(self, ns: int, count: int, from_ns: int, to_ns: int, **_: Any) -> None:
        seconds = (to_ns - from_ns) / 1e9
        self._delivery.report(
            JournalError(f"{count} records of {seconds:.1f} s are not in the journal").advising(
                "They were lost while it was recorded; what follows is as it was."
            )
        )

    def put_undelivered(self, ns: int, **_: Any) -> None:
        """No function was called, so none is."""

    def put_stopped(self, ns: int, **_: Any) -> None:
        """What was told of it is told by what came before."""


class _Player(Puts, Control):
    """Drives one stream by its records."""

    __slots__ = ("current", "now_ns", "stream")

    def __init__(self, stream: PositionStream, parts: Parts) -> None:
        super().__init__(parts)
        self.stream = stream
        self.current: Run
        self.now_ns = 0

    def begin_at(self, run: Run) -> None:
        """Begin; what is known is shown as of the record at hand."""
        self.current = run
        self.stream.book.now_ns = lambda: self.now_ns
        self.snapshots.rules.has_source = True

    def stop(self, run: Run) -> None:
        """Put in no record any more."""
        self._stop(run)

    @property
    def is_ready(self) -> bool:
        """Whether it was subscribed then."""
        return not self.current.ended

    @property
    def is_stopped(self) -> bool:
        """Whether no more records are wanted."""
        return self.current.stopping

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is stopped."""
        self._changes.wait_for(lambda: self.current.stopping, seconds)

    def put_state(self, ns: int, **_: Any) -> None:
        """What is known: no news for who has followed from the beginning."""

    def end(self) -> None:
        """There is no more."""
        self.snapshots.rules.has_source = self.snapshots.has_source
        self.current.ended = True
        self._changes.notify()
        let_go(self.stream)


E = TypeVar("E", bound=FastposError)


def _error_of(told: list[Any], least: type[E]) -> E:
    """Make an error again, of its class' name, arguments and advice; where that is no class of
    ours, or not of those wanted, it is of the `least`."""
    name = str(told[0])
    arguments: list[Any] = [float(each) if isinstance(each, Decimal) else each for each in told[1:]]
    own = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, least)):
        kind = least
    try:
        made = kind(*arguments)
    except TypeError:  # somebody's own class had others, or one of them was no text or number
        made = kind(*arguments[:1])
    return made.advising(str(own["advice"])) if "advice" in own else made
