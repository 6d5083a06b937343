"""Several bots on one stream: one connection, and none of them can hold up the others.

    export FASTPOS_URL=wss://futuresws.exchange1.com/position_order/ws FASTPOS_BROKER=1003
    export FASTPOS_API_KEY=...
    python examples/several_bots.py

Each bot has a thread and a queue of its own. One that is slow is late and nobody else is; one that
raises is told of, and goes on with its next event. Ctrl-C ends them all.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback

from fastpos import AdlPrice, FastposError, Order, Position, PositionStream


class Bot(threading.Thread):
    """Is given events by `put`, which never waits, and deals with them in order."""

    def __init__(self) -> None:
        super().__init__(name=type(self).__name__, daemon=True)
        self._events: queue.SimpleQueue[Position | Order | AdlPrice | None] = queue.SimpleQueue()
        self.put = self._events.put

    def follow(self, stream: PositionStream) -> None:
        """Register for what this bot wants."""
        raise NotImplementedError

    def handle(self, event: Position | Order | AdlPrice) -> None:
        raise NotImplementedError

    def run(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self.handle(event)
            except Exception:
                self.say(f"has failed with {type(event).__name__}")
                traceback.print_exc()

    def say(self, text: str) -> None:
        print(f"{self.name}: {text}\n", end="", flush=True)  # in one piece, as others print too


class Fills(Bot):
    """Adds up what is filled."""

    def __init__(self) -> None:
        super().__init__()
        self._filled: dict[str, float] = {}

    def follow(self, stream: PositionStream) -> None:
        stream.on_order(self.put)

    def handle(self, event: Position | Order | AdlPrice) -> None:
        assert isinstance(event, Order)
        filled = event.filled_volume or 0
        if event.order_id is not None and filled > self._filled.get(event.order_id, 0):
            self._filled[event.order_id] = filled
            self.say(
                f"{event.contract_name} {filled:.12g} of {event.volume:.12g} at {event.avg_price}"
            )


class Exposure(Bot):
    """Knows how much is held in each contract."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int | None, tuple[str | None, float]] = {}

    def follow(self, stream: PositionStream) -> None:
        stream.on_position(self.put)

    def handle(self, event: Position | Order | AdlPrice) -> None:
        assert isinstance(event, Position)
        if event.change == "DELETE":
            self._held.pop(event.id, None)
        else:
            volume = event.volume or 0
            self._held[event.id] = event.contract_name, -volume if event.side == "SELL" else volume
        total = sum(volume for name, volume in self._held.values() if name == event.contract_name)
        self.say(f"{event.contract_name} {total:+.12g}")


class Liquidation(Bot):
    """Says which position has come near its liquidation price."""

    def __init__(self, percent: float) -> None:
        super().__init__()
        self._percent = percent
        self._near: set[int | None] = set()

    def follow(self, stream: PositionStream) -> None:
        stream.on_adl_price(self.put)

    def handle(self, event: Position | Order | AdlPrice) -> None:
        assert isinstance(event, AdlPrice)
        near = set()
        for tick in event.ticks:
            if tick.mark_price and tick.liquidation_price:
                away = abs(tick.mark_price - tick.liquidation_price) / tick.mark_price * 100
                if away < self._percent:
                    near.add(tick.id)
                    if tick.id not in self._near:
                        self.say(f"position {tick.id} is {away:.1f} % away")
        self._near = near


def main() -> None:
    stream = PositionStream(
        os.environ["FASTPOS_URL"],
        api_key=os.environ["FASTPOS_API_KEY"],
        broker=int(os.environ["FASTPOS_BROKER"]),
    )
    bots = [Fills(), Exposure(), Liquidation(float(os.environ.get("BOT_NEAR_PERCENT", "10")))]
    for bot in bots:
        bot.follow(stream)
        bot.start()
    try:
        stream.run_forever()
    finally:
        for bot in bots:
            bot.put(None)  # after what waits
        for bot in bots:
            bot.join(5)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except FastposError as error:
        raise SystemExit(f"the stream has ended: {error}") from None
