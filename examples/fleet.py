"""Many accounts in one program, on two threads: `python examples/fleet.py URL BROKER KEYS`.

Each line of the file KEYS is a name and an API key. Every position, order and connection of
every account is printed with the account's name; Ctrl-C unsubscribes all of them and ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fastpos import Disconnect, Fleet, Order, Position, PositionStream


class Account(PositionStream):
    """Methods named on_… are callbacks; `stream` of an event is the account's name."""

    def on_position(self, position: Position) -> None:  # type: ignore[override]
        pnl = position.realized_pnl
        print(position.stream, position.change, position.id, position.volume, pnl, flush=True)

    def on_order(self, order: Order) -> None:  # type: ignore[override]
        print(order.stream, order.action, order.order_id, order.price, flush=True)

    def on_disconnect(self, event: Disconnect) -> None:  # type: ignore[override]
        print(event.stream, event.reason, event.retry_in_s, flush=True)


def main(url: str, broker: str, keys: str) -> None:
    fleet = Fleet(connect_rate=20)  # connections a second, at most
    for line in Path(keys).read_text().splitlines():
        name, key = line.split()
        fleet.add(Account(url, api_key=key, broker=int(broker), name=name))
    print(len(fleet.streams), "accounts", flush=True)
    try:
        fleet.run_forever()
    except KeyboardInterrupt:
        print(fleet.stats)


if __name__ == "__main__":
    main(*sys.argv[1:])
