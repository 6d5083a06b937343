"""A market for `fastpos demo --live`: three positions, one near its liquidation, and what happens.

It is the same each time, step by step, so a test can play it with a clock of its own.
"""

from __future__ import annotations

from math import sin
from typing import Any

from ..account.state import STORED
from ..model.slots import view
from ..model.snapshot import Snapshot
from ..simulator import Exchange

__all__ = ["STEP", "Market", "snapshot_of"]

# How long a step takes, seconds; after so many the network drops the connection.
STEP, DROP_EVERY = 0.5, 40


def snapshot_of(exchange: Exchange) -> Snapshot:
    """Give the truth, as a stream takes it."""
    state = exchange.snapshot_state()
    for each in (*state["orders"].values(), *state["triggers"].values()):
        each["orderAction"] = "1"
    return Snapshot(
        **{
            name: [view(part.record, wire, float) for wire in state[name].values()]
            for name, part in STORED.items()
        }
    )


# Contract, side, contracts, entry, liquidation, leverage, ADL level; how the price moves: around
# what, how far, how fast.
_POSITIONS: tuple[tuple[str, str, int, float, float, int, int, float, float, float], ...] = (
    ("E-BTC-USDT", "BUY", 12, 98533.6, 68000.3, 20, 2, 98700.0, 420.0, 0.11),
    ("E-ETH-USDT", "SELL", 40, 3512.4, 3871.25, 10, 3, 3554.0, 38.0, 0.17),
    ("E-SOL-USDT", "BUY", 150, 182.35, 171.9, 50, 5, 175.4, 1.3, 0.23),
)
_SPREAD = 0.0002


class Market:
    """Plays a market on an exchange; on one thread.

    Args:
        exchange: the simulator.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._steps = 0
        self._ids: list[int] = []
        self._order = ""  # the one that is filled bit by bit
        self._trigger = ""

    def open(self) -> None:
        """Have what is there at the beginning."""
        exchange = self._exchange
        exchange.set_balance("USDT", available=98042.6, frozen=1957.4, isolated_margin=523.11)
        exchange.set_balance("BTC", available=0.4213, frozen=0, isolated_margin=0)
        for name, side, volume, entry, liquidation, leverage, adl, *_ in _POSITIONS:
            self._ids.append(
                exchange.open_position(
                    name,
                    side,
                    volume,
                    entry,
                    leverage=leverage,
                    liquidation_price=liquidation,
                    margin_mode="ISOLATED" if leverage > 20 else "CROSS",
                    margin_rate=round(1 / leverage, 4),
                    adl_level=adl,
                )
            )
        self._order = exchange.place_order(
            "E-BTC-USDT", "BUY", 12, 98250, take_profit=101000, stop_loss=96500
        )
        exchange.place_order("E-ETH-USDT", "BUY", 40, 3420.5, open_close="CLOSE")
        self._trigger = exchange.place_trigger("sell", 172.4, 172.1, 150)

    def step(self) -> None:
        """Let half a second pass."""
        self._steps += 1
        n, exchange = self._steps, self._exchange
        if n % 2:
            self._tick()
        if n % 8 == 4:
            self._fill()
        if n % 24 == 10:
            exchange.cancel_trigger(self._trigger)
            self._trigger = exchange.place_trigger("sell", 172.4 + n % 5 / 10, 172.1, 150)
        if n % 30 == 16:
            left = 40 - n % 7
            exchange.update_position(
                self._ids[1], volume=left, closable_volume=left, realized_pnl=n * 1.5
            )
        if n % DROP_EVERY == 0:
            # For some seconds nobody gets in.
            exchange.refuse_upgrade(503, times=4)
            exchange.drop()

    def _fill(self) -> None:
        exchange = self._exchange
        order = exchange.orders.get(self._order)
        if order is None:
            self._order = exchange.place_order(
                "E-BTC-USDT", "BUY", 12, 98250 + self._steps, take_profit=101000, stop_loss=96500
            )
        else:
            left = order["volume"] - order["dealVolume"]
            exchange.fill_order(self._order, min(left, 3))

    def _tick(self) -> None:
        """Tell what a second has changed, as the exchange does while a position is held."""
        ticks = []
        positions, before = self._exchange.positions, self._exchange.ticks
        for id, row in zip(self._ids, _POSITIONS, strict=True):
            *_, liquidation, leverage, _, middle, far, fast = row
            mark = round(middle + far * sin(self._steps * fast) + far / 3 * sin(self._steps), 2)
            rate = abs(mark - liquidation) / mark + 1 / leverage
            tick: dict[str, Any] = {
                **before[id],
                "id": id,
                "rp": positions[id]["rp"],
                "mr": round(rate, 6),
                "bo": round(mark * (1 - _SPREAD), 2),
                "so": round(mark * (1 + _SPREAD), 2),
                "lt": round(mark * (1 + _SPREAD / 3), 2),
                "tp": mark,
            }
            ticks.append(tick)
        self._exchange.push({"channel": "ADL_PRICE", "uid": self._exchange.uid, "l": ticks})
