"""The terminal: the other screen while it is shown, keys, signals; and the timer that draws.

The table costs the stream nothing that grows with its events: they are noted, and a few times a
second the stream is looked at. Where a look and its drawing take long, they come less often.

However it ends, by q, Ctrl-C, a signal, the stream's own end or an exception, the terminal is left
as it was. Ctrl-Z leaves it for as long as the program is stopped.

Threads: the main thread draws and waits; the stream has its own. Signal handlers only ask.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from collections import deque
from contextlib import suppress
from io import StringIO
from queue import Empty, SimpleQueue
from time import time_ns
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleDimensions

from ...clock import monotonic
from ...stream import PositionStream
from ..output import EVENTS_TOO
from ..signals import heard
from ..terminal import write_all
from .known import Notes, look
from .paint import Brush
from .screen import screen

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

__all__ = ["Screen", "live"]

# How often it is drawn, seconds; and drawing takes no more than this part of the time.
EVERY, AT_MOST = 0.25, 0.1
# How long the stream is given to say goodbye, seconds.
GOODBYE = 4.0

# The other screen, without a cursor, and no line goes on in the next one; and all as it was.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J", "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")


def live(stream: PositionStream, title: str, is_ascii: bool, seconds: float | None = None) -> None:
    """Run a stream and show what is known of it, until q, Ctrl-C, a signal or its own end.

    Args:
        stream: it is not running yet.
        title: which it is.
        is_ascii: whether the terminal shows nothing but ASCII.
        seconds: no longer than so.

    Raises:
        FastposError: what ended the stream.
        OSError: the terminal has gone.
        KeyboardInterrupt: Ctrl-C came again while it ended.
    """
    notes = Notes(time_ns())
    notes.follow(stream)
    asked: SimpleQueue[str] = SimpleQueue()
    is_left = False

    def ask(number: int) -> None:
        if is_left and number == signal.SIGINT:  # somebody can't wait
            raise KeyboardInterrupt
        asked.put(signal.Signals(number).name)
        keys.wake()

    ends = None if seconds is None else monotonic() + seconds
    with (
        _Keys() as keys,
        heard(dict.fromkeys((*_ENDING, "SIGWINCH", "SIGTSTP", "SIGCONT"), ask)),
        _Logs(notes),
    ):
        try:
            with Screen(Brush(is_ascii)) as shown:
                stream.start()
                while not stream.join(0):
                    began = monotonic()
                    shown.draw(look(stream, notes, title), time_ns())
                    rest = max(EVERY, (monotonic() - began) * (1 / AT_MOST - 1))
                    if ends is not None:
                        rest = min(rest, ends - monotonic())
                    if rest < 0 or "q" in keys.wait(rest) or _is_ended(asked, shown, keys):
                        break
        finally:
            is_left = True
            stream.stop(GOODBYE)


def _is_ended(asked: SimpleQueue[str], shown: Screen, keys: _Keys) -> bool:
    """Do what signals ask for; whether it is to end."""
    with suppress(Empty):
        while True:
            name = asked.get_nowait()
            if name in _ENDING:
                return True
            if name == "SIGTSTP":
                shown.leave()
                keys.restore()
                old = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTSTP)  # here it stands, until SIGCONT
                signal.signal(signal.SIGTSTP, old)
            if name in ("SIGTSTP", "SIGCONT"):  # the latter alone, where it was SIGSTOP
                keys.take()
                shown.enter()
    return False


class Screen:
    """The other screen of the terminal on standard output, while its `with` block lasts."""

    def __init__(self, brush: Brush) -> None:
        self._brush = brush
        self._size = (0, 0)
        self._lines: list[str] = []
        # What a terminal shows is found out once, from its name and the environment.
        terminal = Console()
        self._console = Console(
            file=StringIO(),
            force_terminal=True,
            color_system=terminal.color_system or None,  # type: ignore[arg-type]
            no_color=terminal.no_color,
            legacy_windows=False,
            markup=False,
            highlight=False,
            emoji=False,
        )

    def __enter__(self) -> Screen:
        try:
            self.enter()
        except BaseException:
            self.leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()

    def enter(self) -> None:
        """Show it, empty."""
        self._size = (0, 0)
        _write(_ENTER)

    def leave(self) -> None:
        """Show what was there before, and the cursor."""
        with suppress(OSError, ValueError):
            _write(_LEAVE)

    def draw(self, known: Any, now_ns: int) -> None:
        """Show what is known; only lines that have changed are written."""
        size = _size()
        if size != self._size:
            self._size, self._lines = size, []
            self._console.size = ConsoleDimensions(*size)
            text = "\x1b[2J"
        else:
            text = ""
        lines = self._rendered(screen(known, now_ns, *size, self._brush))
        lines += [""] * (size[1] - len(lines))
        for number, line in enumerate(lines[: size[1]]):
            if number >= len(self._lines) or line != self._lines[number]:
                text += f"\x1b[{number + 1};1H\x1b[K{line}"
        self._lines = lines
        if text:
            _write(text)

    def _rendered(self, renderable: Any) -> list[str]:
        self._console.begin_capture()
        self._console.print(renderable, end="", crop=False, no_wrap=True)
        return self._console.end_capture().split("\n")


def _size() -> tuple[int, int]:
    """Give columns and lines of the terminal."""
    try:
        found = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return 80, 24
    return found.columns or 80, found.lines or 24


def _write(text: str) -> None:
    # Not by the file object: after a signal in the midst, the rest of what it had was seen missing.
    sys.stdout.flush()
    write_all(sys.stdout.fileno(), text.encode(sys.stdout.encoding, "replace"))


class _Keys:
    """What is typed: it is not shown, and read at once. Elsewhere than on a terminal, nothing."""

    def __init__(self) -> None:
        self._woken: SimpleQueue[None] = SimpleQueue()
        self._pipe: tuple[int, int] | None = None
        self._input: int | None = None
        self._before: list[Any] = []

    def __enter__(self) -> _Keys:
        if termios is not None:
            self._pipe = os.pipe()
            for each in self._pipe:
                os.set_blocking(each, False)
            with suppress(OSError, ValueError, AttributeError):
                number = sys.stdin.fileno()
                # In a shell's background it is not ours to change.
                if os.isatty(number) and os.tcgetpgrp(number) == os.getpgrp():
                    self._before = termios.tcgetattr(number)
                    self._input = number
                    self.take()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.restore()
        if self._pipe is not None:
            pipe, self._pipe = self._pipe, None
            for each in pipe:
                os.close(each)

    def take(self) -> None:
        """Have what is typed come at once, and not be shown; and a Ctrl-C throw nothing away of
        what is being drawn."""
        if self._input is not None:
            modes = termios.tcgetattr(self._input)
            modes[3] &= ~(termios.ECHO | termios.ICANON)
            modes[3] |= termios.NOFLSH
            termios.tcsetattr(self._input, termios.TCSADRAIN, modes)

    def restore(self) -> None:
        """Have it as it was before."""
        if self._input is not None:
            with suppress(OSError, termios.error):
                termios.tcsetattr(self._input, termios.TCSAFLUSH, self._before)

    def wake(self) -> None:
        """Have `wait` return; in a signal handler too."""
        if self._pipe is None:
            self._woken.put(None)
        else:
            with suppress(OSError):  # it is full: so it wakes
                os.write(self._pipe[1], b".")

    def wait(self, seconds: float) -> str:
        """Wait so long, or until there is something; give what was typed."""
        if self._pipe is None:
            with suppress(Empty):
                self._woken.get(timeout=seconds)
            return ""
        ready, _, _ = select.select(
            [self._pipe[0], *([] if self._input is None else [self._input])], [], [], seconds
        )
        if self._pipe[0] in ready:
            with suppress(OSError):
                os.read(self._pipe[0], 4096)
        if self._input not in ready or self._input is None:
            return ""
        typed = os.read(self._input, 4096)
        if not typed:  # the terminal has gone
            self._input = None
        return typed.decode("ascii", "replace")


class _Logs(logging.Handler):
    """Has what would be logged on the terminal noted instead, and logged when it is free again.

    What is told otherwise, as an event or at the end, is passed over.
    """

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self._notes = notes
        self._root = logging.getLogger()
        self._replaced: list[logging.Handler] = []
        self._kept: deque[logging.LogRecord] = deque(maxlen=100)

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record (see `logging.Handler`)."""
        if getattr(record, "fastpos_event", "") not in {*EVENTS_TOO, "ended"}:
            self._kept.append(record)
            self._notes.note(f"{record.levelname}: {record.getMessage()}")

    def __enter__(self) -> _Logs:
        if sys.stderr.isatty():
            self._replaced = [
                each
                for each in self._root.handlers
                if isinstance(each, logging.StreamHandler) and each.stream is sys.stderr
            ]
        for each in self._replaced:
            self._root.removeHandler(each)
        if self._replaced:
            self._root.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._replaced:
            return
        self._root.removeHandler(self)
        for each in self._replaced:
            self._root.addHandler(each)
            for record in self._kept:
                if record.levelno >= each.level:
                    each.handle(record)
