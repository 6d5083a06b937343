"""The events: what the exchange says, in names a trader knows.

Each class is a table: attribute, key on the wire, translation (see fields.py). Numbers are
`float`, or `decimal.Decimal` where the stream or `decode` was told ``number=Decimal``. An
attribute that the wire left out is None, and a value that the protocol does not document is
passed on as it came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from .fields import (
    Record,
    attached,
    beside,
    by_identity,
    choice,
    derived,
    differing,
    flag,
    integer,
    listed,
    number,
    own,
    shown,
    side,
    text,
    told,
)
from .slots import EventSlots, PositionSlots

# A float, or a Decimal where that was asked for: written so that an editor completes a float and
# a type checker accepts arithmetic with either.
Number: TypeAlias = float | Any

CHANGES = {name: name for name in ("CREATE", "UPDATE", "DELETE", "DEFAULT")}
ACTIONS = {"1": "NEW", "2": "CANCEL", "3": "CHANGE"}
# Types of an order that never rests: market, immediate or cancel, fill or kill.
IMMEDIATE = (2, 3, 4)
_MARGIN_MODES = {"1": "CROSS", "2": "ISOLATED"}


# --- attributes that take more than one key, used in the tables below ------------------------


def _changed(position: Position) -> frozenset[str]:
    if getattr(position, "_change", None) == "DELETE":
        return frozenset()
    return differing(position, getattr(position, "_before", None) or {}) - _ID


_ID = frozenset(("id",))


# --- the tables ---------------------------------------------------------------------------------


class Event(EventSlots, Record):
    """Something the exchange pushed."""

    __slots__ = ()

    received_ns: int = own("_received_ns", default=0, compared=False)
    """When the bytes of the push were read: `time.time_ns()`, nanoseconds since the epoch."""
    stream: str | None = own("_stream", compared=False)
    """The name of the stream that it came by; None from `fastpos.decode`."""


class Position(PositionSlots, Event):
    """A position as it stands after a push: everything that is known of it, merged.

    From ``d.p`` of the channel ACCOUNT_UPDATE and from the ticks of ADL_PRICE.
    """

    __slots__ = ("_missing", "_source", "_stale", "_stale_fields")
    _identity: ClassVar[str | None] = "id"

    change: str | None = own("_change")
    """What the push did: "CREATE", "UPDATE" or "DELETE". A DELETE shows the last known state."""
    complete: bool = own("_complete", default=False)
    """False while the position's CREATE has not been seen: only parts of it are known."""
    changed: frozenset[str] = derived(_changed)
    """Names of the attributes whose values this event changed."""
    source: str = own("_source", default="STREAM")
    """"STREAM" for what was pushed, "SNAPSHOT" for what a snapshot told."""
    stale: bool = own("_stale", default=False)
    """True from a gap until a snapshot: what is shown may be out of date."""
    stale_fields: frozenset[str] = own("_stale_fields", default=frozenset())
    """Names of the attributes for which that is so; pushes and ticks confirm some."""
    missing_from_ticks: bool = own("_missing", default=False)
    """True when three ticks in a row did not list the position: it may be closed."""
    uid: int | None = beside("uid")
    """The user's id."""
    time_ms: int | None = beside("t")
    """The exchange's time of the push, milliseconds since the epoch. None from a tick."""

    id: int | None = integer("id")
    """Position id."""
    contract_id: int | None = integer("cid")
    """Contract id."""
    contract_name: str | None = text("cn")
    """Contract name, like "E-BTC-USDT" ("E-" perpetual, "S-" simulated)."""
    contract_alias: str | None = text("con")
    """Contract alias."""
    margin_mode: str | None = choice("pt", _MARGIN_MODES)
    """"CROSS" or "ISOLATED"."""
    leverage: int | None = integer("l")
    """Leverage, times."""
    volume: Number | None = number("pv")
    """Position volume, in contracts."""
    open_price: Number | None = number("op")
    """Average entry price."""
    liquidation_price: Number | None = number("rp")
    """Estimated liquidation price."""
    isolated_margin: Number | None = number("hm")
    """Isolated margin held."""
    realized_pnl: Number | None = number("ra")
    """Realized profit and loss."""
    side: str | None = side("s")
    """"BUY" long, "SELL" short."""
    margin_rate: Number | None = number("mr")
    """Margin rate, a fraction."""
    open_margin: Number | None = number("oa")
    """Opening margin."""
    closable_volume: Number | None = number("ccv")
    """Volume that can be closed, in contracts."""
    adl_level: int | None = integer("al")
    """Auto-deleveraging level, from ticks."""
    margin: Number | None = number("ha")
    """Margin, from ticks."""
    best_bid: Number | None = number("bo")
    """Best bid price, from ticks."""
    best_ask: Number | None = number("so")
    """Best ask price, from ticks."""
    last_price: Number | None = number("lt")
    """Last traded price, from ticks."""
    mark_price: Number | None = number("tp")
    """Mark price, from ticks."""


