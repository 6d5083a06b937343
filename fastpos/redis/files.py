"""`Files`: records to publish come from the files of a journal.

A journal keeps what comes, so nothing waits in memory but what is sent next, and who publishes may
be killed at any moment: Redis knows up to where it is published. The script that appends a batch
also puts down where in the journal it ends (the key "place"), so the one can't be there without the
other. From there on it is read

* when a stream begins again that did not end in an orderly way: what its last run has left is sent
  under that run's epoch, unless another has begun to publish it meanwhile;
* when a server that took over from another does not have what was sent last.

Whatever else a run has left unsent is found the same way, as all its records follow that place.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from time import time_ns
from typing import TYPE_CHECKING, Any

from ..journal.format import label_of, line_of, time_of
from ..journal.segments import begun_at
from ..journal.tail import Place, Tail, end_of, holds
from ..logs import fields, log
from .connecting import is_of_some_keys
from .marks import Marks
from .outbox import Outbox

if TYPE_CHECKING:
    from ..journal.journal import Journal
    from ..journal.recorder import Recorder

__all__ = ["Files"]

# No more is read while so many records wait.
ENOUGH = 20_000
# How long is waited for what was handed over to be written, seconds.
WRITTEN = 1.0
# A reader is busy where so much waits to be written, bytes.
MUCH = 16 * 1024


class Files:
    """Takes what a journal's writer has written. All is the sender's, but for `begin`.

    Args:
        journal: whose files.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._tail = Tail(journal.folder, end_of(journal.folder))
        self._marks = Marks(journal.folder)
        self._boxes: tuple[Outbox, ...] = ()
        self._is_at_end = True
        self._seen = 0  # how many bytes were not written yet at the last look
        self._unreadable: Place | None = None  # where it was told last
        self._entered: Counter[bytes] = Counter()  # how often each has
        self._ended: dict[bytes, Place] = {}  # up to where those are published that have ended
        self._missing: dict[Outbox, int] = {}  # what Redis has at the least of those that it lost

    def close(self) -> None:
        """Close the file that is open."""
        self._tail.close()

    def begin(self, stream: str) -> tuple[Place, Place] | None:
        """A stream is about to begin; for anybody.

        Returns:
            Where the journal ends now, and from where on Redis may know nothing of the stream.
        """
        place = end_of(self._journal.folder)
        return place, self._marks.begin(stream, place)

    def acquired(self, box: Outbox) -> None:
        """A run has its epoch, and Redis knows where it begins."""
        # Else it would be sent again where another has published meanwhile, and given back.
        assert box.place is not None
        self._marks.end(box.recorder.stream, self._entered[box.label], box.place)

    def end(self, box: Outbox) -> None:
        """All of a stream is published, and it has ended."""
        assert box.place is not None
        self._marks.end(box.recorder.stream, self._entered[box.label], box.place)
        self._ended[box.label] = box.place

    @property
    def has_news(self) -> bool:
        """Whether there is something to take."""
        return not self._is_at_end or any(box.recorder.waiting for box in self._boxes)

    @property
    def oldest_ns(self) -> int | None:
        """When the first came that the journal has yet to write; for anybody."""
        return self._journal.oldest_ns

    @property
    def is_pressed(self) -> bool:
        """Whether much comes: the reader is at work, and is not to be held up."""
        before, self._seen = self._seen, sum([box.recorder.waiting for box in self._boxes])
        return self._seen > MUCH and self._seen != before

    @property
    def is_behind(self) -> bool:
        """Whether the last `take` has left something."""
        return not self._is_at_end

    def key(self, recorder: Recorder) -> Any:
        """What tells an outbox from others."""
        return label_of(recorder.stream)

    def begin_of(self, box: Outbox) -> Place | None:
        """Where the first that waits begins."""
        end = box.end_of(1)
        return None if end is None else (end[0], end[1] - len(box.waiting[0]) - 1)

    def is_live(self, box: Outbox) -> bool:
        """Whether what it has is of this process."""
        assert box.live_from is not None
        return box.place is not None and box.place > box.live_from

    def enter(self, box: Outbox, places: tuple[Place, Place] | None) -> None:
        """A stream puts something in from now on; takes what `begin` gave."""
        self._entered[box.label] += 1
        if box.live_from is None and places is not None:  # a new one
            box.live_from, begun_at = places
            # It may have begun before it was taken note of that the one before had ended.
            box.begun_at = max(begun_at, self._ended.get(box.label, begun_at))
            box.wants_place = True

    def locate(self, boxes: Iterable[Outbox], redis: Any) -> list[Outbox]:
        """Find out up to where those are published of which that is not known; gives these."""
        unknown = [box for box in boxes if box.wants_place]
        if not unknown:
            return []
        pipeline = redis.pipeline(transaction=False)
        for box in unknown:
            pipeline.get(box.keys.place)
        first = self._tail.place
        for box, answer in zip(unknown, pipeline.execute(raise_on_error=False), strict=True):
            if isinstance(answer, Exception):
                if not is_of_some_keys(answer):
                    raise answer
                answer = None  # noqa: PLW2901 -- what is written there next says so
            found = _parsed(answer)
            if found is not None and not holds(self._journal.folder, found[2]):
                found = None  # it is another's, or was removed
            last = self._missing.pop(box, None)
            if found is not None:
                epoch, sequence, place = found
                if last is not None and epoch == box.epoch and sequence - 1 > last:
                    box.resume(*found)  # what is published is not there: somebody has removed it
                    box.is_missing(last)
                else:
                    box.resume(*found)
                first = min(first, place)
            elif last is not None:
                box.is_missing(last)
            else:  # who has another place has followed another journal
                box.place = box.begun_at if answer is None else box.live_from
                assert box.place is not None
                first = min(first, box.place)
            box.wants_place = False
        if first < self._tail.place:
            self._tail.go_to(first)
        return unknown

    def mend(self, box: Outbox, last: int) -> None:
        """Redis has lost what it had after `last`: it is read again."""
        self._missing[box] = last
        box.wants_place = True

    def take(
        self, boxes: dict[Any, Outbox], may_wait: bool, unknown: deque[Any]
    ) -> dict[Outbox, None]:
        """Put what was written in its outboxes; gives those that got something.

        Args:
            boxes: by `key`.
            may_wait: Redis is there; else nothing is taken.
            unknown: who comes or goes, and is not in `boxes` yet.
        """
        given: dict[Outbox, None] = {}
        self._boxes = tuple(boxes.values())
        waiting = [len(box.waiting) for box in self._boxes if not box.is_refused]
        if not may_wait or sum(waiting) >= ENOUGH:
            return given
        # What is read without that may lack what was handed over last: it is read once more.
        is_written = self._is_at_end and self._journal.flush(WRITTEN)
        place = self._tail.place
        try:
            piece = self._tail.read()
        except OSError as error:
            self._is_at_end = True
            self._skip(place, error)
            return given
        self._is_at_end = piece is None
        if unknown:  # it may be theirs
            self._tail.go_to(place)
            self._is_at_end = False
        elif piece is not None:
            if piece.is_after_gap:
                self._tell_gap(boxes, (piece.segment, piece.begin), given)
            self._sort(boxes, piece.segment, piece.begin, piece.data, given)
        elif is_written:
            for box in self._boxes:
                box.heard_all = box.leaving is not None
        return given

    def _sort(
        self,
        boxes: dict[Any, Outbox],
        segment: str,
        begin: int,
        data: bytes,
        given: dict[Outbox, None],
    ) -> None:
        lines = data.split(b"\n")
        lines.pop()
        end = begin
        for line in lines:
            begin, end = end, end + len(line) + 1
            stream = line.find(b'"stream":')
            rest = line.find(b',"connection":', stream)
            box = boxes.get(line[stream:rest])
            if box is None or box.place is None or (segment, begin) < box.place:
                continue
            box.place = place = segment, end
            kind = line.find(b'"kind":"', rest) + 8
            if not line.startswith(b"push", kind):
                if line.startswith(b"started", kind):
                    if not box.is_fenced or place > (box.live_from or place):
                        box.begin_run()
                elif line.startswith(b"dropped", kind):
                    box.recorder.ask_for_state()
            if box.is_idle:
                continue
            if box.is_fenced:
                ns = time_of(line)
                box.lose(1, ns, ns)
                continue
            box.put_line(line, place)
            given[box] = None
            if box.is_refused and len(box.waiting) >= ENOUGH:  # the others' are read meanwhile
                box.drop_oldest(ENOUGH // 2)

    def _tell_gap(self, boxes: dict[Any, Outbox], place: Place, given: dict[Outbox, None]) -> None:
        """Files were removed that were not published yet: have that told of each."""
        for box in boxes.values():
            if box.is_idle or box.is_fenced or box.place is None or box.place >= place:
                continue
            # Nobody knows how many: at least one, since the last file that was read was begun.
            since, until = _begun_at(box.place[0]), _begun_at(place[0])
            values = {"count": 1, "from_ns": since, "to_ns": until}
            line = line_of(box.label, 0, until, "dropped", values)[:-1]
            box.put_line(line, place)
            box.place = place
            box.recorder.ask_for_state()
            given[box] = None

    def _skip(self, place: Place, error: Exception) -> None:
        """A file can't be read: say so once, and go on with the next, if it is not the folder."""
        if place != self._unreadable:
            self._unreadable = place
            log.error(
                "a file of the journal can't be published: %s",
                error,
                extra=fields("unreadable", folder=str(self._journal.folder)),
            )
        if holds(self._journal.folder, place):
            self._tail.skip_segment()
        else:
            self._tail.go_to(place)


def _begun_at(segment: str) -> int:
    """When a segment was begun, by its name."""
    try:
        return begun_at(segment)
    except OSError:  # somebody else has named it
        return time_ns()


def _parsed(answer: bytes | None) -> tuple[int, int, Place] | None:
    if answer is None:
        return None
    try:
        epoch, sequence, segment, offset = answer.decode().split(" ")
        return int(epoch), int(sequence), (segment, int(offset))
    except ValueError:  # somebody else has written it
        return None
