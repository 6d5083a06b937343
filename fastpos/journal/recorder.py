"""A stream's part of a journal: what it hands over, and how that becomes lines.

Each method is one kind of record, and is called before what it tells of is done, so the order in
the journal is that in which it happened. docs/journal.md has the kinds and their fields.

Threads: the reader's, but for what the journal's writer calls, `ask_for_state` and below, and
`paused`, which is the ping thread's and touches nothing but the queue; it looks at `_batch`. What
becomes of pushes is known when they were delivered, and the writer may not wait for that: whoever
comes first, it or the reader, takes the token in their entry (`_claims`), and the other goes by it.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from time import time_ns
from typing import Any, Protocol, runtime_checkable

from ..account.state import wire_of
from ..errors import DecodeError, FastposError, SnapshotError
from ..model.events import Disconnect, Ready, Stale
from ..model.fields import Record
from ..model.snapshot import Snapshot
from ..wire.credential import Credential, Hider
from .format import encoded_line, is_json_line, label_of, line_of, push_lines, time_of
from .journal import Journal
from .writer import HURRY

__all__ = ["Publishes", "Recorder", "Several", "Sink"]


class Sink(Protocol):
    """What a stream's records go to: a `Journal`, or another that takes them."""

    @property
    def failure(self) -> FastposError | None:
        """What hinders it, or did last; None where nothing did."""

    @property
    def is_failing(self) -> bool:
        """Whether it is hindered now."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken."""

    def fall_behind(self) -> None:
        """Note that something is not taken, as too much waits."""

    @property
    def buffer_bytes(self) -> int:
        """How much of a stream may wait, bytes."""

    @property
    def wants_states(self) -> bool:
        """Whether streams are to say all that they know whenever they were subscribed."""

    @property
    def state_every(self) -> int:
        """And after so many records; 0: not."""

    def enter(self, recorder: Any) -> deque[Any]:
        """Have `recorder` hand over; give the queue for its entries."""

    def leave(self, recorder: Any) -> Callable[[], None] | None:
        """Have it hand over no more; give what must be called yet, and waits, if there is such."""

    def hurry(self) -> None:
        """Have what waits taken soon."""

    @property
    def is_asleep(self) -> bool:
        """Whether `hurry` is to be called when something comes."""


@runtime_checkable
class Publishes(Sink, Protocol):
    """One that publishes what it takes: a `fastpos.redis.Publisher`."""

    @property
    def journal(self) -> Journal | None:
        """Where it has what comes written down first; None: nowhere."""


