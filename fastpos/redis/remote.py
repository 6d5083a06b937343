"""`RemoteStream`: a stream's functions, events and properties, on another machine, from Redis.

What an owner's `Publisher` has appended is put into the same code again, record by record, as a
journal is (journal/replay.py): it decodes, merges and calls as the owner's stream did. Who follows
without a gap knows what the owner does, and is told the same.

WHERE IT BEGINS

Records follow one another, and the owner puts its whole state among them now and then. From the
last state on a stream goes silently to where it begins to tell:

* alone, that is the end: then `on_position` tells what has changed since it told last (at first:
  what is open), and all that comes from then on is told;
* in a group, it is what the group has not acknowledged yet, or the end for a group that is new. A
  record is acknowledged when the functions have returned, so each is told at least once. One member
  of a group reads an account at a time, or their order would be lost. It holds a lock, for as long
  as it says so in time; the next goes on where it stopped.

WHAT MAKES IT DOUBTFUL

While one of these is so, all that is known counts as stale, and it is not ready:

* `_away`: Redis does not answer, or has not been read up to its end since it does again;
* `_orphaned`: nobody publishes the account: the owner's lease ran out, or it was given back;
* `_broken`: records are missing, or the owner is another; until the next state.

Threads: those of a `PositionStream` (runtime/driver.py). The reader alone talks to Redis. `_close`
and `_abort`, on the ping thread, shut its socket down where it waits; `_follow` only wakes it.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from time import time_ns
from typing import Any, NoReturn

from ..clock import monotonic
from ..errors import (
    AuthenticationError,
    ConnectionFailed,
    FastposError,
    JournalError,
    PublisherError,
)
from ..fork import Forked
from ..journal.format import PUSH, parse, time_of
from ..journal.reader import Record
from ..journal.replay import Puts
from ..logs import fields, log
from ..model.events import Disconnect, Ready, Stale
from ..printable import printable
from ..recovery import Recovery
from ..runtime.callbacks import CALLBACK_NAMES
from ..runtime.driver import Driver
from ..runtime.run import Parts, Run
from ..settings import takes
from ..stream import PositionStream
from .arguments import RemoteSettings
from .connecting import connect, shown
from .scripts import HOLD, LET_GO, READ, Keys

__all__ = ["RemoteStream"]

# So many records are read at once.
COUNT = 500
# A read waits so long for something to come, milliseconds; and Redis for an answer, seconds.
BLOCK, ANSWER = 1000, 3.0
# The lock of a group's member lasts so long, seconds, and is taken again so often.
LOCK, RENEWAL = 5.0, 1.5
# While another member of the group has the lock, it is asked for so often, seconds.
STANDBY = 0.5
# How long an owner may take to find that Redis is back, seconds: its lease.
GRACE = 5.0

_PUSH_MARK = b',"kind":"push","json":'


class RemoteStream(PositionStream):
    """A stream that another process follows, from Redis: the same functions, events, properties.

    It takes from Redis what the stream's owner publishes there, see `Publisher`. It has no
    connection to the exchange and needs no credential.

    Args:
        url: of the Redis or Valkey: ``redis://[user:password@]host:port/db``, ``rediss://`` for
            TLS, ``unix://``.
        name: the stream's there.
        prefix: what the keys begin with.
        group: several processes of one group share the work: each record is told to one of them, at
            least once, and goes on where the last one stopped. None: this one alone gets all, from
            now on.
        consumer: what this one is called in the group; None: host and process.
        on_position, on_order, …: the functions to call, see `PositionStream`. `on_ready` is called
            when it follows the owner, `on_disconnect` also when Redis can't be reached, `on_stale`
            also when nobody publishes the account any more.
        number: `float`, or `decimal.Decimal` for exact numbers.
        reconnect: when to try Redis again while it is away; None: never.
        dispatch, queue_size: see `PositionStream`. In a group there is only "reader": it
            acknowledges what functions have returned from.
        slow_callback_s: see `PositionStream`. In a group a function may take up to 5 s: after that
            another member goes on with the same record.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
        ImportError: redis-py is not there (extra "redis").
    """

    _drives_itself = "is a RemoteStream, which reads Redis itself: start it"

    @takes(RemoteSettings)
    def __init__(self, settings: RemoteSettings) -> None:
        functions: dict[str, Any] = {
            name: function
            for name in CALLBACK_NAMES
            for function in getattr(settings, name).functions
        }
        super().__init__(
            "ws://127.0.0.1:9/",  # nobody connects there
            api_key="remote",
            broker=0,
            name=settings.name,
            number=settings.number,
            reconnect=settings.reconnect,
            dispatch=settings.dispatch,
            queue_size=settings.queue_size,
            slow_callback_s=settings.slow_callback_s,
            **functions,
        )
        self._remote = settings
        self._remote_driver = _RemoteDriver(self._parts, self, settings)
        self._own_driver = self._driver = self._remote_driver

    def __repr__(self) -> str:
        settings = getattr(self, "_remote", None)
        if settings is None:  # its arguments were refused
            return f"<{type(self).__name__}>"
        group = "" if settings.group is None else f" group={settings.group}"
        return f"<{type(self).__name__} {settings.name} {shown(settings.url)}{group}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a RemoteStream can't be copied or pickled: make one of its own where it is needed"
        )


Id = tuple[int, int]
_NO_ID: Id = 0, -1  # before all records


def _id(raw: bytes) -> Id:
    epoch, _, sequence = raw.partition(b"-")
    return int(epoch), int(sequence)


def _text(id: Id) -> str:
    """Give the id for Redis; one before the first of an epoch is that of the last before it."""
    epoch, sequence = id
    if sequence < 0:
        return f"{epoch - 1}-{2**64 - 1}" if epoch else "0-0"
    return f"{epoch}-{sequence}"


def _lost(id: Id) -> str:
    return f"Redis has lost its records: {_text(id)} is not there any more"


def _fields_of(flat: list[bytes] | None) -> dict[bytes, bytes]:
    """Give an entry's fields as redis-py does; none where it is kept no more."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}


