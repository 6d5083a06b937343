"""`Outbox`: what of an account is to be published yet, and under which ids.

A run of a stream has an epoch of its own (scripts.py), so records wait for one where a run begins.
What is let go of, as too much waits or as Redis or the disk has lost it, is counted; the record
that tells of it takes the last one's id, before all that waits.

No I/O, and no threads: it is the sender's.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from time import time_ns

from ..journal.format import label_of, line_of, time_of
from ..journal.recorder import Recorder
from ..journal.tail import Place
from .scripts import Keys

__all__ = ["BATCH", "Outbox", "Tally", "shown_place"]

# So many records go in one call of the script, and about so many bytes: each call must have gone
# out before Redis is taken for away, over a slow line, too.
BATCH, BATCH_BYTES = 500, 128 * 1024


class Tally:
    """Counts records over all outboxes of a publisher; the sender writes, anybody looks."""

    __slots__ = ("lost", "sent")

    def __init__(self) -> None:
        self.sent: int = 0
        """Those that Redis has taken."""
        self.lost: int = 0
        """Those that were let go of, or that Redis has lost."""


class Outbox:
    """What of an account waits.

    Args:
        prefix: what the keys begin with.
        recorder: the stream's.
        tally: counts its records.
    """

    __slots__ = (
        "_begins", "_ends", "_gone", "_put", "begun_at", "epoch", "heard_all", "is_fenced",
        "is_refused", "keys", "label", "leaving", "live_from", "lost", "place", "recorder",
        "renewed", "sequence", "stored", "tally", "users", "waiting",
        "wants_place",
    )  # fmt: skip

    def __init__(self, prefix: str, recorder: Recorder, tally: Tally) -> None:
        self.recorder: Recorder = recorder
        self.tally: Tally = tally
        self.keys: Keys = Keys(prefix, recorder.stream)
        self.label: bytes = label_of(recorder.stream)
        self.epoch: int = 0
        """0: none was asked for yet."""
        self.sequence: int = 1
        """Of the first that waits."""
        self.stored: int = -1
        """Of the last that Redis is known to have."""
        self.waiting: deque[bytes] = deque()
        """Records, without their line feeds."""
        self._ends: deque[Place] = deque()  # with a journal: where each of them ends
        self._put = self._gone = 0  # how many have ever come, and of those wait no more
        self._begins: deque[int] = deque()  # which of those begin runs, as `_put` was before
        self.lost: tuple[int, int, int] | None = None
        """How many records were let go of, since and until when; nobody was told yet."""
        self.is_fenced: bool = False
        """Another has begun to publish it; until its next run."""
        self.is_refused: bool = False
        """Its keys are of no use: it is tried now and then, and others go on."""
        self.renewed: float = 0.0
        """When the ownership was told last."""
        self.users: int = 0
        """How many streams put something in."""
        self.leaving: float | None = None
        """Until when what it has yet may be sent; None: more may come."""
        self.heard_all: bool = False
        """Whether all that was handed over is here."""
        # With a journal (files.py).
        self.place: Place | None = None
        """Up to where lines were taken; None: not known, and nothing is taken."""
        self.live_from: Place | None = None
        """Runs that begin here or later are this process' own."""
        self.begun_at: Place | None = None
        """Where the first of those began of which Redis may know nothing."""
        self.wants_place: bool = False
        """Whether Redis is to be asked up to where it is published."""

    def begin_run(self) -> None:
        """What is put in next begins a run."""
        self.is_fenced = False
        self._begins.append(self._put)

    def put(self, records: list[bytes]) -> None:
        """Have records wait."""
        self.waiting.extend(records)
        self._put += len(records)

    @property
    def oldest_ns(self) -> int | None:
        """When the first came of those that wait, ns since the epoch; None: none does. For
        anybody."""
        try:
            return time_of(self.waiting[0])
        except IndexError:
            return None

    def put_line(self, record: bytes, end: Place) -> None:
        """Have a journal's record wait, which ends there."""
        self.waiting.append(record)
        self._ends.append(end)
        self._put += 1

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send."""
        return not self.waiting and not (self.lost and self.epoch)

    @property
    def is_idle(self) -> bool:
        """Whether no run has begun yet."""
        return not (self.epoch or self.is_fenced or self._begins)

    @property
    def wants_epoch(self) -> bool:
        """Whether a run begins with what is to be sent next."""
        begins = self._begins
        return bool(begins) and begins[0] == self._gone and (not self.lost or not self.epoch)

    def has_epoch(self, epoch: int) -> None:
        """The run that begins has this one."""
        self._begins.popleft()
        self.epoch, self.sequence, self.stored = epoch, 1, -1

    def resume(self, epoch: int, sequence: int, place: Place) -> None:
        """Go on where another left off, or this one before Redis lost something."""
        self.forget()
        self.epoch, self.sequence, self.place = epoch, sequence, place
        self.is_fenced = False
        self.stored = sequence - 1 if sequence > 1 else -1

    def forget(self) -> int:
        """Let go of all that waits; gives how many those are."""
        count = len(self.waiting)
        self.waiting.clear()
        self._ends.clear()
        self._begins.clear()
        self._gone = self._put
        return count

    def batch(self, skip: int) -> tuple[int, list[bytes]]:
        """Give a call's records, of one run, after the first `skip`, and the first's number."""
        stop = skip + BATCH
        if self._begins:
            stop = min(stop, self._begins[0] - self._gone)
        records = list(islice(self.waiting, skip, stop))
        size = 0
        for count, record in enumerate(records):
            size += len(record)
            if size > BATCH_BYTES and count:
                del records[count:]
                break
        if self.lost is None or skip:
            return self.sequence + skip, records
        count, since, until = self.lost
        values = {"count": count, "from_ns": since, "to_ns": until}
        dropped = line_of(self.label, 0, time_ns(), "dropped", values)[:-1]
        return self.sequence - 1, [dropped, *records]

    def end_of(self, count: int) -> Place | None:
        """Where the first so many of those that wait end, where there is a journal."""
        return self._ends[count - 1] if self._ends and count else None

    def was_sent(self, count: int) -> None:
        """Let go of so many that are there, and of what told that some are not."""
        if self.lost is not None:
            self.lost = None
            self.recorder.ask_for_state()
        self._let_go(count)
        self.tally.sent += count
        self.stored = self.sequence - 1

    def drop_oldest(self, count: int) -> None:
        """Let go of so many, as too much waits."""
        self.lose(count, time_of(self.waiting[0]), time_of(self.waiting[count - 1]))
        self._let_go(count)
        begun = None
        while self._begins and self._begins[0] < self._gone:
            begun = self._begins.popleft()
        if begun is not None:  # with a run that is known from its second record on
            self._begins.appendleft(self._gone)

    def lose(self, count: int, since: int, until: int) -> None:
        """Take note that so many records will never be there."""
        self.tally.lost += count
        if self.lost is not None:
            count, since = count + self.lost[0], self.lost[1]
        self.lost = count, since, until

    def is_missing(self, last: int) -> None:
        """Take note that Redis has lost what it had after `last`."""
        now = time_ns()
        self.lose(self.stored - last, now, now)
        self.stored = last

    def fence(self) -> None:
        """Another publishes it: nothing more is, until the next run, which may wait already."""
        self.epoch = 0
        if self.waiting:
            begun = self._begins[0] - self._gone if self._begins else len(self.waiting)
            if begun:
                self.drop_oldest(begun)
        self.is_fenced = not self._begins

    def _let_go(self, count: int) -> None:
        for _ in range(count):
            self.waiting.popleft()
        if self._ends:
            for _ in range(count):
                self._ends.popleft()
        self._gone += count
        self.sequence += count


def shown_place(place: Place | None) -> str:
    """Give a place as the scripts keep it."""
    return "" if place is None else f"{place[0]} {place[1]}"
