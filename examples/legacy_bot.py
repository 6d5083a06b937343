"""A bot with a loop of its own, as it has been running for years, fed by a stream.

    export FASTPOS_URL=wss://futuresws.exchange1.com/position_order/ws FASTPOS_BROKER=1003
    export FASTPOS_API_KEY=...
    python examples/legacy_bot.py

The loop used to ask the REST interface for the positions every few seconds. Now it reads them from
the stream, and need not wait for its next round when something has happened. Ctrl-C ends it.

After a lost connection the positions may be out of date: nothing tells what happened meanwhile,
unless the stream is given a `snapshot`, as in stop_loss_guard.py.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from fastpos import FastposError, Order, Position, PositionStream

INTERVAL = float(os.environ.get("BOT_INTERVAL", "5"))  # seconds between two rounds, at most


class Bot:
    """The old part. It knows nothing of streams."""

    def __init__(self) -> None:
        self._held: dict[str, float] = {}

    def round(self, positions: Iterable[Position]) -> None:
        held: dict[str, float] = {}
        for position in positions:
            name = position.contract_name or f"contract of position {position.id}"
            volume = position.volume or 0
            held[name] = held.get(name, 0) + (-volume if position.side == "SELL" else volume)
        for name in sorted(held.keys() | self._held.keys()):
            if held.get(name, 0) != self._held.get(name, 0):
                print(f"{name}: {held.get(name, 0):+.12g} contracts", flush=True)
        self._held = held


def main() -> None:
    bot = Bot()
    something_happened = threading.Event()
    stream = PositionStream(
        os.environ["FASTPOS_URL"],
        api_key=os.environ["FASTPOS_API_KEY"],
        broker=int(os.environ["FASTPOS_BROKER"]),
    )

    @stream.on_position
    @stream.on_order
    def wake(event: Position | Order) -> None:
        something_happened.set()

    with stream:
        while not stream.join(0):  # raises what has ended the stream for good, like a wrong key
            something_happened.wait(INTERVAL)
            something_happened.clear()
            positions = stream.positions.values()
            if not stream.wait_ready(0):
                print("not connected: no decision on old data", flush=True)
            elif any(position.stale for position in positions):
                print("something may have been missed: have a look at the exchange", flush=True)
            else:
                bot.round(positions)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except FastposError as error:
        raise SystemExit(f"the stream has ended: {error}") from None