class Balance(Record):
    """One coin's balance, from ``d.a`` of the channel ACCOUNT_UPDATE."""

    __slots__ = ("_stale",)
    _identity: ClassVar[str | None] = "coin"

    coin: str | None = text("c")
    """The coin, like "USDT"."""
    available: Number | None = number("an")
    """Available account balance, in units of the coin."""
    frozen: Number | None = number("la")
    """Frozen (locked) balance, in units of the coin."""
    isolated_margin: Number | None = number("pn")
    """Balance held as isolated margin, in units of the coin."""
    stale: bool = own("_stale", default=False)
    """True from a gap until a snapshot or a push: it may be out of date."""


class AccountUpdate(Event):
    """A position or a balance changed (channel ACCOUNT_UPDATE)."""

    __slots__ = ()

    uid: int | None = beside("uid")
    """The user's id."""
    time_ms: int | None = beside("t")
    """The exchange's time of the push, milliseconds since the epoch."""
    event_type: str | None = choice("et", CHANGES)
    """"CREATE", "UPDATE", "DELETE" (of a position), or "DEFAULT": only balances changed."""
    balances: dict[str, Balance] = by_identity(Balance, "a")
    """The balances in this push, by coin."""
    position: Position | None = told(Position, "p", "et", CHANGES)
    """The position in this push, or None. From a stream it is merged with all that was known;
    from `fastpos.decode` it is as the wire gave it."""


class AdlTick(Record):
    """One position's risk figures in an `AdlPrice`, from ``l`` of the channel ADL_PRICE."""

    __slots__ = ()
    _identity: ClassVar[str | None] = "id"

    id: int | None = integer("id")
    """Position id."""
    adl_level: int | None = integer("al")
    """Auto-deleveraging level."""
    liquidation_price: Number | None = number("rp")
    """Estimated liquidation price."""
    margin: Number | None = number("ha")
    """Margin."""
    margin_rate: Number | None = number("mr")
    """Margin rate, a fraction."""
    best_bid: Number | None = number("bo")
    """Best bid price."""
    best_ask: Number | None = number("so")
    """Best ask price."""
    last_price: Number | None = number("lt")
    """Last traded price."""
    mark_price: Number | None = number("tp")
    """Mark price."""


class AdlPrice(Event):
    """The risk tick, once a second while a position is held (channel ADL_PRICE)."""

    __slots__ = ()

    uid: int | None = integer("uid")
    """The user's id."""
    ticks: tuple[AdlTick, ...] = listed(AdlTick, "l")
    """One for each position held."""


class AttachedOrder(Record):
    """A take profit or a stop loss that is attached to an order, from its ``otoOrder``."""

    __slots__ = ()
    _identity: ClassVar[str | None] = "trigger_order_id"

    active: bool | None = flag("Status")
    """Whether it is switched on."""
    trigger_price: Number | None = number("Trigger")
    """The price that triggers it."""
    price: Number | None = number("Price")
    """The price it is then placed at; 0 at market."""
    trigger_order_id: str | None = text("TriggerId")
    """The id of its trigger order, once there is one."""


class Order(Event):
    """A normal order was placed, cancelled or changed (channel order)."""

    __slots__ = ("_stale",)
    _identity: ClassVar[str | None] = "order_id"

    order_id: str | None = text("orderId")
    """Order id, a string of digits (it does not fit a double)."""
    contract_id: int | None = integer("contractId")
    """Contract id."""
    contract_name: str | None = text("contractName")
    """Contract name, like "E-BTC-USDT"."""
    symbol: str | None = text("symbol")
    """Symbol, like "BTC-USDT"."""
    side: str | None = side("side", "contractSide")
    """"BUY" or "SELL". Where the exchange does not say, what it says of the contract's side, whose
    values are not documented."""
    contract_side: str | None = text("contractSide")
    """The contract's side as the exchange says it; its values are not documented."""
    open_close: str | None = text("open")
    """"OPEN" or "CLOSE": what the order does to a position. Not all deployments say."""
    type: int | None = integer("type")
    """Order type: 1 limit, 2 market, 3 immediate or cancel, 4 fill or kill, 5 post only."""
    price: Number | None = number("price")
    """Limit price."""
    price_precision: int | None = integer("pricePrecision")
    """Number of decimals of a price."""
    volume: Number | None = number("volume")
    """Ordered volume, in contracts; of a market order that opens it may be money."""
    filled_volume: Number | None = number("dealVolume")
    """Volume filled so far, in contracts."""
    avg_price: Number | None = number("avgPrice")
    """Average fill price."""
    trade_fee: Number | None = number("tradeFee")
    """The order's fee. Not all deployments say."""
    realized_pnl: Number | None = number("realizedAmount")
    """The order's realized profit and loss. Not all deployments say."""
    take_profit: AttachedOrder | None = attached(AttachedOrder, "otoOrder", "takerProfit")
    """The attached take profit, None where the order has none."""
    stop_loss: AttachedOrder | None = attached(AttachedOrder, "otoOrder", "stopLoss")
    """The attached stop loss, None where the order has none."""
    action: str | None = choice("orderAction", ACTIONS)
    """"NEW", "CANCEL" or "CHANGE" (a partial or full fill among them)."""
    stale: bool = own("_stale", default=False)
    """In `stream.orders`, True from a gap until it is heard of again."""

    @property
    def remaining(self) -> Number | None:
        """Volume not filled yet. None where that is not known, and of an order that never rests:
        the volume of a market order may be money."""
        if self.type in IMMEDIATE:
            return None
        try:
            return self.volume - self.filled_volume  # type: ignore[operator]
        except TypeError:
            return None


