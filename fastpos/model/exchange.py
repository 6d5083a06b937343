"""Everything that is particular to this exchange, in one place.

The software behind it is a white label with deployments that differ in small ways; one that differs
here is a change in this file.
"""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

from orjson import loads

from . import events
from .table import Channel, Merge, Part, Resting

__all__ = [
    "CHANNELS",
    "CONNECTED",
    "CREDENTIAL_PLACES",
    "DEFAULT_URL",
    "SHOWN",
    "SUBSCRIBED",
    "UNDOCUMENTED",
    "Said",
    "ping",
    "push_head",
    "read",
    "request",
    "why_no_push",
]

# --- the conversation ---------------------------------------------------------------------------
#
# The exchange greets, we subscribe, it confirms, and only then do pushes come. What it says is text
# in whatever wrapping a deployment likes: bare or in quotes, in a JSON object, as a text message,
# a binary one, or gzip. What is a push is plain before anything of it is decoded: a JSON object
# with the key "channel". It comes first or soon, so a look at the head decides; only where another
# object or list comes before it, or it does not come, is the text parsed. An object that is no JSON
# is a push as well, a broken one.

DEFAULT_URL = "wss://futuresws.exchange1.com/position_order/ws"

# What the server says when the connection is open, and when a subscription is accepted.
CONNECTED = "connect success"
SUBSCRIBED = "sub success"

# The constructor's argument -> HTTP header of the upgrade, key in the subscribe message.
CREDENTIAL_PLACES = {"token": ("token", "token"), "api_key": ("api-key", "apiKey")}

# A reply that is longer than this is shown shortened, characters.
SHOWN = 200

# The keys under which a deployment that answers in JSON has the words of a reply, and the code that
# must not contradict them.
_WORDS = ("event", "msg", "message", "data")
_CODES = ("code", "status")
_GOOD_CODES = (0, 200, "0", "200", "ok", "success", None)


class Said(Enum):
    """What a text of the exchange is."""

    PUSH = "push"
    PING = "ping"
    PONG = "pong"
    CONNECTED = CONNECTED
    SUBSCRIBED = SUBSCRIBED
    OTHER = "something else"


def push_head(text: bytes) -> bytes | None:
    """Give the head of a push, up to its key "channel"; None where that does not come so soon.

    Whatever begins in the same way is a push too: a quote within a string is escaped, so these
    bytes are a key, and no bracket was opened but the first.
    """
    end = text.find(b'"channel":') + 10
    head = text[:end]
    if end < 10 or head.lstrip()[:1] != b"{" or head.count(b"{") > 1 or b"[" in head:
        return None
    return head


def read(text: bytes) -> tuple[Said, str]:
    """Say what a text is.

    Returns:
        That, and to a PING the message that answers it, to all that is no push, ping or pong the
        words themselves, shortened.
    """
    if push_head(text) is not None:
        return Said.PUSH, ""
    stripped = text.strip()
    words = text.decode("utf-8", "replace").strip().strip('"').strip()
    known = words
    if stripped[:1] == b"{":
        try:
            said = loads(stripped)
        except ValueError:
            return Said.PUSH, ""
        if "channel" in said:
            return Said.PUSH, ""
        if "pong" in said:
            return Said.PONG, ""
        if "ping" in said:
            return Said.PING, _pong(stripped)
        known = _words_of(said)
    for success in (Said.CONNECTED, Said.SUBSCRIBED):
        if known.lower() == success.value:
            return success, success.value
    return Said.OTHER, words[:SHOWN]


def why_no_push(text: bytes) -> str:
    """Say why a text that is something else is no push."""
    try:
        said = loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    what = "no channel in it" if type(said) is dict else f"a JSON {type(said).__name__}"
    return f"not a push: {what}"


def _words_of(said: dict[str, Any]) -> str:
    """The words of a reply that is a JSON object; "" where its code says that it is no success."""
    if all(said.get(key) in _GOOD_CODES for key in _CODES):
        for key in _WORDS:
            words = said.get(key)
            if isinstance(words, str) and words.strip().lower() in (CONNECTED, SUBSCRIBED):
                return words.strip()
    return ""


def _pong(ping: bytes) -> str:
    """The answer to the exchange's own ping, with the same number, digit for digit."""
    try:
        number = json.loads(ping)["ping"]
    except (ValueError, RecursionError):
        number = None
    if not isinstance(number, (int, float, str)) or len(str(number)) > SHOWN:
        number = None
    return json.dumps({"pong": number}, separators=(",", ":"))


def ping(ms: int) -> str:
    """Give the ping message at a wall clock of so many ms since the epoch."""
    return f'{{"ping":{ms}}}'


def request(event: str, kind: str, value: str, broker: int) -> str:
    """Give the message "sub" or "unsub".

    Args:
        event: which of them.
        kind: of credential, a key of `CREDENTIAL_PLACES`.
        value: the credential.
        broker: the merchant's id.
    """
    return json.dumps({"event": event, CREDENTIAL_PLACES[kind][1]: value, "broker": broker})


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
                resting=Resting(
                    "orderAction",
                    events.ACTIONS,
                    filled="dealVolume",
                    volume="volume",
                    kind="type",
                    immediate=events.IMMEDIATE,
                ),
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
                resting=Resting("orderAction", events.ACTIONS),
                expires="expireTime",
            ),
        ),
        callback="on_trigger",
        line="{action}  {trigger_order_id}  {side}  {volume} at {price} when {trigger_price}",
    ),
)

UNDOCUMENTED = Channel("", events.Unknown, callback="on_unknown", line="{raw}")
"""The row of all other channels."""