def _record(name: str, values: dict[bytes, bytes]) -> Record:
    """Take a record apart; raises ValueError or KeyError where it is none."""
    line = values[b"record"]
    head, found, rest = line.partition(_PUSH_MARK)
    if found:
        return Record(time_of(head), name, int(head.rpartition(b":")[2]), PUSH, rest[:-1], {})
    (ns, _, connection), kind, text, more = parse(line + b"\n")
    return Record(ns, name, connection, kind, text, more)


class _RemoteDriver(Puts, Driver):
    """Reads what an owner has published, on whatever thread calls `run`."""

    def __init__(self, parts: Parts, stream: PositionStream, settings: RemoteSettings) -> None:
        super().__init__(parts)
        self.stream = stream
        self._settings = settings
        self._keys = Keys(settings.prefix, settings.name)
        self._consumer = settings.consumer or f"{socket.gethostname()}:{os.getpid()}"
        self._lock_key = f"{self._keys.events}:{settings.group}"
        self._member = ""  # who holds the lock: each run is another
        self._redis: Any = None
        self._may_cut = False  # the reader waits for a record, and nothing else
        self._last: Id | None = None  # the last record that was put in; None: begin anew
        self._told: Id | None = None  # the last that was told, in this run
        self._done: list[bytes] = []  # records to be acknowledged
        self._is_awaited = False  # there is something new, which was not read yet
        self._has_pending = False  # some may be left that another member did not acknowledge
        self._lock_renewed = 0.0
        self._back_at = 0.0  # when Redis was last reached
        self._reached = False  # by the present connection
        self._epoch: int | None = None  # of what is known from the run or the pause before
        self._is_told = False  # what comes is told, and not only put in
        self._is_subscribed = False  # the owner is, to the exchange
        self._subscribed_ns = 0  # when it last was known to be
        self._before_ns = 0  # when the record before the present one came
        self._left_ns = 0  # when this one was last ready
        self._readies = 0  # how often `on_ready` was called in this run
        self._attempts = 1  # connections tried for the present one
        self._away = self._orphaned = self._broken = False  # see above
        self._is_unproven = False  # the owner began without knowing anything
        self._awaits_outcome = False  # of a snapshot that could not be merged here: the next state
        self._recovery = Recovery(settings.reconnect, False, 0.0)
        self.current = Run(0, threading.current_thread(), is_ours=False, background=True)
        self.now_ns = 0

    @property
    def is_ready(self) -> bool:
        """Whether it follows an owner that is subscribed."""
        return self._is_subscribed and not self.stream._heartbeat.owed_since_sleep

    @property
    def _is_doubtful(self) -> bool:
        return self._away or self._orphaned or self._broken

    def _weigh(self) -> None:
        """Have what is known count as stale while it is doubtful, or not told."""
        # In the way of a stream whose machine has slept: until it is confirmed.
        was_ready = self.is_ready
        self.stream._heartbeat.owed_since_sleep = int(self._is_doubtful or not self._is_told)
        if was_ready and not self.is_ready:
            self._left_ns = time_ns()
        self._changes.notify()

    def _connect_and_reconnect(self, run: Run) -> None:
        self.current = run
        self.snapshots.rules.has_source = True
        self._member = f"{self._consumer} {secrets.token_hex(8)}"
        self._recovery = Recovery(self._settings.reconnect, False, monotonic())
        self._last = self._told = None
        self._done = []
        self._readies = 0
        self._is_told = self._away = self._orphaned = self._broken = False
        self._weigh()
        try:
            while not run.stopping:
                if not self._wanted:
                    self._pause(run)
                    continue
                retry_in = self._serve_redis(run)
                if retry_in is not None:
                    self._changes.wait_for(lambda: run.stopping, retry_in)
        finally:
            if not self.owner.is_another:
                self._is_told = False
                self._weigh()
                self._is_subscribed = False
                self.snapshots.end()  # what is known is of the past from now on
                self._leave()

    # --- one connection to Redis ------------------------------------------------------------

    def _serve_redis(self, run: Run) -> float | None:
        """Follow the owner until the connection ends; give in how many seconds to try again.

        Raises:
            FastposError: what ends the stream.
        """
        from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

        failure: FastposError | None = None
        self._reached = False
        self._recovery.attempt()
        try:
            client: Any = connect(self._settings.url, ANSWER)
            self._redis = client.client()  # which has one connection
            self.stream._counters.connects += 1
            self._follow_records(run)
        except (RedisError, OSError) as error:
            failure = self._failure(error)
        except Forked:
            raise
        except FastposError as error:
            failure = error
        except Exception as error:  # a mistake of ours must not end the feed
            if self.owner.is_another:
                raise
            reason = f"unexpected {type(error).__name__}: {printable(str(error))}"
            failure = FastposError(reason)
            failure.__cause__ = error
            self._last = None
        except BaseException:  # Ctrl-C
            if not self.owner.is_another:
                run.stopping = True
                with suppress(Exception):
                    self._acknowledge()
            raise
        if run.stopping:
            if self._reached:
                self.feed.disconnected(Disconnect(reason="stopped", received_ns=time_ns()))
            return None
        if failure is None:  # it is paused
            return None
        return self._lost(failure)

    def _failure(self, error: Exception) -> FastposError:
        from redis import exceptions  # noqa: PLC0415

        where = f"Redis at {shown(self._settings.url)}"
        said = f"{type(error).__name__}: {printable(str(error))}"
        refused = (
            exceptions.AuthenticationError,
            exceptions.AuthenticationWrongNumberOfArgsError,
            exceptions.NoPermissionError,
        )
        failure: FastposError
        if isinstance(error, refused):
            failure = AuthenticationError(f"{where} refuses user, password or right: {said}")
        else:
            failure = ConnectionFailed(f"{where} is away: {said}")
        failure.__cause__ = error
        return failure

    def _lost(self, failure: FastposError) -> float:
        """Redis is away: say so; give in how many seconds to try again."""
        reason = str(failure)
        failure.stream = self.stream.name
        self._disconnect()
        self._away = True
        self._weigh()
        verdict = self._recovery.judge(reason, failure, monotonic())
        log.warning(
            "%s: %s",
            self.stream.name,
            reason,
            extra=fields(
                "redis_lost", stream=self.stream.name, reason=reason, retry_in_s=verdict.retry_in_s
            ),
        )
        if verdict.final is not None:
            verdict.final.stream = self.stream.name
        self.feed.disconnected(
            Disconnect(
                reason=reason,
                error=failure,
                retry_in_s=verdict.retry_in_s,
                received_ns=time_ns(),
            )
        )
        self._check_process()
        if verdict.final is not None:
            raise verdict.final
        assert verdict.retry_in_s is not None
        return verdict.retry_in_s

    def _follow_records(self, run: Run) -> None:
        """Read until it is to stop or to pause; raises what Redis does."""
        in_group = self._settings.group is not None
        while not run.stopping and self._wanted:
            if in_group and not self._wait_for_lock(run):
                return
            if self._last is None:
                self._begin(run)
            if not self._reached:
                self._reached = True
                self._back_at = monotonic()
                self._attempts = self._recovery.subscribed(self._back_at)
            is_mine = True
            while is_mine and not run.stopping and self._wanted and self._last is not None:
                if in_group:
                    is_mine, count = self._read_for_group(run)
                else:
                    count = self._read(run)
                if is_mine and not run.stopping:
                    self._look_for_owner(count < COUNT)

    def _pause(self, run: Run) -> None:
        """Wait until it is wanted again."""
        self._leave()
        self._is_told = False
        self._last = None
        self._weigh()
        self._is_subscribed = False
        self.snapshots.end()
        log.info("%s: paused", self.stream.name, extra=fields("paused", stream=self.stream.name))
        self._changes.wait_for(lambda: run.stopping or self._wanted)

    def _begin(self, run: Run) -> None:
        """Put in all up to where it begins to tell, from the last state before that."""
        group = self._settings.group
        end = self._end() if group is None else self._end_of_group(group)
        self._is_told = False
        self._weigh()
        self._unsubscribed(self.now_ns)
        self._broken = self._is_unproven = self._awaits_outcome = False
        self._last = None
        before = self.stream.book.take_out()
        self.snapshots.end()
        self._delivery.silent = True
        try:
            for id, values in self._since_state(end):
                if run.stopping:
                    return
                self._put(id, values)
        finally:
            self._delivery.silent = False
            # Another owner that has not heard all yet says nothing of what it does not know.
            is_same = self._last is not None and self._epoch in (None, end[0])
            keep = not (self.snapshots.synced or is_same)
            news = self.stream.book.put_over(before, time_ns(), keep)
            self._is_unproven |= keep
            self._epoch = end[0]
        epoch = self._owners_epoch()
        # Of a Redis that is back the owner may not have heard yet.
        self._orphaned = epoch is None and not self._away
        self._away = epoch is None and self._away
        if epoch is not None and epoch != end[0]:
            self._broken = True  # until its state
        self._last = end
        if group is not None:
            self._told = end  # by this member or another
        self._is_told = True
        self._weigh()
        log.info(
            "%s: follows %s from %s on",
            self.stream.name,
            self._keys.events,
            _text(end),
            extra=fields("following", stream=self.stream.name, key=self._keys.events),
        )
        if group is None:
            self._tell([("on_position", event) for event in news])
        if self._orphaned:
            self._tell_orphaned()
        if self.is_ready:
            self._tell_ready(self._gap())

    def _gap(self) -> float:
        """Give the seconds since it was last ready."""
        return max(time_ns() - self._left_ns, 0) / 1e9

    def _tell_ready(self, gap_s: float) -> None:
        first = self._readies == 0
        self._readies += 1
        self.stream._counters.subscriptions += 1
        event = Ready(
            first=first,
            gap_s=None if first else gap_s,
            attempts=self._attempts,
            received_ns=time_ns(),
        )
        self._changes.notify()
        self._delivery.tell("on_ready", event)
        self._check_process()

    def _end(self) -> Id:
        """The last record there is."""
        found = self._redis.xrevrange(self._keys.events, count=1)
        return _id(found[0][0]) if found else _NO_ID

    def _is_there(self, id: Id) -> bool:
        return bool(self._redis.xrange(self._keys.events, _text(id), _text(id)))

    def _since_state(self, end: Id) -> Iterator[tuple[Id, dict[bytes, bytes]]]:
        """Give the records from the last state up to `end`; all there are, where there is none."""
        key, begin, before = self._keys.events, "-", _text(end)
        while found := self._redis.xrevrange(key, max=before, count=COUNT):
            state = next((id for id, values in found if values.get(b"kind") == b"state"), None)
            if state is not None:
                begin = state.decode()
                break
            before = f"({found[-1][0].decode()}"
        while found := self._redis.xrange(key, min=begin, max=_text(end), count=COUNT):
            for id, values in found:
                yield _id(id), values
            begin = f"({found[-1][0].decode()}"

    def _read(self, run: Run) -> int:
        """Wait for records, and put them in; give how many came."""
        assert self._last is not None
        start = {self._keys.events: _text(self._last)}
        answer = self._wait(run, lambda: self._redis.xread(start, count=COUNT, block=BLOCK))
        for id, values in answer:
            if run.stopping or not self._wanted or not self._put(_id(id), values):
                break
        return len(answer)

    def _wait(self, run: Run, read: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Have Redis wait for records; `stop` cuts that short."""
        self._may_cut = True
        try:
            if run.stopping:
                return []
            answer = read()
        finally:
            self._may_cut = False
        return answer[0][1] if answer else []

    # --- records ----------------------------------------------------------------------------

    def _put(self, id: Id, values: dict[bytes, bytes]) -> bool:
        """Put in a record, and tell what is to be told of it; whether that was done."""
        self.stream._counters.bytes_received += len(values.get(b"record", b""))
        last = self._last
        # An epoch's first record is 1; 0 is what tells of records that are missing.
        expected = 1 if last is None or last[0] != id[0] else last[1] + 1
        kind = values.get(b"kind", b"?").decode()
        if last is not None and last[0] and last[0] != id[0]:
            self._is_unproven = self._broken = True  # until its state; `started` may say more
            self._weigh()
            self.snapshots.end()
            if self._is_told and not self._is_there(last):
                self._miss(_lost(last))
        if last is not None and last[0] and id[1] > expected and kind != "dropped":
            self._miss(
                f"{id[1] - expected} records came too late to be read: Redis had let them go"
            )
        try:
            record = _record(self.stream.name, values)
        except (ValueError, KeyError) as error:
            self._miss(f"record {_text(id)} can't be read: {printable(str(error))}")
            self._last = id
            return True
        if record.kind != PUSH and not hasattr(self, f"put_{record.kind}"):
            self._last = id  # of a later version
            return True
        self._epoch = id[0] if self._is_told else self._epoch
        self._following = last is not None and last[0] == id[0] and not self._broken
        self._before_ns = self.now_ns
        try:
            done = self.put(record)
        except (Forked, JournalError, AssertionError, TypeError, KeyError, ValueError) as error:
            if isinstance(error, Forked) or self.owner.is_another:
                raise
            log.exception("record %s is unusable", _text(id), extra=fields("internal_error"))
            self._miss(f"record {_text(id)} is unusable: {type(error).__name__}")
            done = True
        self._check_process()
        if done and not self._delivery.is_muted:
            self._last = id
            if self._is_told:
                self._told = id
            return True
        return False

    def _miss(self, message: str) -> None:
        """Records are missing: say so; what is known is doubtful until the next state."""
        self._broken = True
        self._weigh()
        self.snapshots.end()
        self._delivery.report(PublisherError(message))
        self._check_process()

    def put_started(self, ns: int, run: int = 1, book: str | None = None, **_: Any) -> None:
        """An owner has begun: until its state comes, what the last one knew may be out of date."""
        self.snapshots.end()
        self._unsubscribed(self._before_ns)  # where the last one was killed
        self._broken = True
        self._weigh()
        if run > 1 or book is not None:  # it goes on with what it knew
            self._is_unproven = False
        self.feed.attempt()

    def put_connected(self, ns: int, **_: Any) -> None:
        """The owner's connection is none of ours."""

    def put_subscribed(self, ns: int, first: bool, gap_s: Any, attempts: int, **_: Any) -> None:
        """Pushes come to the owner from now on."""
        if self._is_told:
            first = self._readies == 0
            if first:
                gap_s = None
            elif gap_s is None:  # it is another owner
                gap_s = max(ns - self._subscribed_ns, 0) / 1e9
            self._readies += 1
        self._is_subscribed = True
        super().put_subscribed(ns, first=first, gap_s=gap_s, attempts=attempts)
        self._changes.notify()

    def put_paused(self, ns: int, **_: Any) -> None:
        """The owner wants no pushes."""
        self._unsubscribed(ns)
        super().put_paused(ns)

    def put_disconnected(self, ns: int, *args: Any, **values: Any) -> None:
        """The owner's connection is over."""
        self._unsubscribed(ns)
        self.snapshots.end()  # the feed would not know of who has begun with a state
        super().put_disconnected(ns, *args, **values)

    def put_stopped(self, ns: int, **_: Any) -> None:
        """The owner's stream is over; perhaps another goes on."""
        self._unsubscribed(ns)

    def _unsubscribed(self, ns: int) -> None:
        if self._is_subscribed:
            if self.is_ready:
                self._left_ns = ns
            self._is_subscribed = False
            self._subscribed_ns = ns

    def put_snapshot(self, ns: int, **stores: Any) -> None:
        """The owner has merged a snapshot."""
        if not self.stream.book.journal_is_whole:
            # The pushes since it was asked for are not all known here; a state follows.
            self._awaits_outcome = True
            return
        super().put_snapshot(ns, **stores)
        self._is_unproven = False

    def put_dropped(self, ns: int, count: int, from_ns: int, to_ns: int, **_: Any) -> None:
        """The owner could not publish all."""
        seconds = (to_ns - from_ns) / 1e9
        self._miss(f"{count} records of {seconds:.1f} s were not published: Redis was away")

    def put_state(self, ns: int, synced: bool = False, gap_s: Any = None, **content: Any) -> None:
        """All that the owner knows: no news for who has followed it."""
        self._is_subscribed = self._is_subscribed or not self._is_told
        if self._following and not self._broken and not self._awaits_outcome:
            return
        keep = self._is_unproven and not synced
        events = self.stream.book.replace(content, ns, keep)
        if self._awaits_outcome and synced:
            news = self.snapshots.rules.merged(events, ns)
        else:
            news = [("on_position", event) for event in events]
        self._awaits_outcome = False
        self.snapshots.rules.adopt(synced, None if gap_s is None else float(gap_s))
        self._broken = False
        if synced:
            self._is_unproven = False
        self._weigh()
        self._tell(news)

    _following = False  # there was a state before, and no record is missing since

    # --- in a group -------------------------------------------------------------------------

    def _wait_for_lock(self, run: Run) -> bool:
        """Wait until this is the member that reads; False where it is to stop."""
        while not (held := self._hold()):
            if not self._reached:
                self._recovery.in_service(monotonic())
            self._last = None
            if self._is_told or self._away:
                self._is_told = self._away = False
                self._weigh()
            self._changes.wait_for(lambda: run.stopping or not self._wanted, STANDBY)
            if run.stopping or not self._wanted:
                return False
        if held == 1:  # it was somebody's, or nobody's, meanwhile
            self._last = None
            self._done = []
        self._join_group()
        return True

    def _join_group(self) -> None:
        """Make the group where there is none, and take over what is not acknowledged."""
        from redis.exceptions import ResponseError  # noqa: PLC0415

        key, group = self._keys.events, self._settings.group
        begin, is_lost = "$", False
        if self._told is not None:  # where Redis has lost the group
            epoch = self._owners_epoch()
            is_lost = epoch is not None and epoch < self._told[0]
            if is_lost:
                self._miss(_lost(self._told))
                self._told = _NO_ID
            begin = _text(self._told)
        try:
            self._redis.xgroup_create(key, group, id=begin, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            if is_lost:
                self._redis.xgroup_setid(key, group, begin)
        start: Any = b"0-0"
        while True:
            start, *_ = self._redis.xautoclaim(key, group, self._consumer, 0, start, count=COUNT)
            if start in (b"0-0", "0-0"):
                break
        for each in self._redis.xinfo_consumers(key, group):  # or there would be more and more
            if each["name"] != self._consumer.encode() and not each["pending"]:
                self._redis.xgroup_delconsumer(key, group, each["name"])
        self._has_pending = True
        self._is_awaited = False

    def _hold(self) -> int:
        """Take the group's lock, or take it again: 2 if it was held, 1 if it is now, 0 if not."""
        self._lock_renewed = monotonic()
        return int(self._redis.eval(HOLD, 1, self._lock_key, self._member, int(LOCK * 1000)))

    def _has_lock(self) -> bool:
        return monotonic() - self._lock_renewed < RENEWAL or self._hold() == 2

    def _end_of_group(self, group: str) -> Id:
        """The last record that the group has acknowledged: the one before all it has not."""
        key = self._keys.events
        pending = self._redis.xpending_range(key, group, "-", "+", 1)
        if pending:
            epoch, sequence = _id(pending[0]["message_id"])
            return epoch, sequence - 1
        for each in self._redis.xinfo_groups(key):
            if each["name"] == group.encode():
                found = _id(each["last-delivered-id"])
                return found if found[0] else _NO_ID
        return self._end()

    def _read_for_group(self, run: Run) -> tuple[bool, int]:
        """Put in what the group has not acknowledged, and acknowledge it.

        Returns:
            Whether this is the member that reads yet, and how many records came.
        """
        renewed = monotonic()
        answer = self._redis.eval(
            READ, 2, self._lock_key, self._keys.events, self._member, int(LOCK * 1000),
            self._settings.group, self._consumer, "0" if self._has_pending else ">", COUNT,
        )  # fmt: skip
        found = [(id, _fields_of(flat)) for id, flat in answer or ()]
        if answer is not None:
            self._lock_renewed = renewed
            if self._has_pending:
                self._has_pending = bool(found)
            elif not found and self._is_awaited:  # somebody else's of the group is reading
                self._last = None
            elif not found and self._last is not None:
                start = {self._keys.events: _text(self._last)}
                wait = partial(self._redis.xread, start, count=1, block=BLOCK)
                self._is_awaited = bool(self._wait(run, wait))
                return True, 0
            self._is_awaited = False
        is_mine = answer is not None
        for id, values in found:
            if run.stopping or not self._wanted:
                break
            if not self._has_lock():
                is_mine = False
                break
            # What was told is only to be acknowledged; without values it is kept no more.
            known = self._last is not None and _id(id) <= self._last
            if values and not known and not self._put(_id(id), values):
                break
            self._done.append(id)
        if self._done:
            self._acknowledge()
        if is_mine and self._has_lock():
            return True, len(found)
        log.warning(
            "%s: another member of the group goes on",
            self.stream.name,
            extra=fields("lock_lost", stream=self.stream.name),
        )
        self._last = None
        self._is_told = False
        self._weigh()
        return False, 0

    def _acknowledge(self) -> None:
        """Say that the functions have returned from what was told."""
        if self._done:
            self._redis.xack(self._keys.events, self._settings.group, *self._done)
            self._done = []

    # --- leaving ----------------------------------------------------------------------------

    def _leave(self) -> None:
        """Let others of the group go on at once, and close the connection."""
        if self._redis is not None and self._settings.group is not None:
            for _ in range(2):  # the connection may have been cut
                with suppress(Exception):
                    self._acknowledge()
                    self._redis.eval(LET_GO, 1, self._lock_key, self._member)
                    break
                self._disconnect()
                self._redis = connect(self._settings.url, 1.0)
        self._disconnect()

    def _disconnect(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            with suppress(Exception):
                redis.close()
            with suppress(Exception):
                redis.connection_pool.disconnect()

    # On the ping thread:

    def _close(self) -> None:
        super()._close()
        if self._may_cut:
            self._cut()

    def _abort(self) -> None:
        self._cut()

    def _follow(self) -> None:
        self._changes.notify()
        if not self._wanted and self._may_cut:
            self._cut()

    def _cut(self) -> None:
        """Have the reader, which waits for Redis, see that the connection is over."""
        with suppress(Exception):
            # Not as a TLS socket's: the reader is in it.
            socket.socket.shutdown(self._redis.connection._sock, socket.SHUT_RDWR)

    # --- the owner --------------------------------------------------------------------------

    def _owners_epoch(self) -> int | None:
        """Give the epoch of who publishes; None: nobody does."""
        found = self._redis.get(self._keys.owner)
        return None if found is None else int(found.partition(b" ")[0])

    def _look_for_owner(self, caught_up: bool) -> None:
        """See whether the owner is there, once all that Redis has was read."""
        if not caught_up or self._last is None:
            return
        epoch = self._owners_epoch()
        if epoch is None:
            if self._orphaned or (self._away and monotonic() < self._back_at + GRACE):
                return
            self._away, self._orphaned = False, True
            self._weigh()
            self._tell_orphaned()
        elif epoch < self._last[0]:  # Redis has lost all that there was
            self._told, self._last = self._last, None
            if self._settings.group is None:  # else `_join_group` says it
                self._miss(_lost(self._told))
        else:
            is_back = self._away or self._orphaned
            self._away = self._orphaned = False
            if epoch > self._last[0]:
                self._broken = self._is_unproven = True  # until its state
            if is_back:
                self._weigh()
                if self.is_ready:  # it has all that came meanwhile
                    self._tell_ready(0.0)

    def _tell_orphaned(self) -> None:
        reason = "nobody publishes it: its owner is gone"
        log.warning(
            "%s: %s",
            self.stream.name,
            reason,
            extra=fields("stale", stream=self.stream.name, reason=reason, silent_s=0.0),
        )
        event = Stale(reason=reason, silent_s=0.0, received_ns=time_ns())
        self._delivery.tell("on_stale", event)
        self._check_process()
