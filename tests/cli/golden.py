"""What `fastpos watch` shows of the demo's market, with a clock of its own, as files.

    python -m tests.cli.golden

writes anew what tests/cli/test_watch.py compares (tests/cli/captures), and the picture of README.md
(docs/images/watch.svg). Look at both before you commit them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console

from fastpos import PositionStream
from fastpos.cli.live.known import Known, Notes, look
from fastpos.cli.live.paint import Brush
from fastpos.cli.live.screen import screen
from fastpos.cli.market import Market
from fastpos.journal.reader import Record
from fastpos.journal.replay import Players
from fastpos.simulator import Exchange

ROOT = Path(__file__).parent.parent.parent
CAPTURES = Path(__file__).parent / "captures"
PICTURE = ROOT / "docs" / "images" / "watch.svg"

BEGAN = 1_797_508_800 * 1_000_000_000  # a Thursday at noon, UTC
SECOND = 1_000_000_000
TITLE = "demo ws://127.0.0.1:8080 broker=1003"
# Steps of half a second that are played; in the last of them one position is near liquidation.
STEPS = 23


class Scripted(Exchange):
    """An exchange that nobody connects to: what it pushes is kept, at times of a fixed clock."""

    def __init__(self) -> None:
        self.now_ns = BEGAN
        self.pushed: list[Record] = []
        super().__init__()

    def now_ms(self) -> int:
        return self.now_ns // 1_000_000

    def push(self, message: Any) -> int:
        self.note("push", json.dumps(message).encode())
        return 1

    def note(self, kind: str, text: bytes = b"", **values: Any) -> None:
        self.pushed.append(Record(self.now_ns, "demo", 1, kind, text, values))


def played(crowd: int = 0, is_lost: bool = False) -> Known:
    """Play the market, and give what is known in the end.

    Args:
        crowd: so many more positions and orders.
        is_lost: whether the connection is, at last.
    """
    exchange = Scripted()
    exchange.note("started", book=None, broker=1003)
    exchange.note("connected")
    exchange.note("subscribed", first=True, gap_s=None, attempts=1)
    exchange.now_ns += SECOND // 4
    market = Market(exchange)
    market.open()
    for number in range(crowd):
        exchange.open_position(f"E-NR{number}-USDT", "SELL" if number % 2 else "BUY", 3, 100)
        exchange.place_order(f"E-NR{number}-USDT", "BUY", 10 + number, 90)
    for _ in range(STEPS):
        exchange.now_ns += SECOND // 2
        market.step()
    if is_lost:
        exchange.now_ns += SECOND // 5
        reset = "the connection was lost: [Errno 104] Connection reset by peer"
        refused = "ws://127.0.0.1:8080: the upgrade is refused: HTTP 503"
        for reason, retry_in_s in ((reset, 0.31), (refused, 0.87), (refused, 2.9)):
            exchange.note(
                "disconnected", reason=reason, close_code=None, error=None, retry_in_s=retry_in_s
            )
            exchange.now_ns += int(retry_in_s * SECOND)
    return _known(exchange.pushed)


def _known(records: list[Record]) -> Known:
    notes = Notes(BEGAN - SECOND)

    def new_stream(name: str, number: type) -> PositionStream:
        stream = PositionStream("ws://127.0.0.1:9/", api_key="replay", broker=0, name=name)
        notes.follow(stream)
        return stream

    players = Players(new_stream)
    players.play(records)
    stream = players.streams["demo"] if players.streams else new_stream("demo", float)
    known = look(stream, notes, TITLE)
    last = known.stats.last_message_ns
    return replace(
        known,
        stats=known.stats._replace(
            round_trip_s=None if last is None else 0.0123,
            last_ping_ns=last,
            last_pong_ns=last,
            bytes_received=213 * known.stats.messages,
        ),
    )


SHOTS = {
    "three-80x24": (partial(played), 80, 24, False),
    "three-200x50": (partial(played), 200, 50, False),
    "lost-80x24": (partial(played, is_lost=True), 80, 24, False),
    "lost-200x50": (partial(played, is_lost=True), 200, 50, False),
    "ascii-80x24": (partial(played), 80, 24, True),
    "crowded-80x24": (partial(played, crowd=9), 80, 24, False),
    "small-40x12": (partial(played), 40, 12, False),
    "connecting-80x24": (partial(_known, []), 80, 24, False),
}
"""By the name of its file: what is known, columns and lines, and whether there is only ASCII."""


def capture(name: str) -> str:
    """Give one of them as it looks now."""
    known, width, height, is_ascii = SHOTS[name]
    return plain(known(), width, height, Brush(is_ascii))


def plain(known: Known, width: int, height: int, brush: Brush) -> str:
    """Give what is shown without colours, a line each with its end in sight."""
    console = Console(file=StringIO(), width=width, height=height, color_system=None)
    with console.capture() as capture, in_utc():
        console.print(screen(known, _now(known), width, height, brush), end="")
    lines = capture.get().split("\n")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def picture() -> str:
    """Give the picture of README.md."""
    width, height = 100, 31
    console = Console(
        file=StringIO(), width=width, height=height, record=True, force_terminal=True,
        color_system="truecolor",
    )  # fmt: skip
    known = played()
    with in_utc():
        console.print(screen(known, _now(known), width, height, Brush()))
    return console.export_svg(title="fastpos demo --live", unique_id="fastpos-watch")


def _now(known: Known) -> int:
    """A moment after the last thing that was known."""
    last = [known.link.since_ns, known.stats.last_message_ns or 0]
    last += [note.at_ns for note in known.notes]
    return max(last) + SECOND * 6 // 10


@contextmanager
def in_utc() -> Iterator[None]:
    """Show times as they are in UTC, meanwhile."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()


def main() -> None:
    """Write them."""
    CAPTURES.mkdir(exist_ok=True)
    for name in SHOTS:
        (CAPTURES / f"{name}.txt").write_text(capture(name), encoding="utf-8")
        print(f"wrote {CAPTURES / name}.txt")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