class Trigger(Event):
    """A trigger (conditional) order was placed or cancelled (channel trigOrder)."""

    __slots__ = ("_stale",)
    _identity: ClassVar[str | None] = "trigger_order_id"

    trigger_order_id: str | None = text("triggerOrderId")
    """Trigger order id, a string of digits."""
    type: int | None = integer("type")
    """Order type, the exchange's code."""
    side: str | None = side("side")
    """"BUY" or "SELL"."""
    trigger_price: Number | None = number("triggerPrice")
    """The price that triggers it."""
    price: Number | None = number("price")
    """The price of the order it then places."""
    volume: Number | None = number("volume")
    """Its volume, in contracts."""
    trigger_type: int | None = integer("triggerType")
    """What kind of trigger it is, the exchange's code."""
    created_ms: int | None = integer("ctime")
    """When it was placed, milliseconds since the epoch."""
    expires_ms: int | None = integer("expireTime")
    """When it expires, milliseconds since the epoch."""
    action: str | None = choice("orderAction", ACTIONS)
    """"NEW" or "CANCEL"."""
    stale: bool = own("_stale", default=False)
    """In `stream.triggers`, True from a gap until it is heard of again."""


class SystemClose(Event):
    """The exchange says that it is about to close (channel SYSTEM)."""

    __slots__ = ()

    uid: int | None = integer("uid")
    """The user's id."""


class Unknown(Event):
    """A push on a channel that is not documented; what it says is in `raw`."""

    __slots__ = ()

    raw: dict[str, Any] = shown(compared=True)
    """The JSON object as the wire gave it: compared and shown, as there is nothing else."""


class Ready(Event):
    """The stream is subscribed, by ``sub success`` of the exchange: pushes come from now on."""

    __slots__ = ("_attempts", "_first", "_gap_s")

    first: bool = own("_first", default=False)
    """True the first time, False after each reconnect or resumption."""
    gap_s: float | None = own("_gap_s")
    """Seconds since the stream was last subscribed: what happened in them was not pushed. None
    the first time."""
    attempts: int = own("_attempts", default=0)
    """How many connections were tried to get here."""


class Synced(Event):
    """A snapshot was merged: what the stream shows is the account's state again."""

    __slots__ = ("_created", "_deleted", "_gap_s", "_updated")

    gap_s: float | None = own("_gap_s")
    """Seconds in which pushes were missed. None the first time."""
    created: int = own("_created", default=0)
    """How many positions were found that were not known."""
    updated: int = own("_updated", default=0)
    """How many were found to be different."""
    deleted: int = own("_deleted", default=0)
    """How many were found to be closed."""


class Stale(Event):
    """There is silence that should not be: what the stream shows may be out of date."""

    __slots__ = ("_reason", "_silent_s")

    reason: str = own("_reason", default="")
    """What is missed, for a person."""
    silent_s: float | None = own("_silent_s")
    """For how long it has been, seconds."""


class Disconnect(Event):
    """The connection ended, or could not be made."""

    __slots__ = ("_close_code", "_error", "_reason", "_retry_in_s")

    reason: str = own("_reason", default="")
    """What happened, for a person."""
    close_code: int | None = own("_close_code")
    """The code of the peer's close frame (RFC 6455, section 7.4; 1005 where it held none): the
    connection was closed in an orderly way. None where it was not."""
    error: Exception | None = own("_error", compared=False)
    """The failure as an exception, None where it was none."""
    retry_in_s: float | None = own("_retry_in_s")
    """Seconds until the next attempt; None: there will be none."""


# The classes above are this module's exports, and so the package's.
if not TYPE_CHECKING:  # which takes all that is defined here
    __all__ = [
        name
        for name, value in globals().items()
        if isinstance(value, type) and value.__module__ == __name__ and issubclass(value, Record)
    ]
