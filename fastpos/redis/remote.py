"""`RemoteStream`: a stream's functions, events and properties, on another machine, from Redis.

What an owner's `Publisher` has appended is put into the same code again, record by record, as a
journal is (journal/replay.py): it decodes, merges and calls as the owner's stream did.

WHERE IT BEGINS

Records follow one another, and the owner puts its whole state among them now and then. From the
last state before it a stream goes on silently to where it begins to tell:

* alone, that is the end: then `on_position` tells what is open, `on_ready` that it begins, and all
  that comes from then on is told;
* in a group, it is what the group has not acknowledged yet, or the end for a group that is new.
  A record is acknowledged when the functions have returned. So each is told at least once. One
  member of a group reads an account at a time, or their order would be lost; it holds a lock for as
  long as it says so in time, and the next goes on where it stopped.

Threads: those of a `PositionStream` (runtime/driver.py). The reader alone talks to Redis.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from time import time_ns
from typing import TYPE_CHECKING, Any

from ..clock import monotonic
from ..errors import ConnectionFailed, PublisherError
from ..journal.format import parse
from ..journal.reader import Record
from ..journal.replay import Puts
from ..logs import fields, log
from ..model.events import Disconnect, Ready, Stale
from ..reconnect import ReconnectPolicy
from ..runtime.driver import Driver
from ..runtime.run import Parts, Run
from ..stream import PositionStream
from .connecting import connect, shown
from .scripts import HOLD, LET_GO, Keys

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RemoteStream"]

# So many records are read at once.
COUNT = 500
# A read waits so long for something to come, milliseconds.
BLOCK = 1000
# The lock of a group's member lasts so long, seconds, and is taken again so often.
LOCK, RENEWAL = 5.0, 1.5
# What a stream is known from: the owner's state, or its beginning.
_BEGINNINGS = (b"state", b"started")
# While another member of the group has the lock, it is asked for so often, seconds.
STANDBY = 0.5


class RemoteStream(PositionStream):
    """A stream that another process follows, from Redis: the same functions, events, properties.

    Args:
        url: of the Redis that its owner publishes to; see `Publisher`.
        name: the stream's there.
        prefix: what the keys begin with.
        group: several processes of one group share the work: each record is told to one of them, at
            least once, and goes on where the last one stopped. None: this one alone gets all, from
            now on.
        consumer: what this one is called in the group; None: host and process.
        reconnect: when to try Redis again while it is away.
        **arguments: callbacks and others of a `PositionStream`: `number`, `dispatch`,
            `queue_size`, `slow_callback_s`.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
        ImportError: redis-py is not there (extra "redis").
    """

    def __init__(
        self,
        url: str,
        name: str,
        prefix: str = "fastpos",
        group: str | None = None,
        consumer: str | None = None,
        *,
        reconnect: ReconnectPolicy | None = None,
        **arguments: Any,
    ) -> None:
        connect(url)  # whether that can be
        for what, value in (("group", group), ("consumer", consumer)):
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"{what} must be a text or None, not {value!r}")
        if group is not None and arguments.get("dispatch") == "thread":
            raise ValueError(
                'a group acknowledges what functions have returned from: dispatch="thread" is not '
                "for it"
            )
        super().__init__("ws://127.0.0.1:9/", api_key="remote", broker=0, name=name, **arguments)
        self._url = url
        self._source = _Source(
            url,
            Keys(prefix, name),
            group,
            consumer or f"{socket.gethostname()}:{os.getpid()}",
            reconnect or ReconnectPolicy(initial=0.2, maximum=2.0),
        )
        self._own_driver = self._driver = _RemoteDriver(self._parts, self, self._source)

    def __repr__(self) -> str:
        source = getattr(self, "_source", None)
        return (
            "<RemoteStream>"
            if source is None
            else f"<RemoteStream {self.name} {shown(source.url)}>"
        )


class _Source:
    """Where records come from."""

    def __init__(
        self, url: str, keys: Keys, group: str | None, consumer: str, policy: ReconnectPolicy
    ) -> None:
        self.url = url
        self.keys = keys
        self.group = group
        self.consumer = consumer
        self.policy = policy


Id = tuple[int, int]


def _id(raw: bytes) -> Id:
    epoch, _, sequence = raw.partition(b"-")
    return int(epoch), int(sequence)


def _text(id: Id) -> str:
    return f"{id[0]}-{id[1]}"


def _record(values: dict[bytes, bytes]) -> Record:
    head, kind, text, rest = parse(values[b"record"] + b"\n")
    ns, stream, connection = head
    return Record(ns, stream or "", connection, kind, text, rest)


class _RemoteDriver(Puts, Driver):
    """Reads what an owner has published, on whatever thread calls `run`."""

    __slots__ = (
        "_doubted", "_failures", "_is_told", "_last", "_redis", "_renewed", "_source",
        "_was_synced", "current", "now_ns", "stream",
    )  # fmt: skip

    def __init__(self, parts: Parts, stream: PositionStream, source: _Source) -> None:
        super().__init__(parts)
        self.stream = stream
        self._source = source
        self._redis: Any = None
        self._last: Id | None = None  # the last record that was put in
        self._is_told = False  # what comes is told, and not only put in
        self._failures = 0
        self._doubted = False  # the owner or Redis is away
        self._was_synced = False  # before that
        self._renewed = 0.0
        self.current = Run(0, threading.current_thread(), is_ours=False, background=True)
        self.now_ns = 0

    @property
    def is_ready(self) -> bool:
        """Whether it is what the owner knows."""
        return self._is_told and not self._doubted

    def _connect_and_reconnect(self, run: Run) -> None:
        from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

        self.current = run
        self.stream.book.now_ns = lambda: self.now_ns
        self.snapshots.rules.has_source = True
        self._last, self._is_told, self._doubted, self._failures = None, False, False, 0
        while not run.stopping:
            try:
                self._follow_records(run)
            except (RedisError, OSError) as error:
                self._lost(run, error)
        self._leave()
        self._tell_end()

    # --- one connection to Redis ------------------------------------------------------------

    def _follow_records(self, run: Run) -> None:
        """Read until it is to stop; raises what Redis does."""
        self._redis = connect(self._source.url)
        if self._source.group is not None and not self._wait_for_lock(run):
            return
        if self._last is None:
            self._begin(run)
        while not run.stopping:
            if self._source.group is None:
                self._read(run)
            elif not self._read_for_group(run):
                return
            self._look_for_owner()

    def _begin(self, run: Run) -> None:
        """Put in all up to where it begins to tell, from the last state before that."""
        keys, group = self._source.keys, self._source.group
        end = self._end() if group is None else self._end_of_group(group)
        self._delivery.mute()
        try:
            for id, record in self._since_state(end):
                self._put(id, record)
        finally:
            self._delivery.unmute()
        self._last = end
        self._is_told = True
        self._changes.notify()
        log.info(
            "%s: follows %s from %s on",
            self.stream.name,
            keys.events,
            _text(end),
            extra=fields("subscribed", stream=self.stream.name, gap_s=None, attempt=1),
        )
        if group is None:
            for position in self.stream.positions.values():
                shown_as: Any = position
                shown_as._change, shown_as._source = "CREATE", "SNAPSHOT"
                self._delivery.tell("on_position", position)
        self._delivery.tell("on_ready", Ready(first=True, attempts=1, received_ns=time_ns()))

    def _end(self) -> Id:
        """The last record there is."""
        found = self._redis.xrevrange(self._source.keys.events, count=1)
        return _id(found[0][0]) if found else (0, 0)

    def _since_state(self, end: Id) -> Iterator[tuple[Id, Record]]:
        """Give the records from the last state up to `end`; all there are, where there is none."""
        key, begin, before = self._source.keys.events, b"-", _text(end)
        while found := self._redis.xrevrange(key, max=before, count=COUNT):
            states = [id for id, values in found if values[b"kind"] in _BEGINNINGS]
            if states:
                begin = states[0]
                break
            before = b"(" + found[-1][0]
        while found := self._redis.xrange(key, min=begin, max=_text(end), count=COUNT):
            for id, values in found:
                yield _id(id), _record(values)
            begin = b"(" + found[-1][0]

    def _read(self, run: Run) -> None:
        """Wait for records, and put them in."""
        assert self._last is not None
        key = self._source.keys.events
        answer = self._redis.xread({key: _text(self._last)}, count=COUNT, block=BLOCK)
        for id, values in answer[0][1] if answer else ():
            if run.stopping:
                return
            self._put(_id(id), _record(values))
            self._check_process()

    def _put(self, id: Id, record: Record) -> None:
        if self._last is not None and id[0] == self._last[0] and id[1] > self._last[1] + 1:
            missed = id[1] - self._last[1] - 1
            if record.kind != "dropped":  # which tells of it itself
                message = f"{missed} records were not read in time, and Redis keeps them no more"
                self._delivery.report(PublisherError(message))
        self._last = id
        self.put(record)

    # --- in a group -------------------------------------------------------------------------

    def _wait_for_lock(self, run: Run) -> bool:
        """Wait until this is the member that reads; False where it is to stop."""
        while not self._hold(self._redis):
            if run.stopping:
                return False
            self._changes.wait_for(lambda: run.stopping, STANDBY)
        key, group, consumer = self._source.keys.events, self._source.group, self._source.consumer
        with suppress(self._exists):
            begin = "$" if self._last is None else _text(self._last)  # the server has lost it
            self._redis.xgroup_create(key, group, id=begin, mkstream=True)
        # What a member before this one has not acknowledged is this one's.
        start: Any = b"0-0"
        while True:
            start, *_ = self._redis.xautoclaim(key, group, consumer, 0, start, count=COUNT)
            if start == b"0-0":
                break
        return True

    @property
    def _exists(self) -> type[Exception]:
        from redis.exceptions import ResponseError  # noqa: PLC0415

        return ResponseError

    def _hold(self, redis: Redis) -> bool:
        """Take the group's lock, or take it again; whether this has it."""
        keys, source = self._source.keys, self._source
        self._renewed = monotonic()
        lock = f"{keys.events}:{source.group}"
        return bool(redis.eval(HOLD, 1, lock, source.consumer, int(LOCK * 1000)))

    def _end_of_group(self, group: str) -> Id:
        """The last record that the group has acknowledged: the one before all it has not."""
        key = self._source.keys.events
        pending = self._redis.xpending_range(key, group, "-", "+", 1)
        if pending:
            before = self._redis.xrevrange(key, max=b"(" + pending[0]["message_id"], count=1)
            return _id(before[0][0]) if before else (0, 0)
        for each in self._redis.xinfo_groups(key):
            if each["name"] == group.encode():
                return _id(each["last-delivered-id"])
        return self._end()

    def _read_for_group(self, run: Run) -> bool:
        """Put in what the group has not acknowledged, and acknowledge it; whether to go on."""
        source = self._source
        key, group, consumer = source.keys.events, source.group, source.consumer
        first = self._redis.xreadgroup(group, consumer, {key: "0"}, count=COUNT)
        found = first[0][1] if first else []
        if not found:
            answer = self._redis.xreadgroup(group, consumer, {key: ">"}, count=COUNT, block=BLOCK)
            found = answer[0][1] if answer else []
        done: list[bytes] = []
        try:
            for id, values in found:
                if run.stopping or not self._has_lock():
                    break
                if values:  # else it is kept no more
                    self._put(_id(id), _record(values))
                    self._check_process()
                done.append(id)
        finally:
            if done and not self.owner.is_another:
                self._redis.xack(key, group, *done)
        if not self._has_lock():
            log.warning(
                "%s: another member of the group goes on",
                self.stream.name,
                extra=fields("lock_lost", stream=self.stream.name),
            )
            self._last = None
            return False
        return True

    def _has_lock(self) -> bool:
        return monotonic() - self._renewed < RENEWAL or self._hold(self._redis)

    def _leave(self) -> None:
        """Let others of the group go on at once."""
        with suppress(Exception):
            if self._source.group is not None:
                lock = f"{self._source.keys.events}:{self._source.group}"
                self._redis.eval(LET_GO, 1, lock, self._source.consumer)
        with suppress(Exception):
            self._redis.close()

    # --- what is away -----------------------------------------------------------------------

    def _look_for_owner(self) -> None:
        """Tell when the owner is gone: what is known may be out of date from then on."""
        is_there = bool(self._redis.exists(self._source.keys.owner))
        if is_there and self._failures:  # Redis was away, and has all that came meanwhile
            self._failures = 0
            self._trust()
            ready = Ready(first=False, gap_s=0.0, attempts=1, received_ns=time_ns())
            self._delivery.tell("on_ready", ready)
        elif is_there:
            self._trust()
        elif not self._doubted:
            self._doubt()
            reason = "nobody publishes it any more"
            log.warning(
                "%s: %s",
                self.stream.name,
                reason,
                extra=fields("stale", stream=self.stream.name, reason=reason, silent_s=0.0),
            )
            event = Stale(reason=reason, silent_s=0.0, received_ns=time_ns())
            self._delivery.tell("on_stale", event)

    def _doubt(self) -> None:
        """What is known may be out of date."""
        if not self._doubted:
            self._was_synced = self.snapshots.synced
            self._doubted = True
            self.snapshots.interrupt()

    def _trust(self) -> None:
        """It is not: nothing was missed."""
        if self._doubted:
            self._doubted = False
            self.snapshots.rules.resume(self._was_synced)
            self._changes.notify()

    def put_started(self, ns: int, run: int = 1, book: str | None = None, **_: Any) -> None:
        """An owner has begun: until its state comes, what the last one knew may be out of date."""
        self.snapshots.end()
        self._was_synced = False
        self.feed.attempt()

    def put_state(self, ns: int, synced: bool = False, **content: Any) -> None:
        """What the owner knows."""
        super().put_state(ns, synced, **content)
        self._was_synced = synced

    def _lost(self, run: Run, error: Exception) -> None:
        """Redis is away: say so, and wait a little."""
        self._failures += 1
        delay = self._source.policy.delay(self._failures)
        reason = f"Redis at {shown(self._source.url)} is away: {type(error).__name__}: {error}"
        failure = ConnectionFailed(reason)
        failure.stream = self.stream.name
        self._doubt()
        log.warning(
            "%s: %s",
            self.stream.name,
            reason,
            extra=fields("redis_away", stream=self.stream.name, reason=reason, retry_in_s=delay),
        )
        if self._failures == 1:  # else it is the same
            event = Disconnect(
                reason=reason, error=failure, retry_in_s=delay, received_ns=time_ns()
            )
            self._delivery.tell("on_disconnect", event)
        self._changes.wait_for(lambda: run.stopping, delay)

    def _tell_end(self) -> None:
        event = Disconnect(reason="stopped", received_ns=time_ns())
        self._delivery.tell("on_disconnect", event)
