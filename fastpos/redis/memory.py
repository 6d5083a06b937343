"""`Memory`: records to publish come from the streams themselves, and wait in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ..journal.format import kind_of, time_of
from ..journal.recorder import Recorder
from ..journal.tail import Place
from .outbox import Outbox

__all__ = ["Memory"]

# So much is taken before some is sent, records.
AT_ONCE = 10_000
# A reader is busy that has read so often, or so many bytes at once.
MANY, LARGE = 20, 8 * 1024


class Memory:
    """Takes what recorders have handed over, and lets the oldest go where that is too much.

    All is the sender's, but for the queue's ends.

    Args:
        most: so many records wait at the most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.entries: deque[Any] = deque()
        """What was handed over, the oldest first."""
        self.is_behind: bool = False
        """Whether the last `take` has left something."""
        self._seen = 0  # how many there were at the last look

    def close(self) -> None:
        """There is nothing to close."""

    def begin(self, stream: str) -> tuple[Place, Place] | None:
        """There are no places here."""
        return None

    def acquired(self, box: Outbox) -> None:
        """There is nothing to put down."""

    def end(self, box: Outbox) -> None:
        """There is nothing to put down."""

    def enter(self, box: Outbox, places: tuple[Place, Place] | None) -> None:
        """There are no places here."""

    @property
    def has_news(self) -> bool:
        """Whether something was handed over."""
        return bool(self.entries)

    @property
    def oldest_ns(self) -> int | None:
        """When the first came that was handed over and not taken, ns since the epoch; None where
        nothing was. For anybody."""
        try:
            entry = self.entries[0]
        except IndexError:
            return None
        recorder: Recorder = entry[0]
        return recorder.time_of(entry)

    @property
    def is_pressed(self) -> bool:
        """Whether much comes: the reader is at work, and is not to be held up."""
        entries = self.entries
        before, self._seen = self._seen, len(entries)
        is_much = self._seen > MANY or (self._seen > 0 and entries[-1][1] > LARGE)
        return is_much and self._seen != before

    def key(self, recorder: Recorder) -> Any:
        """What tells an outbox from others."""
        return recorder

    def take(
        self, boxes: dict[Any, Outbox], may_wait: bool, unknown: deque[Any]
    ) -> dict[Outbox, None]:
        """Put what has come in its outboxes; gives those that got something.

        Args:
            boxes: by `key`.
            may_wait: Redis is there; where there is much, some of it is sent before the rest.
            unknown: who comes or goes, and is not in `boxes` yet.
        """
        given: dict[Outbox, None] = {}
        entries, taken = self.entries, 0
        for _ in range(len(entries)):
            entry = entries.popleft()
            recorder: Recorder = entry[0]
            box = boxes.get(recorder)
            if box is None and unknown:
                entries.appendleft(entry)
                break
            lines = recorder.lines_of(entry)
            recorder.taken += entry[1]
            if box is None or not lines:
                continue
            records = lines.split(b"\n")
            records.pop()
            if len(entry) == 3 and kind_of(lines) == b"started":
                box.begin_run()
            if box.is_fenced:
                box.lose(len(records), time_of(records[0]), time_of(records[-1]))
                continue
            box.put(records)
            given[box] = None
            taken += len(records)
            if may_wait and taken >= AT_ONCE:
                break
        else:  # all that there was when they left
            for box in boxes.values():
                box.heard_all = box.leaving is not None
        self.is_behind = bool(entries)
        self._drop_oldest(boxes.values())
        return given

    def _drop_oldest(self, boxes: Iterable[Outbox]) -> None:
        too_many = sum([len(each.waiting) for each in boxes]) - self._most
        while too_many > 0:
            longest = max(boxes, key=lambda each: len(each.waiting))
            count = min(too_many, max(len(longest.waiting) // 2, 1))
            longest.drop_oldest(count)
            too_many -= count

    def locate(self, boxes: Iterable[Outbox], redis: Any) -> list[Outbox]:
        """There is nothing to go back to."""
        return []

    def begin_of(self, box: Outbox) -> Place | None:
        """There are no places here."""
        return None

    def is_live(self, box: Outbox) -> bool:
        """Whether what it has is of this process."""
        return True

    def mend(self, box: Outbox, last: int) -> None:
        """Redis has lost what it had after `last`: nobody else has it."""
        box.is_missing(last)
