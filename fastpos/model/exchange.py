"""Everything that is particular to this exchange, in one place.

The software behind it is a white label with deployments that differ in small ways; one that differs
here is a change in this file.
"""

from __future__ import annotations

from . import events
from .table import Channel, Merge, Part, Resting

__all__ = [
    "CHANNELS",
    "CONNECTED",
    "CREDENTIAL_PLACES",
    "DEFAULT_URL",
    "SUBSCRIBED",
    "UNDOCUMENTED",
]

# --- the conversation ---------------------------------------------------------------------------

DEFAULT_URL = "wss://futuresws.exchange1.com/position_order/ws"

# What the server says when the connection is open, and when a subscription is accepted.
CONNECTED = "connect success"
SUBSCRIBED = "sub success"

# The constructor's argument -> HTTP header of the upgrade, key in the subscribe message.
CREDENTIAL_PLACES = {"token": ("token", "token"), "api_key": ("api-key", "apiKey")}

# --- the channels -------------------------------------------------------------------------------

# A row for each; decoding, merging, calling, counting and printing go by it.
CHANNELS = (
    Channel(
        "ACCOUNT_UPDATE",
        events.AccountUpdate,
        body="d",
        exact=("uid",),
        parts=(
            Part(
                events.Position,
                "p",
                exact=("id", "cid"),
                merge=Merge.PATCH,
                store="positions",
                change="et",
                callback="on_position",
                line="{change}  {id}  {contract_name}  {side}  volume {volume}  "
                "entry {open_price}  liquidation {liquidation_price}",
            ),
            Part(
                events.Balance,
                "a",
                many=True,
                merge=Merge.PATCH,
                store="balances",
                callback="on_account",
                attribute="balances",
                line="{coin}: {available} available, {frozen} frozen, {isolated_margin} isolated",
            ),
        ),
    ),
    Channel(
        "ADL_PRICE",
        events.AdlPrice,
        exact=("uid",),
        parts=(
            Part(
                events.AdlTick,
                "l",
                many=True,
                exact=("id",),
                merge=Merge.TICK,
                store="positions",
                attribute="ticks",
                line="{id}: mark {mark_price}, margin rate {margin_rate}, ADL level {adl_level}",
            ),
        ),
        callback="on_adl_price",
        conflated=True,
    ),
    Channel(
        "SYSTEM",
        events.SystemClose,
        exact=("uid",),
        only=("et", "close"),  # the one documented value; another must not end the connection
        callback="on_system_close",
        line="the exchange is about to close",
    ),
    Channel(
        "order",
        events.Order,
        body="order",
        parts=(
            Part(
                events.Order,
                exact=("orderId", "contractId"),
                merge=Merge.REPLACE,
                store="orders",
                resting=Resting("orderAction", "2", filled="dealVolume", volume="volume"),
            ),
            Part(
                events.AttachedOrder,
                "otoOrder",
                exact=("takerProfitTriggerId", "stopLossTriggerId"),
            ),
        ),
        callback="on_order",
        line="{action}  {order_id}  {contract_name}  {side}  {filled_volume}/{volume} filled  "
        "at {price}",
    ),
    Channel(
        "trigOrder",
        events.Trigger,
        body="trigOrder",
        parts=(
            Part(
                events.Trigger,
                exact=("triggerOrderId",),
                merge=Merge.REPLACE,
                store="triggers",
                resting=Resting("orderAction", "2"),
            ),
        ),
        callback="on_trigger",
        line="{action}  {trigger_order_id}  {side}  {volume} at {price} when {trigger_price}",
    ),
)

UNDOCUMENTED = Channel("", events.Unknown, callback="on_unknown", line="{raw}")
"""The row of all other channels."""
