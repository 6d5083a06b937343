"""``fastpos replay``: what was recorded is shown again, or played to any client."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from ..clock import monotonic
from ..errors import FastposError, JournalError
from ..journal import Record, read
from ..journal.replay import Players
from ..journal.segments import segments
from ..model.events import Event
from ..runtime.callbacks import CALLBACK_NAMES
from ..stream import PositionStream
from .lines import line
from .signals import heard
from .terminal import StatusLine

if TYPE_CHECKING:
    from ..simulator import Exchange

__all__ = ["replay_to", "serve_day"]

# How often it is said how far it has come, seconds.
STATUS = 0.25
# How long a client that was there before the connection was lost is waited for, if others are
# there already, seconds.
PATIENCE = 5.0


def replay_to(
    show: Callable[[str], object],
    path: str,
    stream: str | None,
    speed: float | None,
    with_status: bool,
) -> None:
    """Show what the functions of the recorded streams were called with, with the recorded times.

    Args:
        show: takes the lines.
        path: the journal.
        stream: only of this one; None: of all, each line with the name first.
        speed: see `fastpos.journal.replay`.
        with_status: whether a terminal is told how far it has come.

    Raises:
        JournalError: there is no journal, or it was altered.
        ValueError: there is nothing of that stream.
        OSError: `show` raised it.
    """
    failure: OSError | None = None
    names: set[str] = set()

    def new_stream(name: str, number: type) -> PositionStream:
        made = PositionStream(
            "ws://127.0.0.1:9/", api_key="replay", broker=0, name=name, number=number
        )
        first = "" if stream is not None else f"{name}  "

        def note(event: Event | FastposError) -> None:
            nonlocal failure
            try:
                if failure is None:
                    show(first + line(event, made.book.now_ns()))
            except OSError as error:  # the reader of our output has gone, as `head` does
                failure = error
            if failure is not None:
                made.stop()

        for callback in CALLBACK_NAMES:
            getattr(made, callback)(note)
        return made

    def mine() -> Iterator[Record]:
        for record in records:
            if failure is not None:
                return
            names.add(record.stream)
            if stream in (None, record.stream):
                yield record

    records: Iterable[Record] = read(path)
    with StatusLine() as status:
        if with_status and status.is_shown:
            records = _followed(records, _last_time(path), status)
        players = Players(new_stream, speed)
        try:
            players.play(mine())
        except JournalError as error:
            if error.file is None:  # a record that is right as a line
                raise JournalError(f"{path}: {error.message}", path).advising(
                    error.advice
                ) from error
            raise
    if failure is not None:
        raise failure
    if not players.streams:
        raise ValueError(_nothing(path, stream, names))


def serve_day(
    show: Callable[[str], object], path: str, stream: str | None, speed: float | None, port: int
) -> None:
    """Have the simulator play a recorded day to whoever subscribes, from the first on.

    Where the recorded connection was lost, the clients' are. What was pushed while a client is not
    there it misses, as it would have then.

    Args:
        show: takes lines that say where it is served, and how it ended.
        path: the journal.
        stream: the stream; None: the only one that is in it.
        speed: see `fastpos.journal.replay`.
        port: where it is served; 0: on a free one.

    Raises:
        JournalError: there is no journal, or it was altered.
        ValueError: there are several streams and none was named, or none of that name.
        OSError: the port is taken.
        ImportError: the extra `simulator` is not there.
    """
    from ..simulator import Exchange  # noqa: PLC0415 -- needs the extra

    with heard({"SIGTERM": _interrupt}), StatusLine() as status:
        last = _last_time(path) if status.is_shown else None
        name, broker = _only_stream(path, stream, last, status)
        with (
            Exchange(port=port)
            if broker is None
            else Exchange(port=port, broker=broker) as exchange
        ):
            show(f"url      {exchange.url}")
            show(f"broker   {exchange.broker}")
            show(f"api key  {exchange.api_key}")
            show(f"token    {exchange.token}")
            show(f"The day of {name} begins when somebody subscribes; Ctrl-C ends it.")
            day = _Day(exchange, speed)
            day.play(_followed(read(path, stream=name), last, status))
    show(f"The day has ended: {day.pushed} pushes.")


def _interrupt(_: int) -> None:
    """End as a Ctrl-C does."""
    raise KeyboardInterrupt


class _Day:
    """A day that an exchange plays to its clients. On one thread."""

    def __init__(self, exchange: Exchange, speed: float | None) -> None:
        self._exchange = exchange
        self._speed = speed
        self._first: tuple[int, float] | None = None  # when it began then, and now
        self._is_up = False  # whether the recorded connection is
        self._wanted = 0  # clients that were there before it was lost
        self.pushed = 0
        """So many pushes."""

    def play(self, records: Iterable[Record]) -> None:
        """Play it, from the first subscription on."""
        for each in records:
            if self._first is None and each.kind != "subscribed":
                continue
            self._keep_pace(each.received_ns)
            if each.kind == "push":
                self._exchange.push(each.text)
                self.pushed += 1
            elif each.kind == "undecodable":
                self._exchange.push_bytes(b64decode(each.values.get("base64", "")))
            elif each.kind == "disconnected" and each.values.get("reason") != "stopped":
                self._lose(each.values.get("close_code"))
            elif each.kind in ("subscribed", "dropped"):  # there are pushes missing before
                self._lose()
                self._gather(each.received_ns)
        self._say_goodbye()

    def _keep_pace(self, ns: int) -> None:
        if self._first is not None and self._speed is not None:
            then, began = self._first
            sleep(max(0.0, began + (ns - then) / 1e9 / self._speed - monotonic()))

    def _lose(self, close_code: int | None = None) -> None:
        """End the connections after what was pushed, if the recorded one had not ended already."""
        if self._is_up:
            self._wanted = self._subscribers()
            self._exchange.drop(clean=True, code=close_code)
            self._is_up = False

    def _gather(self, ns: int) -> None:
        """Wait for clients; what was recorded goes on at its pace from there."""
        self._exchange.wait_for(lambda: self._subscribers() >= self._wanted, PATIENCE)
        while not self._exchange.wait_for(self._subscribers, 0.5):
            pass
        self._first = ns, monotonic()
        self._is_up = True

    def _subscribers(self) -> int:
        return sum(each.subscribed for each in self._exchange.connections)

    def _say_goodbye(self) -> None:
        """End the connections once all is sent."""
        leaving = [each for each in self._exchange.connections if each.alive]
        self._exchange.drop(clean=True)
        self._exchange.wait_for(
            lambda: all(each.ended_at is not None for each in leaving), PATIENCE
        )


def _only_stream(
    path: str, stream: str | None, last: int | None, status: StatusLine
) -> tuple[str, int | None]:
    """Give the name of the stream, which is the only one if none is asked for, and its broker's."""
    names: set[str] = set()
    broker = None
    for each in _followed(read(path), last, status, "looking for streams: "):
        names.add(each.stream)
        if stream in (None, each.stream) and each.kind == "started" and broker is None:
            broker = each.values.get("broker")
        if stream is not None and stream in names:
            break
        if stream is None and len(names) > 1:
            one, other = sorted(names)
            raise ValueError(
                f"{path} has several streams, {one} and {other} among them: say which with --stream"
            )
    if not names or (stream is not None and stream not in names):
        raise ValueError(_nothing(path, stream, names))
    [name] = names if stream is None else [stream]
    return name, broker


