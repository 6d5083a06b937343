"""What `fastpos serve` writes: a line for each event, log record and step of its own, on stdout.

Threads: any may write, and none waits for it: whoever reads the output slowly must hold up neither
a stream nor a ping. A thread of its own takes the lines from a queue. When that is full, lines are
left out, and how many is said in their place; `_counting` guards their number.
"""

from __future__ import annotations

import errno
import json
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from queue import Empty, SimpleQueue
from typing import Any

from ..errors import FastposError
from ..model.events import Disconnect, Stale
from ..printable import printable
from .lines import LONGEST, line
from .terminal import write_all

__all__ = ["EVENTS_TOO", "LogHandler", "Output", "event_json"]

# So many lines may wait to be written.
MAX_WAITING = 100_000
# So many are written at once.
BATCH = 500
# A disk that is full may have room again. What else can't be written to has gone.
_PASSING = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))

EVENTS_TOO = frozenset({"subscribed", "disconnected", "connect_failed", "stale", "synced"})
"""Records of the library about what comes as an event too."""


class Output:
    """Writes lines to stdout: text for people, or one JSON object each.

    Args:
        as_json: which of the two.
        gone: called once, when nothing can be written any more.
    """

    def __init__(self, as_json: bool, gone: Callable[[OSError], object]) -> None:
        self._as_json = as_json
        self._gone = gone
        self._descriptor = sys.stdout.fileno()
        self._encoding = sys.stdout.encoding or "utf-8"
        # A number stands for so many lines that were left out; None: the last has come.
        self._lines: SimpleQueue[str | int | None] = SimpleQueue()
        self._counting = threading.Lock()
        self._left_out = 0
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="fastpos-output", daemon=True)
        self._thread.start()

    def event(self, stream: str, slot: str, event: Any) -> None:
        """Write what a callback of a stream got; `slot` is its name."""
        as_json = self._as_json
        self._put(event_json(stream, slot, event) if as_json else f"{stream}  {line(event)}")

    def note(
        self,
        level: str,
        event: str,
        text: str,
        stream: str | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Write something else, of a stream or of the program."""
        self._put(self._note(level, event, text, stream, fields or {}))

    def close(self, timeout: float) -> None:
        """Write what waits, for so many seconds at most."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _note(
        self, level: str, event: str, text: str, stream: str | None, fields: Mapping[str, object]
    ) -> str:
        if self._as_json:
            return _json(level, stream, event, {"message": text, **fields})
        now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
        return f"{stream or 'fastpos'}  {now}  {level.upper():<13}  {printable(text, LONGEST)}"

    def _put(self, text: str) -> None:
        if self._failed:
            return
        if self._lines.qsize() < MAX_WAITING:
            self._mark_left_out()
            self._lines.put(text)
            return
        with self._counting:
            self._left_out += 1

    def _mark_left_out(self) -> None:
        if self._left_out:
            with self._counting:
                count, self._left_out = self._left_out, 0
            self._lines.put(count)

    # --- the thread that writes -------------------------------------------------------------

    def _run(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            with suppress(Empty):
                while len(lines) < BATCH:
                    lines.append(self._lines.get_nowait())
            ended = None in lines
            try:
                self._write("".join(self._shown(each) for each in lines))
            except OSError as error:
                if error.errno not in _PASSING:
                    self._failed = True
                    self._gone(error)
                    return
                with self._counting:
                    self._left_out += sum(_count(each) for each in lines)
                continue
            if self._lines.empty():  # so it may be long until the next comes
                self._mark_left_out()

    def _shown(self, each: str | int | None) -> str:
        if isinstance(each, int):
            text = f"{each} lines were left out: they could not be written in time"
            each = self._note("warning", "lines_left_out", text, None, {"lines": each})
        return "" if each is None else f"{each}\n"

    def _write(self, text: str) -> None:
        write_all(self._descriptor, text.encode(self._encoding, "backslashreplace"))


class LogHandler(logging.Handler):
    """Writes the library's log records, but for those about what comes as an event."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record (see `logging.Handler`)."""
        fields = {
            name.removeprefix("fastpos_"): value
            for name, value in vars(record).items()
            if name.startswith("fastpos_")
        }
        event = str(fields.pop("event", "log"))
        if event in EVENTS_TOO:
            return
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        stream: Any = fields.pop("stream", None)
        self._output.note(record.levelname.lower(), event, text, stream, fields)


def event_json(stream: str, slot: str, event: Any) -> str:
    """Give what a callback of a stream got as a JSON object; `slot` is its name."""
    if isinstance(event, FastposError):
        said = {"message": str(event), "error": type(event).__name__}
        return _json("error", stream, "error", said)
    return _json(_level(event), stream, slot.removeprefix("on_"), event.as_dict())


def _json(level: str, stream: str | None, event: str, fields: Mapping[str, object]) -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    first: dict[str, object] = {"time": now.replace("+00:00", "Z"), "level": level}
    first |= {"stream": stream, "event": event}
    return json.dumps({**first, **fields, **first}, default=str)  # a Decimal stays exact, a string


def _count(each: str | int | None) -> int:
    """Give how many lines one entry of the queue is."""
    return each if isinstance(each, int) else int(each is not None)


def _level(event: Any) -> str:
    if isinstance(event, Disconnect) and event.reason != "stopped":
        return "warning"
    return "warning" if isinstance(event, Stale) else "info"
