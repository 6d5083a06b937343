"""Limits for many accounts, on another machine: `python examples/risk_service.py URL LIMITS`.

URL is that of the Redis that the accounts are published to. Each line of the file LIMITS is an
account's name, the largest volume that one of its positions may have, and the most that all of them
may have lost. An alarm is printed when a limit is passed, and when it no longer is.

Run it twice, on two machines: they are one group, so the second goes on when the first is gone, and
from where it stopped. What had been told but not acknowledged by then is told again, so an alarm
may be printed twice.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from fastpos import Disconnect, FastposError, Position, Ready, Stale
from fastpos.redis import RemoteStream


class Watch(RemoteStream):
    """Watches one account; methods named on_… are callbacks, on a thread of the stream's own."""

    def __init__(self, url: str, name: str, volume: float, loss: float) -> None:
        super().__init__(url, name, group="risk")
        self._limits = volume, loss
        self._ringing: set[str] = set()

    def on_ready(self, event: Ready) -> None:  # type: ignore[override]
        self._ring(set())  # of what is open already, too

    def on_position(self, position: Position) -> None:  # type: ignore[override]
        self._ring(set())

    def on_stale(self, event: Stale) -> None:  # type: ignore[override]
        self._ring({f"is not watched: {event.reason}"})

    def on_disconnect(self, event: Disconnect) -> None:  # type: ignore[override]
        if event.reason != "stopped":
            self._ring({f"is not watched: {event.reason}"})

    def on_error(self, error: FastposError) -> None:  # type: ignore[override]
        print(self.name, "error:", error, file=sys.stderr, flush=True)

    def _ring(self, alarms: set[str]) -> None:
        """Print what has changed: these are the alarms, and those that the positions give."""
        volume, loss = self._limits
        positions = self.positions.values()
        for position in positions:
            if (position.volume or 0) > volume:
                alarms.add(f"position {position.id} is over {volume:g}")
        if -sum(position.realized_pnl or 0 for position in positions) > loss:
            alarms.add(f"has lost over {loss:g}")
        for alarm in sorted(alarms - self._ringing):
            self._say("ALARM", alarm)
        for alarm in sorted(self._ringing - alarms):
            self._say("fine", alarm)
        self._ringing = alarms

    def _say(self, what: str, alarm: str) -> None:
        # In one piece, as each account has a thread.
        print(f"{what} {self.name} {alarm}\n", end="", flush=True)


def main(url: str, limits: str) -> None:
    watches = []
    for line in Path(limits).read_text().splitlines():
        name, volume, loss = line.split()
        watches.append(Watch(url, name, float(volume), float(loss)))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    for watch in watches:
        watch.start()
    print(len(watches), "accounts", flush=True)
    while not ended.wait(1.0):
        for watch in watches:
            watch.join(0)  # raises what has ended it for good: a refused password, for instance
    for watch in watches:
        watch.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
