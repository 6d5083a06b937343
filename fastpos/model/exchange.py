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
    "REFUSALS",
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
_CODES = ("code", "status", "success")
_GOOD_NUMBERS = (0, 200)
_GOOD_WORDS = frozenset({"", "ok", "success", "true", "subscribed", "connected"})

# What a refused subscription is answered is not documented, so a text is judged by its words: by
# parts of words, or by whole ones where the part is in others too ("key" in "monkey"), and by codes
# of HTTP and of the same software's REST interface. Only English is looked for; what is not
# understood is no refusal. Of a longer text, the beginning counts, characters.
_JUDGED = 1000
_REFUSED = (
    "fail", "error", "refuse", "reject", "denied", "invalid", "illegal", "forbid", "incorrect",
    "wrong", "expire", "unauthor", "unsuccess", "no permission", "no such", "no valid", "no auth",
)  # fmt: skip
_BUSY = (
    "busy", "maint", "overload", "too many", "too fast", "unavailable", "temporar", "later",
    "retry", "timeout", "timed out", "throttl", "capacity", "limit", "internal",
)  # fmt: skip
_BUSY_WHOLE = frozenset({"load", "rate", "system"})
_BUSY_CODES = frozenset({"418", "429", "500", "502", "503", "504", "-1001", "-1003", "-1015"})
_CREDENTIAL = (
    "token", "apikey", "signature", "auth", "permission", "login", "log in", "expire", "credential",
)  # fmt: skip
_CREDENTIAL_WHOLE = frozenset({"key", "keys", "accesskey", "sign"})
_CREDENTIAL_CODES = frozenset({"401", "403", "-1002", "-1022", "-2014", "-2015"})
# A text that names the credential, and finds no fault with it in these words or those of a refusal,
# says nothing about it: a notice of another language may use "login" as its own word.
_FAULT = frozenset(
    {
        "again", "bad", "cannot", "disabled", "first", "insufficient", "lacks", "mismatch",
        "missing", "must", "need", "needs", "not", "please", "required", "requires",
        "revoked", "unable", "unknown", "without",
    }
)  # fmt: skip


class Said(Enum):
    """What a text of the exchange is."""

    PUSH = "push"
    PING = "ping"
    PONG = "pong"
    CONNECTED = CONNECTED
    SUBSCRIBED = SUBSCRIBED
    CREDENTIAL = "a refusal that speaks of the credential"
    BUSY = "a refusal that speaks of load, limits or maintenance, whatever else it speaks of"
    REFUSED = "a refusal without a reason"
    OTHER = "something else"


REFUSALS = (Said.CREDENTIAL, Said.BUSY, Said.REFUSED)


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
        words themselves, shortened. What they mean is meant of what answers "sub" or greets.
    """
    if push_head(text) is not None:
        return Said.PUSH, ""
    stripped = text.strip()
    words = text.decode("utf-8", "replace").strip().strip('"').strip()
    known = spoken = words
    codes: list[Any] = []
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
        spoken, codes = _spoken(said)
    for success in (Said.CONNECTED, Said.SUBSCRIBED):
        if known.lower() == success.value:
            return success, success.value
    return _judged(spoken[:_JUDGED].lower(), codes), words[:SHOWN]


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
    if all(_is_good(key, said.get(key)) for key in _CODES):
        for key in _WORDS:
            words = said.get(key)
            if isinstance(words, str) and words.strip().lower() in (CONNECTED, SUBSCRIBED):
                return words.strip()
    return ""


def _spoken(said: dict[str, Any]) -> tuple[str, list[Any]]:
    """All words and the codes of a reply that is a JSON object, or has them in one within."""
    parts = [said, *(value for value in said.values() if isinstance(value, dict))]
    words = [value for part in parts for value in part.values() if isinstance(value, str)]
    codes = [part[key] for part in parts for key in _CODES if not _is_good(key, part.get(key))]
    return " ".join(words), codes


def _is_good(key: str, code: Any) -> bool:
    """Whether the code under `key` says that all is well, or nothing."""
    if isinstance(code, str):
        word = code.strip().lower()
        if not word.isdigit():
            return word in _GOOD_WORDS
        code = int(word[:20])
    if isinstance(code, bool) or code is None:
        return code is not False
    return code in _GOOD_NUMBERS or (code == 1 and key != "code")


def _is_bad(code: Any) -> bool:
    """Whether a code says that it is no success. What is no number is among the words."""
    return code is False or str(code).lstrip("-").isdigit()


def _judged(spoken: str, codes: list[Any]) -> Said:
    """Say what a text in lower case, with the codes beside it, is when it is no success."""
    words = frozenset("".join(c if c.isalnum() else " " for c in spoken).split())
    bad = {str(code) for code in codes if _is_bad(code)}

    def speaks(stems: tuple[str, ...], whole: frozenset[str], numbers: frozenset[str]) -> bool:
        return any(stem in spoken for stem in stems) or bool(words & whole or bad & numbers)

    if "unsub" in spoken:  # the answer to another request
        return Said.OTHER
    refused = bool(bad) or any(stem in spoken for stem in _REFUSED)
    if speaks(_BUSY, _BUSY_WHOLE, _BUSY_CODES):
        return Said.BUSY if refused else Said.OTHER
    if speaks(_CREDENTIAL, _CREDENTIAL_WHOLE, _CREDENTIAL_CODES) and (refused or words & _FAULT):
        return Said.CREDENTIAL
    return Said.REFUSED if refused else Said.OTHER


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