def _nothing(path: str, stream: str | None, names: set[str]) -> str:
    if not names:
        return f"nothing is recorded in {path} yet"
    return f"there is no stream {stream!r} in {path}, but {', '.join(sorted(names))}"


# --- how far it has come ----------------------------------------------------------------------


def _followed(
    records: Iterable[Record], last_ns: int | None, status: StatusLine, what: str = ""
) -> Iterator[Record]:
    """Give the records, and show how far they have come of the time until the last."""
    if last_ns is None or not status.is_shown:
        yield from records
        return
    first_ns, due = None, 0.0
    for record in records:
        if first_ns is None:
            first_ns = record.received_ns
        now = monotonic()
        if now >= due:
            due = now + STATUS
            part = (record.received_ns - first_ns) / max(last_ns - first_ns, 1)
            at = datetime.fromtimestamp(record.received_ns / 1e9)
            status.show(f"{what}{min(max(part, 0), 1):.0%}, {at:%Y-%m-%d %H:%M:%S}")
        yield record


def _last_time(path: str) -> int | None:
    """When the last record came; None where none is found."""
    try:
        files = segments(Path(path)) if Path(path).is_dir() else [Path(path)]
        for file in reversed(files):
            last = None
            for record in read(file, on_error=lambda _: None):
                last = record.received_ns
            if last is not None:
                return last
    except (OSError, JournalError):  # which is told when it is replayed
        pass
    return None
