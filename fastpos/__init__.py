"""A futures account's positions, balances, orders and triggers, pushed into plain functions.

>>> from fastpos import PositionStream
>>> stream = PositionStream(api_key="...", broker=1003, on_position=print)
>>> stream.run_forever()                                              # doctest: +SKIP
"""

from . import _c  # noqa: F401 (first: it loads the compiled modules)
from .errors import (
    AuthenticationError,
    CallbackError,
    ConnectionFailed,
    DecodeError,
    FastposError,
    ProtocolError,
    ReconnectExhausted,
    SnapshotError,
    SubscriptionError,
)
from .model.events import (
    AccountUpdate,
    AdlPrice,
    AdlTick,
    AttachedOrder,
    Balance,
    Disconnect,
    Event,
    Order,
    Position,
    Ready,
    Synced,
    SystemClose,
    Trigger,
    Unknown,
)
from .model.snapshot import Snapshot
from .reconnect import ReconnectPolicy
from .runtime.stats import Stats
from .stream import PositionStream
from .wire.decoder import decode
from .wire.inflate import inflater

__all__ = [
    "AccountUpdate",
    "AdlPrice",
    "AdlTick",
    "AttachedOrder",
    "AuthenticationError",
    "Balance",
    "CallbackError",
    "ConnectionFailed",
    "DecodeError",
    "Disconnect",
    "Event",
    "FastposError",
    "Order",
    "Position",
    "PositionStream",
    "ProtocolError",
    "Ready",
    "ReconnectExhausted",
    "ReconnectPolicy",
    "Snapshot",
    "SnapshotError",
    "Stats",
    "SubscriptionError",
    "Synced",
    "SystemClose",
    "Trigger",
    "Unknown",
    "decode",
    "inflater",
]

__version__ = "0.1.0"
