"""An event as a line that a person can read, for the command line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..errors import FastposError
from ..model.events import (
    AccountUpdate,
    AdlPrice,
    Disconnect,
    Order,
    Position,
    Ready,
    SystemClose,
    Trigger,
    Unknown,
)

__all__ = ["line"]


def line(event: Any) -> str:
    """Give `event` as one line, with the time of day first."""
    now = datetime.now().strftime("%H:%M:%S.%f")[:-3]
    describe = _DESCRIPTIONS.get(type(event), repr)
    kind = "error" if isinstance(event, FastposError) else type(event).__name__
    text = f"{type(event).__name__}: {event}" if kind == "error" else describe(event)
    # What an exchange says must not move the cursor.
    plain = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return f"{now}  {kind:<13}  {plain}"


def _position(event: Position) -> str:
    parts = [
        str(event.change),
        f"{event.id}",
        _known(event.contract_name),
        _known(event.side),
        f"volume {_known(event.volume)}",
        f"entry {_known(event.open_price)}",
        f"liquidation {_known(event.liquidation_price)}",
    ]
    if event.changed and event.change == "UPDATE":
        parts.append(f"changed: {', '.join(sorted(event.changed))}")
    if not event.complete:
        parts.append("(not all is known of it)")
    return "  ".join(parts)


def _order(event: Order) -> str:
    return (
        f"{event.action}  {event.order_id}  {_known(event.contract_name)}  {_known(event.side)}  "
        f"{_known(event.filled_volume)}/{_known(event.volume)} filled  at {_known(event.price)}"
    )


def _trigger(event: Trigger) -> str:
    return (
        f"{event.action}  {event.trigger_order_id}  {_known(event.side)}  "
        f"{_known(event.volume)} at {_known(event.price)} when {_known(event.trigger_price)}"
    )


def _account(event: AccountUpdate) -> str:
    return "  ".join(
        f"{coin}: {_known(balance.available)} available, {_known(balance.frozen)} frozen, "
        f"{_known(balance.isolated_margin)} isolated"
        for coin, balance in event.balances.items()
    )


def _adl_price(event: AdlPrice) -> str:
    return "  ".join(
        f"{tick.id}: mark {_known(tick.mark_price)}, margin rate {_known(tick.margin_rate)}, "
        f"ADL level {_known(tick.adl_level)}"
        for tick in event.ticks
    )


def _ready(event: Ready) -> str:
    if event.gap_s is None:
        return "subscribed"
    return f"subscribed again after {event.gap_s:.2f} s, attempt {event.attempts}"


def _disconnect(event: Disconnect) -> str:
    if event.retry_in_s is None:
        return f"{event.reason}; no further attempt"
    return f"{event.reason}; next attempt in {event.retry_in_s:.2f} s"


def _system_close(event: SystemClose) -> str:
    return "the exchange is about to close"


def _unknown(event: Unknown) -> str:
    return str(event.raw)


def _known(value: object) -> str:
    return "?" if value is None else str(value)


_DESCRIPTIONS: dict[type, Callable[[Any], str]] = {
    Position: _position,
    Order: _order,
    Trigger: _trigger,
    AccountUpdate: _account,
    AdlPrice: _adl_price,
    Ready: _ready,
    Disconnect: _disconnect,
    SystemClose: _system_close,
    Unknown: _unknown,
}
