"""`Sender`: the thread that publishes.

It takes what there is (memory.py, files.py), asks for epochs where runs begin, and appends records
in batches, each by one script (scripts.py), many scripts at once. Where that fails it begins anew
with another connection: what was taken is told by the answer, or by the ids when it is sent again.

THE READER COMES FIRST

A single event is sent at once, within about a millisecond. Where much comes in a short time the
streams' reader is busy, and needs the interpreter: then the thread lets up to `LULL` pass.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from time import sleep, time_ns
from typing import TYPE_CHECKING, Any

from ..clock import monotonic
from ..errors import FastposError, PublisherError
from ..journal.recorder import Recorder
from ..journal.tail import Place
from ..logs import fields, log
from ..printable import printable
from ..wakeup import Wakeup
from .connecting import connect, errors, is_of_some_keys, shown
from .outbox import BATCH, Outbox, Tally, shown_place
from .scripts import ACQUIRE, APPEND, FENCED, MISSING, RELEASE

if TYPE_CHECKING:
    from .files import Files
    from .memory import Memory

__all__ = ["LAST_RECORDS", "Sender"]

# So many calls go to the server before their answers are read; and so many of those that only say
# that the owner is there yet.
PIPELINE, RENEWALS = 20, 200
# How often Redis is tried again while it is away, or takes nothing of one account, seconds.
RETRY = 0.5
# An owner that has not said so for so long is gone, and how often it says so, seconds.
LEASE, RENEWAL = 5.0, 1.5
# How long is waited at the end for what is to be sent yet, and for the thread's end, seconds.
LAST_RECORDS, LAST_TURN = 2.0, 1.0
# While a reader is busy so long is waited at the most before records are taken, in steps, seconds.
LULL, STEP = 0.2, 0.01

Door = tuple[Recorder, bool, tuple[Place, Place] | None]
"""Whose stream, whether it comes, and what `Files.begin` said."""
Call = tuple[Outbox, int, int]
"""Whose, how many records, and after how many that wait."""


class Sender:
    """A publisher's thread. All is its own, but for what `enter` to `abandon` touch.

    Args:
        url: of the server.
        prefix: what keys begin with.
        max_length: about so many records are kept of each account.
        who: what the owner's key says.
        source: where records come from.
        fenced: is called with the name of a stream that another publishes now.
        tally: counts records.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        max_length: int,
        who: str,
        source: Memory | Files,
        fenced: Callable[[str], object],
        tally: Tally,
    ) -> None:
        self._fenced = fenced
        self._tally = tally
        self._url = url
        self._prefix = prefix
        self._max_length = max_length
        self._who = who
        self._source = source
        self.wake: Wakeup = Wakeup()
        """Set to have it look."""
        self.is_asleep: bool = False
        self.failure: PublisherError | None = None
        """What hinders it, or did last; None where nothing did."""
        self.is_broken: bool = False
        """Whether it has stopped before its time, by a mistake in here."""
        self._doors: deque[Door] = deque()  # who came and went
        self._ending: float | None = None  # until when
        self._thread = threading.Thread(target=self._run, name="fastpos-publisher", daemon=True)
        self._boxes: dict[Any, Outbox] = {}
        self._active: dict[Outbox, None] = {}  # which have something to send, or want an epoch
        self._refused: dict[Outbox, float] = {}  # until when nothing of these is sent
        self._leaving: dict[Outbox, None] = {}
        self._redis: Any = None
        self._hashes: dict[str, str] = {}  # script -> what the server calls it
        self._was_forgetful = False  # the server did not know the scripts, the last time
        self._failed_at: float | None = None
        self._try_after = 0.0
        self._renew_at = 0.0

    # --- anybody's --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; raises RuntimeError where no thread can be started."""
        self._thread.start()
        _senders.add(self)

    @property
    def is_failing(self) -> bool:
        """Whether nothing can be published now."""
        return self._failed_at is not None or self.is_broken

    @property
    def waiting(self) -> int:
        """How many records are here and not in Redis; those that are only in a journal are not."""
        return sum(len(box.waiting) for box in tuple(self._boxes.values()))

    @property
    def fenced(self) -> int:
        """How many streams another publishes now."""
        return sum(box.is_fenced for box in tuple(self._boxes.values()))

    @property
    def lag_s(self) -> float:
        """How long ago the oldest came of what is not in Redis, seconds; where a journal has it,
        and Redis is away, since when it is at the least."""
        came = [box.oldest_ns for box in tuple(self._boxes.values())]
        came.append(self._source.oldest_ns)
        known = [ns for ns in came if ns is not None]
        lag = (time_ns() - min(known)) / 1e9 if known else 0.0
        failed_at = self._failed_at
        if failed_at is not None and self._source.has_news:
            lag = max(lag, monotonic() - failed_at)
        return max(lag, 0.0)

    def enter(self, recorder: Recorder) -> None:
        """Have what a stream hands over from now on published."""
        self._doors.append((recorder, True, self._source.begin(recorder.stream)))

    def leave(self, recorder: Recorder) -> None:
        """A stream hands over nothing more; what it has is sent, for some seconds."""
        self._doors.append((recorder, False, None))
        self.wake.set()

    def drain(self, timeout: float) -> None:
        """Wait until all that was handed over is sent, or that fails; unless `finish` did."""
        deadline = monotonic() + timeout
        while self._thread.is_alive() and self._failed_at is None and monotonic() < deadline:
            if self._ending is not None:
                return
            # Else it may be in the midst of something.
            if self.is_asleep and not (self._doors or self._active or self._source.has_news):
                return
            sleep(STEP)

    def finish(self) -> None:
        """Have it end once all is sent, or its time is up; waits for it."""
        self._ending = monotonic() + LAST_RECORDS
        self.wake.set()
        if threading.current_thread() is self._thread:
            return
        self._thread.join(LAST_RECORDS)
        redis = self._redis
        if self._thread.is_alive() and redis is not None:  # it waits for an answer
            with suppress(Exception):
                redis.connection_pool.disconnect()
        self._thread.join(LAST_TURN)

    def abandon(self) -> None:
        """Give up, in a forked child: nothing here is its own."""
        _senders.discard(self)

    # --- its turns --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._ending is None or (
                (self._boxes or self._doors) and monotonic() < self._ending + LAST_TURN
            ):
                self._rest()
                self._turn()
        except BaseException as error:  # a mistake of ours: it must be seen, and the stream go on
            log.exception("the publisher has stopped", extra=fields("publisher_failed"))
            stopped = PublisherError(f"the publisher has stopped: {error!r}")
            self._tell(stopped.advising(FastposError.advice))
            self.is_broken = True
        finally:
            _senders.discard(self)
            self._disconnect()
            self._source.close()

    def _rest(self) -> None:
        """Wait until there is something to do."""
        now = monotonic()
        if self._failed_at is not None:
            until = self._try_after
            if self._ending is not None:
                until = min(until, self._ending)
            if until > now:
                self.wake.wait(min(until - now, LULL))  # what comes is not to be too much
            return
        if self._active or self._doors or self._source.is_behind:
            return
        if self._leaving:  # the journal does not have all of it yet
            self.wake.wait(STEP)
            return
        if not self._source.has_news:
            self.is_asleep = True
            if not self._source.has_news and self._ending is None:
                self.wake.wait(None if not self._boxes else max(self._renew_at - now, 0.0))
            self.is_asleep = False
        self.wake.clear()
        end = monotonic() + LULL
        while self._source.is_pressed and self._ending is None and monotonic() < end:
            sleep(STEP)

    def _turn(self) -> None:
        self._let_in()
        is_away = self._failed_at is not None and monotonic() < self._try_after
        if not is_away:
            try:
                self._connect()
                located = self._source.locate(self._boxes.values(), self._redis)
                self._active.update(dict.fromkeys(box for box in located if not box.is_empty))
            except errors() as error:
                self._failed(error)
                is_away = True
        self._active.update(self._source.take(self._boxes, not is_away, self._doors))
        self._look_at_refused()
        if not is_away:
            try:
                self._acquire()
                self._send()
                self._succeeded()
            except errors() as error:
                self._failed(error)
        self._let_out()

    def _let_in(self) -> None:
        while self._doors:
            recorder, is_coming, places = self._doors.popleft()
            key = self._source.key(recorder)
            box = self._boxes.get(key)
            if not is_coming:
                if box is not None:
                    box.users -= 1
                    if not box.users:
                        box.leaving, box.heard_all = monotonic() + LAST_RECORDS, False
                        self._leaving[box] = None
                continue
            if box is None:
                box = self._boxes[key] = Outbox(self._prefix, recorder, self._tally)
                if self._failed_at is not None:
                    recorder.trouble = self.failure
            self._source.enter(box, places)
            box.recorder = recorder  # of the last run: it is asked for its state
            box.users += 1
            box.leaving = None
            self._leaving.pop(box, None)

    def _let_out(self) -> None:
        """Let go of who has left, once all of it is sent or its time is up."""
        now = monotonic()
        for box in tuple(self._leaving) if not self._doors else ():
            is_late = now >= (box.leaving or 0.0) or (self._ending or inf) <= now
            is_done = box.heard_all and box.is_empty and not (box.wants_epoch or box.wants_place)
            if not is_done and not is_late:
                continue
            if not is_done and not box.is_fenced:
                self._leave_behind(box)
            elif self._redis is not None and box.epoch:
                self._release(box)
            del self._leaving[box]
            self._active.pop(box, None)
            self._refused.pop(box, None)
            self._boxes.pop(self._source.key(box.recorder), None)

    def _release(self, box: Outbox) -> None:
        """All of it is published: nobody publishes it now."""
        keys = [box.keys.owner, box.keys.place]
        self._source.end(box)  # first: without both, a kill would have all of it sent again
        with suppress(*errors()):
            self._redis.evalsha(self._hashes[RELEASE], len(keys), *keys, box.epoch, self._who)

    def _leave_behind(self, box: Outbox) -> None:
        extra = fields("unpublished", stream=box.recorder.stream, records=len(box.waiting))
        if box.live_from is not None:
            log.warning(
                "%s has ended, and what is not published yet is left for its next run",
                box.recorder.stream,
                extra=extra,
            )
        else:
            self._tally.lost += len(box.waiting)
            log.error(
                "%s has ended, and %d records of it could not be published",
                box.recorder.stream,
                len(box.waiting),
                extra=extra,
            )

    # --- Redis ------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._redis is None:
            self._redis = connect(self._url)
            self._load_scripts()

    def _load_scripts(self) -> None:
        self._hashes = {text: self._redis.script_load(text) for text in (ACQUIRE, APPEND, RELEASE)}

    def _acquire(self) -> None:
        """Ask for an epoch for each where a run begins."""
        # What another of the same name has left goes first: it would be fenced.
        first: dict[str, Outbox] = {}
        for box in self._leaving:
            first.setdefault(box.keys.events, box)
        while new := [
            box for box in self._active
            if box.wants_epoch and box not in self._refused
            and first.get(box.keys.events, box) is box
        ][:BATCH]:  # fmt: skip
            pipeline = self._redis.pipeline(transaction=False)
            for box in new:
                keys = box.keys
                names = [keys.events, keys.epoch, keys.owner, keys.place]
                place = shown_place(self._source.begin_of(box))
                values = [self._who, int(LEASE * 1000), place]
                pipeline.evalsha(self._hashes[ACQUIRE], len(names), *names, *values)
            answers = pipeline.execute(raise_on_error=False)
            failure: Exception | None = None
            for box, epoch in zip(new, answers, strict=True):
                if isinstance(epoch, Exception):
                    failure = failure or self._refuse(box, epoch)
                else:
                    box.has_epoch(int(epoch))
                    self._source.acquired(box)
                    box.renewed = monotonic()
            if failure is not None:
                raise failure

    def _send(self) -> None:
        """Send what waits, and say of all that they are there yet."""
        calls: list[Call] = []
        pipeline = self._redis.pipeline(transaction=False)
        now = monotonic()
        for box in tuple(self._active):
            if len(calls) >= PIPELINE:
                break
            del self._active[box]  # and at the end again, where something is left
            skip = 0
            while len(calls) < PIPELINE:
                count = self._append(pipeline, box, skip)
                if count < 0:
                    break
                calls.append((box, count, skip))
                skip += count
                if not count or skip >= len(box.waiting):
                    break
            self._active[box] = None
        if now >= self._renew_at:
            due = [
                box for box in self._boxes.values()
                if box.epoch and now - box.renewed >= RENEWAL - STEP and box.is_empty
                and box not in self._refused
            ]  # fmt: skip
            for box in due[:RENEWALS]:
                self._append(pipeline, box, 0, may_be_empty=True)
                calls.append((box, 0, 0))
            if len(due) <= RENEWALS:
                self._renew_at = now + RENEWAL / 3
        if calls:
            self._hear(calls, pipeline.execute(raise_on_error=False), now)

    def _append(self, pipeline: Any, box: Outbox, skip: int, may_be_empty: bool = False) -> int:
        """Have a batch sent; gives how many of those that wait it has, -1 where there is none."""
        if not box.epoch:
            return -1
        sequence, records = box.batch(skip)
        if not records and not may_be_empty:
            return -1
        count = len(records) - (sequence < box.sequence + skip)
        before = box.sequence + skip - 1 if skip else box.stored
        keys = box.keys
        place = box.end_of(skip + count) if count > 0 else None
        pipeline.evalsha(
            self._hashes[APPEND], 4, keys.events, keys.epoch, keys.owner, keys.place,
            box.epoch, sequence, before, self._max_length, self._who, int(LEASE * 1000),
            shown_place(place), *records,
        )  # fmt: skip
        return count

    def _hear(self, calls: list[Call], answers: list[Any], now: float) -> None:
        """Do what the answers say; raises what failed."""
        failure: Exception | None = None
        for (box, count, skip), answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                failure = failure or self._refuse(box, answer)
            elif answer == FENCED:
                self._fence(box)
            elif isinstance(answer, int):
                if box.epoch:
                    box.was_sent(count)
                    box.renewed = now
                    box.is_refused = False
            elif not skip:  # else the one before was refused, and comes again with this
                self._source.mend(box, int(answer.removeprefix(MISSING)))
                self._active[box] = None
            if box.is_empty and not box.wants_epoch:
                self._active.pop(box, None)
        if failure is not None:
            raise failure

    def _fence(self, box: Outbox) -> None:
        """Another publishes the account."""
        if box.is_fenced:
            return
        is_live = self._source.is_live(box)
        box.fence()
        self._active[box] = None
        if is_live and box.is_fenced:
            name = box.recorder.stream
            message = f"{name} is published by another now: this is the owner no more"
            box.recorder.trouble = PublisherError(message).advising(
                "The stream goes on unpublished; let only one process publish an account."
            )
            box.recorder.have_looked()
            log.error("%s", message, extra=fields("fenced", stream=name))
            self._fenced(name)

    # --- what fails -------------------------------------------------------------------------

    def _refuse(self, box: Outbox, error: Exception) -> Exception | None:
        """Something of one account was refused: gives the error if it is all accounts' trouble."""
        if not is_of_some_keys(error):
            return error
        self._refused[box] = monotonic() + RETRY
        if not box.is_refused:
            box.is_refused = True
            name = box.recorder.stream
            said = f"{type(error).__name__}: {printable(str(error))}"
            message = f"{name} can't be published: {said}"
            box.recorder.trouble = PublisherError(message).advising(
                "It is tried again; look at what that key holds, and at the user's rights (ACL)."
            )
            box.recorder.have_looked()
            log.error("%s", message, extra=fields("publishing_refused", stream=name))
        return None

    def _look_at_refused(self) -> None:
        """Try those again that were refused, when it is time."""
        now = monotonic()
        for box, until in tuple(self._refused.items()):
            if until > now:
                self._active.pop(box, None)
                continue
            del self._refused[box]
            if box.wants_epoch or not box.is_empty:
                self._active[box] = None

    def _failed(self, error: Exception) -> None:
        """Try again, with a new connection, and tell once."""
        from redis.exceptions import NoScriptError  # noqa: PLC0415 -- an extra

        if isinstance(error, NoScriptError) and not self._was_forgetful:
            self._was_forgetful = True  # somebody has flushed them
            self._disconnect()
            return
        self._try_after = monotonic() + RETRY
        self._disconnect()
        if self._failed_at is None:
            url = shown(self._url)
            said = f"{type(error).__name__}: {printable(str(error))}"
            message = f"nothing can be published to {url}: {said}"
            self._tell(PublisherError(message))
            self._failed_at = monotonic()
            log.error("%s", message, extra=fields("publisher_failing", url=url))

    def _tell(self, failure: PublisherError) -> None:
        """Have each stream tell it when it has something to read, before anybody can see that it is
        so: a thousand would all send a ping if they were to look at once."""
        for box in self._boxes.values():
            box.recorder.trouble = failure
        self.failure = failure

    def _disconnect(self) -> None:
        redis, self._redis = self._redis, None
        if redis is not None:
            with suppress(Exception):
                redis.close()

    def _succeeded(self) -> None:
        self._was_forgetful = False
        if self._failed_at is not None:
            lasted, self._failed_at = monotonic() - self._failed_at, None
            url = shown(self._url)
            log.warning(
                "it is published to %s again, after %.1f s",
                url,
                lasted,
                extra=fields("publisher_again", url=url, seconds=lasted),
            )


# --- at the end of the process --------------------------------------------------------------------

_senders: weakref.WeakSet[Sender] = weakref.WeakSet()  # whose threads run


@atexit.register
def _at_exit() -> None:
    """Have sent what is handed over, where nobody has stopped the streams."""
    for sender in tuple(_senders):
        sender.drain(LAST_RECORDS)
