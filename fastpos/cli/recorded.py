"""``fastpos record`` and ``fastpos replay``: a stream's own record, kept and shown again."""

from __future__ import annotations

import gzip
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..clock import monotonic
from ..errors import FastposError
from ..journal import Journal, Record, read
from ..journal.replay import Players
from ..model.events import Event
from ..runtime.callbacks import CALLBACK_NAMES
from ..stream import PositionStream
from .lines import line

if TYPE_CHECKING:
    from ..simulator import Exchange

__all__ = ["record", "replay_to", "serve_day"]

# How often the status line is made anew, seconds.
STATUS = 0.5


def record(stream: PositionStream, journal: Journal) -> None:
    """Follow an exchange and write down what comes, until Ctrl-C.

    On a terminal a line says how it goes; elsewhere the end says it, and errors are printed.
    """
    ended = threading.Event()
    status = threading.Thread(target=_show_status, args=(stream, journal, ended))
    began = monotonic()

    @stream.on_error
    def note(error: FastposError) -> None:
        print(f"\r{line(error)}", file=sys.stderr, flush=True)

    if sys.stderr.isatty():
        status.start()
    try:
        stream.run_forever()
    finally:
        ended.set()
        if status.is_alive():
            status.join()
            print(file=sys.stderr)
        print(f"{_status(stream, journal)}, in {monotonic() - began:.0f} s")


def _show_status(stream: PositionStream, journal: Journal, ended: threading.Event) -> None:
    while not ended.wait(STATUS):
        # The last characters of a longer line before are blanked.
        print(f"\r{_status(stream, journal):<78}", end="", file=sys.stderr, flush=True)


def _status(stream: PositionStream, journal: Journal) -> str:
    stats = stream.stats
    size = sum(path.stat().st_size for path in _files(journal.folder))
    state = f"{stats.subscriptions} subscriptions" if stats.subscriptions else "not subscribed yet"
    return f"{stats.messages:,} messages, {size:,} bytes in {journal.folder}, {state}"


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("*Z.jsonl*")


def replay_to(
    show: Callable[[str], object], path: str, stream: str | None, speed: float | None
) -> None:
    """Show what the functions of the recorded streams were called with, with the recorded times.

    Args:
        show: takes the lines.
        path: the journal.
        stream: only of this one; None: of all, each line with the name first.
        speed: see `fastpos.journal.replay`.
    """

    def new_stream(name: str, number: type) -> PositionStream:
        made = PositionStream("ws://127.0.0.1:9/", api_key="replay", broker=0, name=name)

        def note(event: Event | FastposError) -> None:
            text = line(event, getattr(event, "received_ns", None))
            show(text if stream is not None else f"{name}  {text}")

        for callback in CALLBACK_NAMES:
            getattr(made, callback)(note)
        return made

    players = Players(new_stream, speed)
    players.play(read(path, stream=stream))
    if not players.streams:
        raise ValueError(f"there is nothing of a stream {stream!r} in {path}")


def serve_day(
    show: Callable[[str], object], path: str, stream: str | None, speed: float | None, port: int
) -> None:
    """Have the simulator play a recorded day to whoever subscribes, from the first on.

    Where the recorded connection was lost, the client's is; what is pushed while nobody is
    subscribed is missed, as it was then.
    """
    from ..simulator import Exchange  # noqa: PLC0415 -- needs the extra

    day = _one_stream(read(path, stream=stream))
    with Exchange(port=port) as exchange:
        show(f"url      {exchange.url}")
        show(f"broker   {exchange.broker}")
        show(f"api key  {exchange.api_key}")
        show(f"token    {exchange.token}")
        show("The day begins when somebody subscribes.")
        while not exchange.wait_for_subscribers(1, timeout=0.5):
            pass
        began, first = monotonic(), None
        pushed = 0
        for each in day:
            if first is None:
                first = each.received_ns
            if speed is not None:
                ahead = began + (each.received_ns - first) / 1e9 / speed - monotonic()
                if ahead > 0:
                    time.sleep(ahead)
            pushed += _play(exchange, each)
        show(f"The day has ended: {pushed} pushes.")


def _play(exchange: Exchange, each: Record) -> bool:
    """Do what one record tells; whether it was a push."""
    if each.kind == "push":
        exchange.push_bytes(gzip.compress(each.text, 1))
        return True
    if each.kind == "undecodable":
        exchange.push_bytes(b64decode(each.values["base64"]))
    elif each.kind == "disconnected" and each.values["reason"] != "stopped":
        exchange.drop()
        exchange.wait_for_subscribers(1, timeout=5.0)
    return False


def _one_stream(records: Iterable[Record]) -> Iterator[Record]:
    name = None
    for each in records:
        if name not in (None, each.stream):
            raise ValueError(
                f"the journal has several streams, {name} and {each.stream} among them: "
                "say which with --stream"
            )
        name = each.stream
        yield each
