"""``fastpos record``: write down what an exchange pushes, until a signal ends it.

Threads: the main thread waits for signals and shows the status; the stream has its own. The signal
handlers only ask.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

from ..clock import monotonic
from ..errors import JournalError
from ..journal import Journal
from ..journal.segments import written
from ..model.events import Disconnect
from ..stream import PositionStream
from .lines import line
from .signals import heard
from .terminal import StatusLine

__all__ = ["record"]

# How often the status line is made anew, seconds.
STATUS = 0.5
# How long the stream is given to say goodbye, the last records to be written, and the last file to
# be compressed, seconds: 10 in all, after which docker kills.
GOODBYE = 4.0
LAST_RECORDS = 3.0
LAST_FILE = 2.0
# Log records of what is told otherwise.
TOLD = ("ended", "journal_failing", "journal_incomplete")


def record(stream: PositionStream, journal: Journal, show: Callable[[str], object]) -> None:
    """Follow an exchange and write down what comes, until Ctrl-C or SIGTERM.

    What hinders it is told on standard error, where a terminal also has a line that says how it
    goes.

    Args:
        stream: what is recorded; it is not running yet.
        journal: where it writes.
        show: takes the last line, which says how much there was.

    Raises:
        FastposError: what ended the stream; or the journal can't be written, now or at last.
        KeyboardInterrupt: Ctrl-C came a second time.
    """
    asked: SimpleQueue[int] = SimpleQueue()
    ending = False

    def ask(number: int) -> None:
        nonlocal ending
        if ending and number == signal.SIGINT:  # again: somebody can't wait
            raise KeyboardInterrupt
        ending = True
        asked.put(number)

    began = monotonic()
    with heard({"SIGINT": ask, "SIGTERM": ask}):
        journal.open()
        try:
            with StatusLine() as status:
                _tell(stream, status)
                stream.start()
                while not ending and not stream.join(0):
                    status.show(_status(stream, journal))
                    with suppress(Empty):
                        asked.get(timeout=STATUS)
                status.show("ending")
                stream.stop(GOODBYE)
                if not journal.flush(LAST_RECORDS):
                    text = f"what came last could not be written in {journal.folder}"
                    raise JournalError(text).advising("Look at the folder and its disk.")
        finally:
            journal.close(LAST_FILE)
            show(f"{_status(stream, journal)}, in {monotonic() - began:.0f} s")


def _tell(stream: PositionStream, status: StatusLine) -> None:
    """Have what happens to the connection told, and the library's log records, above the line."""

    told: object = None  # the error of the last disconnect, which says it already

    def note(event: object) -> None:
        nonlocal told
        if isinstance(event, Disconnect):
            told = event.error
            if event.retry_in_s is None:  # the end is told last
                return
        elif event is told:
            return
        status.write(f"{line(event)}\n")

    stream.on_ready(note)
    stream.on_disconnect(note)
    stream.on_stale(note)
    stream.on_error(note)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setStream(status)
            handler.addFilter(lambda record: getattr(record, "fastpos_event", "") not in TOLD)


def _status(stream: PositionStream, journal: Journal) -> str:
    size = 0
    with suppress(OSError):
        for path in written(journal.folder):
            with suppress(OSError):  # it has just been compressed, or removed
                size += path.stat().st_size
    return f"{sum(stream.stats.events.values()):,} events, {size:,} bytes in {journal.folder}"