class Recorder:
    """Hands over what a stream was sent, and what explains it.

    Args:
        journal: to which.
        stream: the stream's name.
        credential: which is taken out of all that is written.
    """

    __slots__ = (
        "_batch", "_connection", "_credential", "_entries", "_is_asked", "_is_open",
        "_is_overtaken", "_journal", "_label", "_lost", "_noted", "_put", "_runs", "_since_state",
        "_state_every", "_told_trouble", "_wake", "follows_state", "stream", "taken", "told",
        "trouble", "wants_state",
    )  # fmt: skip

    def __init__(self, journal: Sink, stream: str, credential: Credential) -> None:
        self._journal = journal
        self.stream: str = stream
        """The stream's name."""
        self.wants_state: bool = False
        """Whether `state` is wanted soon; taken back by `state`."""
        self._wake: Callable[[], object] | None = None  # see `wake_by`
        self.follows_state: bool = journal.wants_states
        """Whether it is wanted whenever the stream was subscribed."""
        self._state_every = journal.state_every or inf
        self._since_state = 0  # how many records came after the last
        self._label = label_of(stream)
        self._credential = credential
        self._entries: deque[Any] = deque()  # the journal's, from `open` on
        self._connection = 0
        self._batch: list[Any] | None = None  # pushes that are being delivered; the reader's
        self._put = 0  # bytes that were handed over
        self._runs = 0
        self._is_open = False  # between `open` and `close`
        self._is_asked = False  # a snapshot is asked for
        self._is_overtaken = False  # and the state was told since then
        self.told: FastposError | None = None
        """The journal's last failure that was told of."""
        self.trouble: FastposError | None = None
        """What the user is to be told of this stream's records alone, each once; set by who
        reads."""
        self._told_trouble: FastposError | None = None
        # Of all that was not taken: how many records, since when and until when of the last.
        self._lost: tuple[int, int, int] = 0, 0, 0
        # The writer's.
        self.taken: int = 0
        """How many of the bytes that were handed over are in the file."""
        self._noted = 0  # how many lost records are

    # --- who begins and ends runs -----------------------------------------------------------

    def open(self) -> None:
        """A run is about to begin.

        Raises:
            JournalError: the journal can't be written.
        """
        self.trouble = self._told_trouble = None
        self._entries = self._journal.enter(self)
        self._is_open = True
        self.told = None if self._journal.is_failing else self._journal.failure
        self._connection = 0

    def close(self) -> Callable[[], None] | None:
        """It has ended, or does not begin.

        Returns:
            Where nobody else writes, what must be called yet: it waits until all is written.
        """
        if self._is_open:
            self._is_open = False
            if self._lost[0] != self._noted:  # others may go on, who do not tell of it
                self._entries.append((self, 0, None))
            return self._journal.leave(self)
        return None

    # --- the reader's: the records ----------------------------------------------------------

    def started(self, values: dict[str, Any]) -> None:
        """A run begins."""
        self._runs += 1
        self._line("started", time_ns(), {"run": self._runs, **values})

    def connecting(self) -> None:
        """Another connection is tried: what follows is of this one."""
        self._connection += 1

    def connected(self) -> None:
        """The connection is open."""
        self._line("connected", time_ns())

    def subscribed(self, event: Ready) -> None:
        """Pushes come from now on."""
        values = {"first": event.first, "gap_s": event.gap_s, "attempts": event.attempts}
        self._line("subscribed", event.received_ns, values)

    def state(self, content: dict[str, Any]) -> None:
        """All that is known, for who has not followed from the beginning."""
        self.wants_state = False
        self._since_state = 0
        self._is_overtaken = self._is_asked
        self._line("state", time_ns(), content)

    def paused(self, begun: int) -> None:
        """Pushes are not wanted any more; on the ping thread.

        Args:
            begun: how many of the pushes that are being delivered have been so far.
        """
        batch = self._batch
        values = {} if batch is None else {"after": begun, "of": len(batch[4])}
        line = line_of(self._label, self._connection, time_ns(), "paused", values)
        self._entries.append((self, 0, line))
        if self._journal.is_asleep:
            self._journal.hurry()

    def pushes(self, texts: list[bytes], received_ns: int) -> list[Any] | None:
        """Pushes came.

        Returns:
            What `delivered` wants, None where they were not taken.
        """
        size = sum(map(len, texts))
        journal = self._journal
        if self._is_full(len(texts), received_ns):
            return None
        self._since_state += len(texts)
        if self._since_state >= self._state_every:
            self.wants_state = True
        entry = [
            self, size, self._connection, received_ns, texts, len(texts), False, [True],
            self._credential.hider,  # as of now: when it is written the credential may be another
        ]  # fmt: skip
        self._entries.append(entry)
        self._batch = entry
        self._put += size
        if journal.is_asleep or self._put - self.taken > HURRY:
            journal.hurry()
        return entry

    @property
    def has_news(self) -> bool:
        """Whether `new_failure` has something to give, or `state` is wanted."""
        return (
            self.wants_state
            or self.trouble is not self._told_trouble
            or self._journal.failure is not self.told
        )

    def delivered(self, entry: list[Any], count: int, are_json: bool) -> None:
        """So many of those pushes were delivered, before the stream was stopped.

        Args:
            entry: what `pushes` gave.
            count: how many.
            are_json: all of those are JSON.
        """
        self._batch = None
        entry[6] = are_json and count == len(entry[4])
        entry[5] = count
        is_first = _claims(entry)
        late = len(entry[4]) - count
        if late and not is_first:  # the writer took them for delivered
            self._line("undelivered", entry[3], {"count": late})

    def undecodable(self, error: DecodeError, received_ns: int) -> None:
        """A message came that was of no use."""
        values = {
            "error": error.message,
            "base64": _encoded(_hidden(error.data, self._credential.hider)),
        }
        self._line("undecodable", received_ns, values)

    def stale(self, event: Stale) -> None:
        """There is silence that should not be."""
        values = {"reason": event.reason, "silent_s": event.silent_s}
        self._line("stale", event.received_ns, values)

    def snapshot_asked(self) -> None:
        """A snapshot is asked for."""
        self._is_asked, self._is_overtaken = True, False
        self._line("snapshot_asked", time_ns())

    def snapshot_unwanted(self) -> None:
        """None is wanted any more, as pushes are not: it is taken note of that they were."""
        self._line("snapshot_unwanted", time_ns())

    def snapshot_doubted(self) -> None:
        """Pushes say that the last one was wrong."""
        self._line("snapshot_doubted", time_ns())

    def snapshot(self, snapshot: Snapshot, ns: int) -> None:
        """One was taken, and is merged now."""
        # Who begins with a state in between can't lay the pushes since the question over it.
        if self._is_overtaken:  # in one step: others ask for it, too
            self.wants_state = True
        self._is_asked = self._is_overtaken = False
        values = {name: _wires(given) for name, given in snapshot._asdict().items()}
        self._line("snapshot", ns, values)

    def snapshot_failed(self, error: SnapshotError) -> None:
        """There was none."""
        self._line("snapshot_failed", time_ns(), {"error": _told(error)})

    def wake_by(self, wake: Callable[[], object] | None) -> None:
        """From now on `wake` has the reader look for news soon, though it may be sent nothing;
        None: there is no connection, and the next one tells the state."""
        self._wake = wake

    def disconnected(self, event: Disconnect) -> None:
        """The connection has ended, or could not be made."""
        error = event.error
        values = {
            "reason": event.reason,
            "close_code": event.close_code,
            "error": _told(error),
            "retry_in_s": event.retry_in_s,
        }
        self._line("disconnected", event.received_ns, values)

    def stopped(self, failure: FastposError | None) -> None:
        """The run has ended."""
        if self._is_open:
            self._line("stopped", time_ns(), {"error": _told(failure)})

    def new_failure(self) -> FastposError | None:
        """Give what hinders the journal, or this stream's part of it, once."""
        failure = self._journal.failure
        if failure is not self.told and failure is not None:
            self.told = failure
        else:
            failure = self.trouble
            if failure is self._told_trouble:
                return None
            self._told_trouble = failure
        if failure is None:
            return None
        # Each stream has its own, as it says which one it is about.
        return type(failure)(*failure.args).advising(failure.advice)

    def _line(self, kind: str, ns: int, values: dict[str, Any] | None = None) -> None:
        if self._is_full(1, ns):
            return
        line = line_of(self._label, self._connection, ns, kind, values or {})
        hider = self._credential.hider
        if hider.occurs_in(line):  # in a value, or a short one in what is ours
            hidden = {
                name: _without(each, hider) if isinstance(each, (str, list, dict)) else each
                for name, each in (values or {}).items()
            }
            line = line_of(self._label, self._connection, ns, kind, hidden)
        self._entries.append((self, len(line), line))
        self._put += len(line)
        if self._journal.is_asleep:
            self._journal.hurry()

    def _is_full(self, records: int, ns: int) -> bool:
        """Whether so many records are not taken; they are counted then."""
        journal = self._journal
        if not (journal.is_full or self._put - self.taken > journal.buffer_bytes):
            return False
        if not journal.is_failing:
            journal.fall_behind()
        count, since, _ = self._lost
        # A new time begins where the last is noted.
        self._lost = count + records, since if count > self._noted else ns, ns
        return True

    # --- the writer's -----------------------------------------------------------------------

    def ask_for_state(self) -> None:
        """Have `state` called soon, as nobody else knows any more what is so."""
        self.wants_state = True
        self.have_looked()

    def have_looked(self) -> None:
        """Have the stream look for news soon, though it may be sent nothing."""
        wake = self._wake
        if wake is not None:
            wake()

    @property
    def waiting(self) -> int:
        """How many bytes wait."""
        return self._put - self.taken

    @property
    def lost(self) -> int:
        """How many records were not taken; for anybody."""
        return self._lost[0]

    def time_of(self, entry: Any) -> int | None:
        """When something came that was handed over, ns since the epoch; None: it is no record. For
        anybody."""
        if len(entry) != 3:
            received_ns: int = entry[3]
            return received_ns
        line: bytes | None = entry[2]
        return None if line is None else time_of(line)

    def lines_of(self, entry: Any) -> bytes:
        """Give the lines of something that was handed over."""
        if len(entry) == 3:
            line: bytes | None = entry[2]
            return self.lost_lines() if line is None else line
        is_first = _claims(entry)
        _, _, connection, received_ns, texts, delivered, are_json, _, hider = entry
        if is_first:  # they are being delivered yet
            return self._pushes(connection, received_ns, texts, False, hider)
        told = texts[:delivered]
        lines = [self._pushes(connection, received_ns, told, are_json, hider)]
        for text in texts[delivered:]:
            values = {"base64": _encoded(_hidden(text, hider))}
            lines.append(line_of(self._label, connection, received_ns, "undelivered", values))
        return b"".join(lines)

    def _pushes(
        self,
        connection: int,
        received_ns: int,
        texts: list[bytes],
        are_json: bool,
        hider: Hider,
    ) -> bytes:
        if not texts:
            return b""
        lines = push_lines(self._label, connection, received_ns, texts)
        may_stand = are_json or all(map(is_json_line, texts))
        if not may_stand or lines.count(b"\n") != len(texts) or hider.occurs_in(lines):
            lines = b"".join(self._one(connection, received_ns, text, hider) for text in texts)
        return lines

    def _one(self, connection: int, received_ns: int, text: bytes, hider: Hider) -> bytes:
        if hider.occurs_in(text):
            text = _hidden(text, hider)
        if is_json_line(text):
            return push_lines(self._label, connection, received_ns, [text])
        return encoded_line(self._label, connection, received_ns, text)

    def lost_lines(self) -> bytes:
        """Give the line that tells of what was not taken since the last one; nothing if all was."""
        count, since, until = self._lost
        if count == self._noted:
            return b""
        values = {"count": count - self._noted, "from_ns": since, "to_ns": until}
        self._noted = count
        return line_of(self._label, self._connection, time_ns(), "dropped", values)


