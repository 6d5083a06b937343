"""`Following`: what a `RemoteStream` makes of the records that its owner has published.

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

Threads: those of a `PositionStream` (runtime/driver.py). The reader alone talks to Redis, and all
here is its own. `_close` and `_abort`, on the ping thread, shut its socket down where it waits, and
so does `_follow`, which has it pause, even if it is to go on at once.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from time import time_ns
from typing import Any

from ..clock import monotonic
from ..errors import (
    AuthenticationError,
    ConnectionFailed,
    FastposError,
    JournalError,
    PublisherError,
)
from ..fork import Forked
from ..journal.format import PUSH
from ..journal.replay import Puts
from ..logs import fields, log
from ..model.events import Disconnect, Ready, Stale
from ..printable import printable
from ..recovery import Recovery
from ..runtime.causes import Cause
from ..runtime.driver import Driver
from ..runtime.run import Parts, Run
from ..stream import PositionStream
from .arguments import RemoteSettings
from .connecting import shown
from .entries import COUNT, NO_ID, Entries, Id, id_of, record_of, text_of
from .member import Member
from .scripts import Keys

__all__ = ["Following"]

# While another member of the group has the lock, it is asked for so often, seconds.
STANDBY = 0.5
# How long an owner may take to find that Redis is back, seconds: its lease.
GRACE = 5.0


def _lost(id: Id) -> str:
    return f"Redis has lost its records: {text_of(id)} is not there any more"


class Following(Puts, Driver):
    """Reads what an owner has published, on whatever thread calls `run`."""

    def __init__(self, parts: Parts, stream: PositionStream, settings: RemoteSettings) -> None:
        super().__init__(parts)
        self.stream = stream
        self._settings = settings
        self._entries = Entries(settings.url, Keys(settings.prefix, settings.name))
        self._member: Member | None = None
        if settings.group is not None:
            self._member = Member(self._entries, settings.group, settings.consumer)
        self._last: Id | None = None  # the last record that was put in; None: begin anew
        self._told: Id | None = None  # the last that was told, in this run
        self._back_at = 0.0  # when Redis was last reached
        self._reached = False  # by the present connection
        self._epoch: int | None = None  # of what is known from the run or the pause before
        self._is_told = False  # what comes is told, and not only put in
        self._is_subscribed = False  # the owner is, to the exchange
        self._subscribed_ns = 0  # when it last was known to be
        self._before_ns = 0  # when the record before the present one came
        self._left_ns = 0  # when this one was last ready
        self._readies = 0  # how often `on_ready` was called in this run
        self._owed: Ready | None = None  # is told as soon as nothing is doubtful any more
        self._attempts = 1  # connections tried for the present one
        self._away = self._orphaned = self._broken = False  # see above
        self._is_unproven = False  # the owner began without knowing anything
        self._awaits_outcome = False  # of a snapshot that could not be merged here: the next state
        self._is_to_pause = False  # set by `_follow`, taken back by `_pause`
        self._recovery = Recovery(settings.reconnect, False, 0.0)
        self.current = Run(0, threading.current_thread(), is_ours=False, background=True)
        self.now_ns = 0

    @property
    def is_ready(self) -> bool:
        """Whether it follows an owner that is subscribed."""
        return self._is_followed and self._goes_on

    @property
    def _is_followed(self) -> bool:
        return self._is_subscribed and not self.stream._heartbeat.owed_since_sleep

    @property
    def is_trying(self) -> bool:
        """Whether there is a connection to Redis, or one is being opened."""
        return self._entries.redis is not None

    @property
    def _goes_on(self) -> bool:
        """Whether records are wanted, and were all the time."""
        return self._wanted and not self._is_to_pause

    @property
    def _is_doubtful(self) -> bool:
        return self._away or self._orphaned or self._broken

    def _weigh(self) -> None:
        """Have what is known count as stale while it is doubtful, or not told."""
        # In the way of a stream whose machine has slept: until it is confirmed.
        was_followed = self._is_followed
        is_doubtful = self._is_doubtful or not self._is_told
        if self._is_subscribed and not is_doubtful:  # before anybody can see that it is ready
            self.stream._counters.gap_ends()
        self.stream._heartbeat.owed_since_sleep = int(is_doubtful)
        if was_followed and not self._is_followed:
            self._left_ns = time_ns()
            self.stream._counters.gap_begins(monotonic())
        self._changes.notify()

    def _connect_and_reconnect(self, run: Run) -> None:
        self.current: Run = run
        self.snapshots.rules.has_source = True
        self._recovery = Recovery(self._settings.reconnect, False, monotonic())
        self._last = self._told = None
        if self._member is not None:
            self._member.begin()
        self._readies = 0
        self._is_told = self._away = self._orphaned = self._broken = False
        self._weigh()
        try:
            while not run.stopping:
                if not self._goes_on:
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
        self.stream._counters.attempts += 1
        try:
            self._entries.connect()
            self.stream._counters.connects += 1
            self._follow_records(run)
        except (RedisError, OSError) as error:
            if self._goes_on or not self._entries.is_cut:
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
                    if self._member is not None:
                        self._member.acknowledge()
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
            failure.advising("Look at user and password in the URL of Redis, and at its ACL.")
        else:
            failure = ConnectionFailed(f"{where} is away: {said}")
            failure.advising("It is tried again; look whether Redis runs and can be reached.")
        failure.__cause__ = error
        return failure

    def _lost(self, failure: FastposError) -> float:
        """Redis is away: say so; give in how many seconds to try again."""
        reason = str(failure)
        failure.stream = self.stream.name
        self._entries.disconnect()
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
            ),
            Cause.REDIS if isinstance(failure, ConnectionFailed) else None,
        )
        self._check_process()
        if verdict.final is not None:
            raise verdict.final
        assert verdict.retry_in_s is not None
        return verdict.retry_in_s

    def _follow_records(self, run: Run) -> None:
        """Read until it is to stop or to pause; raises what Redis does."""
        member = self._member
        while not run.stopping and self._goes_on:
            if member is not None and not self._wait_for_lock(run, member):
                return
            if self._last is None:
                self._begin(run)
            if member is not None and member.gone:
                count, member.gone = member.gone, 0
                self._miss(f"{count} records were read by a member that died, and are kept no more")
            if not self._reached:
                self._reached = True
                self._back_at = monotonic()
                self._attempts = self._recovery.subscribed(self._back_at)
            is_mine = True
            while is_mine and not run.stopping and self._goes_on and self._last is not None:
                if member is not None:
                    is_mine, count = self._read_for_group(run, member)
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
        self._is_to_pause = False

    def _begin(self, run: Run) -> None:
        """Put in all up to where it begins to tell, from the last state before that."""
        member = self._member
        end = self._entries.end() if member is None else member.end()
        self._is_told = False
        self._weigh()
        self._unsubscribed(self.now_ns)
        self._broken = self._is_unproven = self._awaits_outcome = False
        self._last = None
        before = self.stream.book.take_out()
        self.snapshots.end()
        has_state = False
        self._delivery.silent = True
        try:
            for id, values in self._entries.since_state(end):
                if run.stopping:
                    return
                has_state |= values.get(b"kind") == b"state"
                self._put(id, values)
        finally:
            self._delivery.silent = False
            # Another owner that has not heard all yet says nothing of what it does not know.
            is_same = self._last is not None and self._epoch in (None, end[0])
            keep = not (self.snapshots.synced or is_same)
            news = self.stream.book.put_over(before, time_ns(), keep)
            self._is_unproven |= keep
            self._epoch = end[0]
        epoch = self._entries.owners_epoch()
        # Of a Redis that is back the owner may not have heard yet.
        self._orphaned = epoch is None and not self._away
        self._away = epoch is None and self._away
        if not has_state or (epoch is not None and epoch != end[0]):
            self._broken = True  # until the next state
        self._last = end
        if member is not None:
            self._told = end  # by this member or another
        self._is_told = True
        self._weigh()
        log.info(
            "%s: follows %s from %s on",
            self.stream.name,
            self._entries.keys.events,
            text_of(end),
            extra=fields("following", stream=self.stream.name, key=self._entries.keys.events),
        )
        if member is None:
            self._tell([("on_position", event) for event in news])
        if self._orphaned:
            self._tell_orphaned()
        if self._is_followed and not (member is not None and member.gone):
            self._tell_ready(self._gap())

    def _gap(self) -> float:
        """Give the seconds since it was last ready."""
        return max(time_ns() - self._left_ns, 0) / 1e9

    def _tell_ready(self, gap_s: float) -> None:
        first = self._readies == 0
        self._readies += 1
        self.stream._counters.subscriptions += 1
        self.stream._counters.gap_ends()
        event = Ready(
            first=first,
            gap_s=None if first else gap_s,
            attempts=self._attempts,
            received_ns=time_ns(),
        )
        self._changes.notify()
        self._delivery.tell("on_ready", event)
        self._check_process()

    def _tell_owed(self) -> None:
        """Tell `on_ready` of the owner's subscription that came while all was doubtful."""
        event = self._owed
        if event is not None and self._is_followed:
            self._owed = None
            self._delivery.tell("on_ready", event)
            self._check_process()

    def _read(self, run: Run) -> int:
        """Wait for records, and put them in; give how many came."""
        assert self._last is not None
        answer = self._entries.wait_after(self._last, lambda: run.stopping)
        for id, values in answer:
            if run.stopping or not self._goes_on or not self._put(id_of(id), values):
                break
        return len(answer)

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
            if self._is_told and not self._entries.has(last):
                self._miss(_lost(last))
        if last is not None and last[0] and id[1] > expected and kind != "dropped":
            self._miss(
                f"{id[1] - expected} records came too late to be read: Redis had let them go"
            )
        try:
            record = record_of(self.stream.name, values)
        except (ValueError, KeyError) as error:
            self._miss(f"record {text_of(id)} can't be read: {printable(str(error))}")
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
            log.exception("record %s is unusable", text_of(id), extra=fields("internal_error"))
            self._miss(f"record {text_of(id)} is unusable: {type(error).__name__}")
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
        self._delivery.report(
            PublisherError(message).advising(
                "All counts as stale until the owner's next state, whose outcome is told; what "
                "happened in between is not told one by one."
            )
        )
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
        waits = self._is_told and self._is_doubtful
        if waits:  # who is told may look at what is known, and wait for it
            gap = None if gap_s is None else float(gap_s)
            self._owed = Ready(first=first, gap_s=gap, attempts=attempts, received_ns=ns)
            self._delivery.silent = True
        try:
            super().put_subscribed(ns, first=first, gap_s=gap_s, attempts=attempts)
        finally:
            if waits:
                self._delivery.silent = False
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
        self._owed = None
        if self._is_subscribed:
            if self._is_followed:
                self._left_ns = ns
                self.stream._counters.gap_begins(monotonic())
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

    def put_state(
        self,
        ns: int,
        synced: bool = False,
        gap_s: Any = None,
        subscribed: bool = True,
        **content: Any,
    ) -> None:
        """All that the owner knows: no news for who has followed it."""
        was_subscribed = self._is_subscribed
        if not self._is_told or self._broken:
            if not subscribed:
                self._unsubscribed(ns)
            self._is_subscribed = subscribed
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
        if not subscribed:  # an owner that is paused has not marked it yet
            self.snapshots.end()
        self._broken = False
        if synced:
            self._is_unproven = False
        self._weigh()
        self._tell(news)
        self._tell_owed()
        if self._is_told and self._is_followed and not was_subscribed:  # that it is was missed
            self._tell_ready(max(ns - self._subscribed_ns, 0) / 1e9)

    _following = False  # there was a state before, and no record is missing since

    # --- in a group -------------------------------------------------------------------------

    def _wait_for_lock(self, run: Run, member: Member) -> bool:
        """Wait until this is the member that reads; False where it is to stop."""
        while not (held := member.hold()):
            if not self._reached:
                self._recovery.in_service(monotonic())
            self._last = None
            if self._is_told or self._away:
                self._is_told = self._away = False
                self._weigh()
            self._changes.wait_for(lambda: run.stopping or not self._goes_on, STANDBY)
            if run.stopping or not self._goes_on:
                return False
        if held == 1:  # it was somebody's, or nobody's, meanwhile
            self._last = None
            member.forget()
        if member.join(self._told):
            assert self._told is not None
            self._miss(_lost(self._told))
            self._told = NO_ID
        return True

    def _read_for_group(self, run: Run, member: Member) -> tuple[bool, int]:
        """Put in what the group has not acknowledged, and acknowledge it.

        Returns:
            Whether this is the member that reads yet, and how many records came.
        """
        assert self._last is not None
        found = member.read(self._last, lambda: run.stopping)
        is_mine = found is not None
        if member.is_overtaken:
            self._last = None
        for id, values in found or ():
            if run.stopping or not self._goes_on:
                break
            if not member.has_lock:
                is_mine = False
                break
            # What was told is only to be acknowledged; without values it is kept no more.
            known = self._last is not None and id_of(id) <= self._last
            if values and not known and not self._put(id_of(id), values):
                break
            member.is_done_with(id)
        if run.stopping:  # `Member.leave` acknowledges it, and does not wait as long
            return True, len(found or ())
        member.acknowledge()
        if is_mine and member.has_lock:
            return True, len(found or ())
        log.warning(
            "%s: another member of the group goes on",
            self.stream.name,
            extra=fields("lock_lost", stream=self.stream.name),
        )
        self._last = None
        self._is_told = False
        self._weigh()
        return False, 0

    # --- leaving ----------------------------------------------------------------------------

    def _leave(self) -> None:
        """Let others of the group go on at once, and close the connection."""
        if self._entries.redis is not None and self._member is not None:
            self._member.leave(self._reconnect)
        self._entries.disconnect()

    def _reconnect(self) -> None:
        self._entries.disconnect()
        self._entries.connect(1.0)

    # On the ping thread:

    def _close(self) -> None:
        super()._close()
        self._entries.cut(only_waiting=True)

    def _abort(self) -> None:
        self._entries.cut()

    def _follow(self) -> None:
        if not self._wanted:
            self._is_to_pause = True
            self.stream.book.interrupt()
            self._entries.cut(only_waiting=True)
        self._changes.notify()

    # --- the owner --------------------------------------------------------------------------

    def _look_for_owner(self, caught_up: bool) -> None:
        """See whether the owner is there, once all that Redis has was read."""
        if not caught_up or self._last is None:
            return
        epoch = self._entries.owners_epoch()
        if epoch is None:
            if self._orphaned or (self._away and monotonic() < self._back_at + GRACE):
                return
            self._away, self._orphaned = False, True
            self._weigh()
            self._tell_orphaned()
        elif epoch < self._last[0]:  # Redis has lost all that there was
            self._told, self._last = self._last, None
            if self._member is None:  # else `_wait_for_lock` says it
                self._miss(_lost(self._told))
        else:
            is_back = self._away or self._orphaned
            self._away = self._orphaned = False
            if epoch > self._last[0]:
                self._broken = self._is_unproven = True  # until its state
            if is_back:
                self._weigh()
                if self._owed is not None:
                    self._tell_owed()
                elif self._is_followed:  # it has all that came meanwhile
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
        self.stream._counters.stales += 1
        self._delivery.tell("on_stale", event)
        self._check_process()
