"""What `fastpos serve` writes: a line for each event, log record and step of its own, on stdout.

Threads: any may write, and none waits for it: whoever reads the output slowly must hold up neither
a stream nor a ping. A thread of its own takes the lines from a queue. When that is full, lines are
left out, and how many is said in their place; `_counting` guards their number.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
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

__all__ = ["LogHandler", "Output"]

# So many lines may wait to be written.
MAX_WAITING = 100_000
# So many are written at once.
BATCH = 500
# A disk that is full may have room again. What else can't be written to has gone.
_PASSING = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Records of the library about what comes as an event too.
_EVENTS_TOO = {"subscribed", "disconnected", "connect_failed", "stale", "synced"}


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
        self._lines: SimpleQueue[str | None] = SimpleQueue()  # None: the last has come
        self._counting = threading.Lock()
        self._left_out = 0
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="fastpos-output", daemon=True)
        self._thread.start()

    def event(self, stream: str, slot: str, event: Any) -> None:
        """Write what a callback of a stream got; `slot` is its name."""
        if not self._as_json:
            self._put(f"{stream}  {line(event)}")
        elif isinstance(event, FastposError):
            self.note("error", "error", str(event), stream, {"error": type(event).__name__})
        else:
            self._put_json(_level(event), stream, slot.removeprefix("on_"), event.as_dict())

    def note(
        self,
        level: str,
        event: str,
        text: str,
        stream: str | None = None,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Write something else, of a stream or of the program."""
        if self._as_json:
            self._put_json(level, stream, event, {"message": text, **(fields or {})})
        else:
            now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
            told = printable(text, LONGEST)
            self._put(f"{stream or 'fastpos'}  {now}  {level.upper():<13}  {told}")

    def close(self, timeout: float) -> None:
        """Write what waits, for so many seconds at most."""
        self._lines.put(None)
        self._thread.join(timeout)

    def _put_json(
        self, level: str, stream: str | None, event: str, fields: Mapping[str, object]
    ) -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        first: dict[str, object] = {"time": now.replace("+00:00", "Z"), "level": level}
        first |= {"stream": stream, "event": event}
        self._put(
            json.dumps({**first, **fields, **first}, default=str)
        )  # a Decimal stays exact as a string

    def _put(self, text: str) -> None:
        if self._failed:
            return
        if self._lines.qsize() < MAX_WAITING:
            self._tell_left_out()
            self._lines.put(text)
            return
        with self._counting:
            self._left_out += 1

    def _run(self) -> None:
        ended = False
        while not ended:
            lines = [self._lines.get()]
            with suppress(Empty):
                while len(lines) < BATCH:
                    lines.append(self._lines.get_nowait())
            ended = None in lines
            texts = [text for text in lines if text is not None]
            try:
                self._write("".join(f"{text}\n" for text in texts))
            except OSError as error:
                if error.errno not in _PASSING:
                    self._failed = True
                    self._gone(error)
                    return
                with self._counting:
                    self._left_out += len(texts)
            if self._lines.empty():  # so no line may come that it stands before
                self._tell_left_out()

    def _tell_left_out(self) -> None:
        if not self._left_out:
            return
        with self._counting:
            count, self._left_out = self._left_out, 0
        if not count:
            return
        text = f"{count} lines were left out: they could not be written in time"
        self.note("warning", "lines_left_out", text, fields={"lines": count})

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(self._encoding, "backslashreplace"))
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # somebody has set it so
                select.select([], [self._descriptor], [])


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
        if event in _EVENTS_TOO:
            return
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        stream: Any = fields.pop("stream", None)
        self._output.note(record.levelname.lower(), event, text, stream, fields)


def _level(event: Any) -> str:
    if isinstance(event, Disconnect) and event.reason != "stopped":
        return "warning"
    return "warning" if isinstance(event, Stale) else "info"