def _claims(entry: list[Any]) -> bool:
    """Whether this is the first to say of pushes what becomes of them: the reader or the writer."""
    try:
        entry[7].pop()
    except IndexError:
        return False
    return True


def _hidden(text: bytes, hider: Hider) -> bytes:
    return hider.hide(text.decode("latin-1")).encode("latin-1")


def _without(value: Any, hider: Hider) -> Any:
    """Give the same with the credential hidden in all that stands in it."""
    if isinstance(value, dict):
        return {_without(key, hider): _without(each, hider) for key, each in value.items()}
    if isinstance(value, list):
        return [_without(each, hider) for each in value]
    if isinstance(value, str) or hider.occurs_in(str(value).encode("utf-8", "replace")):
        return hider.hide(str(value))
    return value


class Several:
    """Hands over to several recorders, as one."""

    def __init__(self, recorders: Iterable[Recorder]) -> None:
        self._recorders = tuple(recorders)

    def open(self) -> None:
        """See `Recorder.open`."""
        opened = []
        try:
            for each in self._recorders:
                each.open()
                opened.append(each)
        except BaseException:
            for each in opened:
                finish = each.close()
                if finish is not None:
                    finish()
            raise

    def close(self) -> Callable[[], None] | None:
        """See `Recorder.close`."""
        waits = [wait for each in self._recorders if (wait := each.close()) is not None]

        def wait_for_all() -> None:
            for wait in waits:
                wait()

        return wait_for_all if waits else None

    def pushes(self, texts: list[bytes], received_ns: int) -> list[list[Any] | None]:
        """See `Recorder.pushes`."""
        return [each.pushes(texts, received_ns) for each in self._recorders]

    def delivered(self, entries: list[list[Any] | None], count: int, are_json: bool) -> None:
        """See `Recorder.delivered`."""
        for each, entry in zip(self._recorders, entries, strict=True):
            if entry is not None:
                each.delivered(entry, count, are_json)

    @property
    def has_news(self) -> bool:
        """See `Recorder.has_news`."""
        return any(each.has_news for each in self._recorders)

    @property
    def wants_state(self) -> bool:
        """See `Recorder.wants_state`."""
        return any(each.wants_state for each in self._recorders)

    @property
    def follows_state(self) -> bool:
        """See `Recorder.follows_state`."""
        return any(each.follows_state for each in self._recorders)

    def state(self, content: dict[str, Any]) -> None:
        """See `Recorder.state`; for those alone who want it."""
        for each in self._recorders:
            if each.follows_state:
                each.state(content)

    def __getattr__(self, kind: str) -> Callable[..., None]:
        """All other methods, the kinds of records: each recorder's, one after the other."""

        def call(*arguments: Any) -> None:
            for each in self._recorders:
                getattr(each, kind)(*arguments)

        return call

    def new_failure(self) -> FastposError | None:
        """See `Recorder.new_failure`."""
        for each in self._recorders:
            failure = each.new_failure()
            if failure is not None:
                return failure
        return None


def _wires(records: Iterable[Record] | None) -> list[dict[str, Any]] | None:
    """Give a snapshot's records as the wire would have them."""
    return None if records is None else [wire_of(record) for record in records]


def _told(error: BaseException | None) -> list[Any] | None:
    """Give an error as its class' name and arguments, and its advice if it has one of its own, for
    who makes it again."""
    if error is None:
        return None
    plain: list[Any] = [
        each if isinstance(each, (str, int, float, type(None))) else str(each)
        for each in error.args
    ]
    if isinstance(error, FastposError) and error.advice != type(error).advice:
        plain.append({"advice": error.advice})
    return [type(error).__name__, *plain]


def _encoded(data: bytes) -> str:
    return b64encode(data).decode()
