"""Why connections end, and what kinds of errors there are, in few words that stay the same.

What a `Disconnect` and an error say is for people, and differs from case to case. These words are
for counting: a series of numbers for each, alerts that name them.
"""

from __future__ import annotations

from enum import Enum

from ..errors import (
    AuthenticationError,
    CallbackError,
    ConnectionFailed,
    DecodeError,
    FastposError,
    JournalError,
    ProtocolError,
    PublisherError,
    SnapshotError,
    SubscriptionError,
)
from ..model.events import Disconnect
from ..wire.session import ANNOUNCED, LOST, NO_PONG

__all__ = ["ERROR_KINDS", "Cause", "cause_of", "kind_of"]


class Cause(Enum):
    """Why a connection ended or could not be made."""

    STOPPED = "stopped"
    """By `stop()`."""
    CLOSED = "closed"
    """The exchange sent a close frame, or said that the system closes."""
    LOST = "lost"
    """The network, or the peer without a word."""
    PONG_TIMEOUT = "pong_timeout"
    """The exchange did not answer a ping in time."""
    UNREACHABLE = "unreachable"
    """It could not be opened: no address, nobody there, TLS, a proxy, no credential."""
    REFUSED = "refused"
    """The upgrade was answered with another HTTP status."""
    AUTHENTICATION = "authentication"
    """The credential was refused."""
    SUBSCRIPTION = "subscription"
    """The exchange refused the subscription, or did not answer in time."""
    PROTOCOL = "protocol"
    """The exchange broke the WebSocket protocol."""
    REDIS = "redis"
    """A `RemoteStream`'s Redis was away."""
    OTHER = "other"
    """None of these: a mistake of this library, or of a function that gives the credential."""


_BY_ERROR: tuple[tuple[type[FastposError], Cause], ...] = (
    (AuthenticationError, Cause.AUTHENTICATION),
    (SubscriptionError, Cause.SUBSCRIPTION),
    (ProtocolError, Cause.PROTOCOL),
    (ConnectionFailed, Cause.UNREACHABLE),
)
_BY_REASON = ((LOST, Cause.LOST), (NO_PONG, Cause.PONG_TIMEOUT), (ANNOUNCED, Cause.CLOSED))


def cause_of(event: Disconnect) -> Cause:
    """Say why, of what is told."""
    error = event.error
    if event.reason == Cause.STOPPED.value:
        return Cause.STOPPED
    if event.close_code is not None:
        return Cause.CLOSED
    if getattr(error, "status", None) is not None and isinstance(error, ConnectionFailed):
        return Cause.REFUSED
    if error is None or isinstance(error, ConnectionFailed):
        for beginning, cause in _BY_REASON:
            if event.reason.startswith(beginning):
                return cause
    return next((cause for kind, cause in _BY_ERROR if isinstance(error, kind)), Cause.OTHER)


ERROR_KINDS: dict[type[FastposError], str] = {
    CallbackError: "callback",
    DecodeError: "decode",
    SnapshotError: "snapshot",
    JournalError: "journal",
    PublisherError: "publisher",
    AuthenticationError: "authentication",
    SubscriptionError: "subscription",
    ProtocolError: "protocol",
    ConnectionFailed: "connection",
    FastposError: "other",
}
"""What errors that did not end a stream are counted as; of a class' subclasses as of the class."""


def kind_of(error: FastposError) -> str:
    """Say what an error is counted as."""
    return next(name for kind, name in ERROR_KINDS.items() if isinstance(error, kind))
