"""A unit test of a bot from a recorded day: `pytest examples/replay_test.py`.

A stream with ``journal="recorded_day"`` has written the folder beside this file: the day that
`fastpos demo` plays, with a connection that is lost in the middle.
"""

from __future__ import annotations

from pathlib import Path

from fastpos import Position
from fastpos.journal import replay

DAY = Path(__file__).parent / "recorded_day"


class Mirror:
    """The bot: it holds in another account half of what this one holds."""

    def __init__(self) -> None:
        self.trades: list[float] = []
        self.held = 0.0
        self.to_check = 0  # what it did while something may have been missed

    def on_position(self, position: Position) -> None:
        wanted = 0.0 if position.change == "DELETE" else (position.volume or 0.0) / 2
        if wanted != self.held:
            self.trades.append(wanted - self.held)
            self.held = wanted
            self.to_check += position.stale


def test_it_follows_the_position_to_its_end() -> None:
    bot = Mirror()
    day = replay(DAY, on_position=bot.on_position)
    assert bot.trades == [2.5, 3.5, -4.0, -2.0]
    assert bot.held == 0
    assert not day.positions


def test_what_it_does_after_a_gap_is_to_be_checked() -> None:
    bot = Mirror()
    day = replay(DAY, on_position=bot.on_position)
    assert bot.to_check == 2
    assert day.stats.subscriptions == 3
