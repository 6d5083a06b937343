"""A stream's part of a journal: what it hands over, and how that becomes lines.

Each method is one kind of record, and is called before what it tells of is done, so the order in
the journal is that in which it happened. docs/journal.md has the kinds and their fields.

Threads: the reader's, but for `lines_of` and `lost_lines`, which are the journal's writer's, and
`paused`, which is the ping thread's and touches nothing but the queue.
"""

from __future__ import annotations

from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable
from time import time_ns
from typing import Any, Protocol

from ..account.state import wire_of
from ..errors import DecodeError, FastposError, SnapshotError
from ..model.events import Disconnect, Ready, Stale
from ..model.fields import Record
from ..model.snapshot import Snapshot
from ..wire.credential import Credential
from .format import encoded_line, is_json_line, label_of, line_of, push_lines
from .writer import HURRY

__all__ = ["Recorder", "Several", "Sink"]


class Sink(Protocol):
    """What a stream's records go to: a `Journal`, or another that takes them."""

    @property
    def failure(self) -> FastposError | None:
        """What hinders it, or did last; None where nothing did."""

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken."""

    @property
    def buffer_bytes(self) -> int:
        """How much of a stream may wait, bytes."""

    @property
    def wants_states(self) -> bool:
        """Whether streams are to say all that they know whenever they were subscribed."""

    def enter(self, recorder: Any) -> deque[Any]:
        """Have `recorder` hand over; give the queue for its entries."""

    def leave(self, recorder: Any) -> None:
        """Have it hand over no more."""

    def hurry(self) -> None:
        """Have what waits taken soon."""

    @property
    def is_asleep(self) -> bool:
        """Whether `hurry` is to be called when something comes."""


class Recorder:
    """Hands over what a stream was sent, and what explains it.

    Args:
        journal: to which.
        stream: the stream's name.
        credential: which is taken out of all that is written.
    """

    __slots__ = (
        "_connection", "_credential", "_entries", "_is_open", "_journal", "_label", "_lost",
        "_noted", "_put", "_runs", "follows_state", "stream", "taken", "told", "trouble",
        "wants_state",
    )  # fmt: skip

    def __init__(self, journal: Sink, stream: str, credential: Credential) -> None:
        self._journal = journal
        self.stream = stream
        """The stream's name."""
        self.wants_state = False
        """Whether `state` is wanted soon; set by who reads, taken back by `state`."""
        self.follows_state = journal.wants_states
        """Whether it is wanted whenever the stream was subscribed."""
        self._label = label_of(stream)
        self._credential = credential
        self._entries: deque[Any] = deque()  # the journal's, from `open` on
        self._connection = 0
        self._put = 0  # bytes that were handed over
        self._runs = 0
        self._is_open = False  # between `open` and `close`
        self.told: FastposError | None = None
        """The journal's last failure that was told of."""
        self.trouble: FastposError | None = None
        """What the user is to be told soon, of this stream alone; set by who reads."""
        # Of all that was not taken: how many records, since when and until when of the last.
        self._lost: tuple[int, int, int] = 0, 0, 0
        # The writer's.
        self.taken = 0
        """How many of the bytes that were handed over are in the file."""
        self._noted = 0  # how many lost records are

    # --- who begins and ends runs -----------------------------------------------------------

    def open(self) -> None:
        """A run is about to begin.

        Raises:
            JournalError: the journal can't be written.
        """
        self.trouble = None
        self._entries = self._journal.enter(self)
        self._is_open = True
        self.told = self._journal.failure
        self._connection = 0

    def close(self) -> None:
        """It has ended, or does not begin; waits until all is written, where nobody else writes."""
        if self._is_open:
            self._is_open = False
            self._journal.leave(self)

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
        self._line("state", time_ns(), content)

    def paused(self) -> None:
        """Pushes are not wanted any more; on the ping thread."""
        line = line_of(self._label, self._connection, time_ns(), "paused", {})
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
        entry = [self, size, self._connection, received_ns, texts, len(texts), False]
        self._entries.append(entry)
        self._put += size
        if journal.is_asleep or self._put - self.taken > HURRY:
            journal.hurry()
        return entry

    @property
    def has_news(self) -> bool:
        """Whether `new_failure` has something to give, or `state` is wanted."""
        return (
            self.wants_state or self.trouble is not None or self._journal.failure is not self.told
        )

    def delivered(self, entry: list[Any], count: int, are_json: bool) -> None:
        """So many of those pushes were delivered, before the stream was stopped.

        Args:
            entry: what `pushes` gave.
            count: how many.
            are_json: all of those are JSON.
        """
        entry[6] = are_json and count == len(entry[4])
        entry[5] = count

    def undecodable(self, error: DecodeError, received_ns: int) -> None:
        """A message came that was of no use."""
        values = {"error": str(error), "base64": _encoded(error.data)}
        self._line("undecodable", received_ns, values)

    def stale(self, event: Stale) -> None:
        """There is silence that should not be."""
        values = {"reason": event.reason, "silent_s": event.silent_s}
        self._line("stale", event.received_ns, values)

    def snapshot_asked(self) -> None:
        """A snapshot is asked for."""
        self._line("snapshot_asked", time_ns())

    def snapshot_doubted(self) -> None:
        """Pushes say that the last one was wrong."""
        self._line("snapshot_doubted", time_ns())

    def snapshot(self, snapshot: Snapshot, ns: int) -> None:
        """One was taken, and is merged now."""
        values = {name: _wires(given) for name, given in snapshot._asdict().items()}
        self._line("snapshot", ns, values)

    def snapshot_failed(self, error: SnapshotError) -> None:
        """There was none."""
        self._line("snapshot_failed", time_ns(), {"error": _told(error)})

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
        if failure is self.told or failure is None:
            failure, self.trouble = self.trouble, None
        else:
            self.told = failure
        return None if failure is None else type(failure)(str(failure))

    def _line(self, kind: str, ns: int, values: dict[str, Any] | None = None) -> None:
        if self._is_full(1, ns):
            return
        line = line_of(self._label, self._connection, ns, kind, values or {})
        if self._credential.occurs_in(line):
            line = self._hidden(line)
        self._entries.append((self, len(line), line))
        self._put += len(line)
        if self._journal.is_asleep:
            self._journal.hurry()

    def _is_full(self, records: int, ns: int) -> bool:
        """Whether so many records are not taken; they are counted then."""
        journal = self._journal
        if not (journal.is_full or self._put - self.taken > journal.buffer_bytes):
            return False
        count, since, _ = self._lost
        # A new time begins where the last is noted.
        self._lost = count + records, since if count > self._noted else ns, ns
        return True

    # --- the writer's -----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many bytes wait."""
        return self._put - self.taken

    def lines_of(self, entry: Any) -> bytes:
        """Give the lines of something that was handed over."""
        if len(entry) == 3:
            line: bytes = entry[2]
            return line
        _, _, connection, received_ns, texts, delivered, are_json = entry
        if delivered < len(texts):
            late = [self._undelivered(connection, received_ns, each) for each in texts[delivered:]]
            told = texts[:delivered]
            entry = [*entry[:4], told, delivered, are_json]
            return b"".join([*([self.lines_of(entry)] if told else ()), *late])
        lines = push_lines(self._label, connection, received_ns, texts)
        may_stand = are_json or all(map(is_json_line, texts))
        if not may_stand or lines.count(b"\n") != len(texts) or self._credential.occurs_in(lines):
            lines = b"".join(self._one(connection, received_ns, text) for text in texts)
        return lines

    def _undelivered(self, connection: int, received_ns: int, text: bytes) -> bytes:
        values = {"base64": _encoded(self._hidden(text))}
        return line_of(self._label, connection, received_ns, "undelivered", values)

    def _one(self, connection: int, received_ns: int, text: bytes) -> bytes:
        if self._credential.occurs_in(text):
            text = self._hidden(text)
        if is_json_line(text):
            return push_lines(self._label, connection, received_ns, [text])
        return encoded_line(self._label, connection, received_ns, text)

    def _hidden(self, text: bytes) -> bytes:
        return self._credential.hide(text.decode("latin-1")).encode("latin-1")

    def lost_lines(self) -> bytes:
        """Give the line that tells of what was not taken since the last one; nothing if all was."""
        count, since, until = self._lost
        if count == self._noted:
            return b""
        values = {"count": count - self._noted, "from_ns": since, "to_ns": until}
        self._noted = count
        return line_of(self._label, self._connection, time_ns(), "dropped", values)


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
                each.close()
            raise

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
    """Give an error as its class' name and arguments, for who makes it again."""
    if error is None:
        return None
    plain = [
        each if isinstance(each, (str, int, float, type(None))) else str(each)
        for each in error.args
    ]
    return [type(error).__name__, *plain]


def _encoded(data: bytes) -> str:
    return b64encode(data).decode()
