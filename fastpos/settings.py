"""A stream's arguments, checked before any socket is opened."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from .model.snapshot import SnapshotSource
from .net.opening import Address, parse_proxy, parse_url
from .reconnect import ReconnectPolicy
from .wire.credential import Credential, CredentialSource

__all__ = ["Settings", "check_seconds"]

# Which thread calls the user's functions: the reader, or one of its own.
DISPATCHES = ("reader", "thread")

# Headers of the upgrade that are not the user's to set.
_RESERVED = ("host", "upgrade", "connection")


class Settings:
    """The arguments of a `PositionStream`; see there for what they mean.

    Raises:
        TypeError, ValueError: one is unusable; the message names it.
    """

    def __init__(
        self,
        *,
        url: str,
        token: CredentialSource | None,
        api_key: CredentialSource | None,
        broker: int,
        number: type[float] | type[Decimal],
        ping_interval: float,
        pong_timeout: float,
        connect_timeout: float,
        subscribe_timeout: float,
        reconnect: ReconnectPolicy | None,
        headers: Mapping[str, str] | None,
        ssl_context: ssl.SSLContext | None,
        proxy: str | None,
        max_message_size: int,
        snapshot: SnapshotSource | None,
        snapshot_timeout: float,
        dispatch: str,
        queue_size: int,
        slow_callback_s: float,
    ) -> None:
        self.url = url
        self.address = parse_url(url)
        self.credential = _credential(token, api_key)
        self.broker = _integer("broker", broker)
        if number is not float and number is not Decimal:
            raise ValueError(f"number must be float or decimal.Decimal, not {number!r}")
        self.number: type[float] | type[Decimal] = number
        self.ping_interval = check_seconds("ping_interval", ping_interval)
        self.pong_timeout = check_seconds("pong_timeout", pong_timeout)
        self.connect_timeout = check_seconds("connect_timeout", connect_timeout)
        self.subscribe_timeout = check_seconds("subscribe_timeout", subscribe_timeout)
        if reconnect is not None and not isinstance(reconnect, ReconnectPolicy):
            raise TypeError("reconnect must be a ReconnectPolicy or None")
        self.reconnect = reconnect
        self.headers = _headers(headers, self.credential.header)
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError("ssl_context must be an ssl.SSLContext or None")
        self.ssl_context = ssl_context
        self.proxy: Address | None = None if proxy is None or proxy == "" else parse_proxy(proxy)
        self.proxy_from_environment = proxy is None
        if snapshot is not None and not callable(snapshot):
            raise TypeError(f"snapshot must be callable or None, not {type(snapshot).__name__}")
        self.snapshot = snapshot
        self.snapshot_timeout = check_seconds("snapshot_timeout", snapshot_timeout)
        self.max_message_size = _size("max_message_size", max_message_size)
        if not isinstance(dispatch, str):
            raise TypeError(f"dispatch must be a str, not {type(dispatch).__name__}")
        if dispatch not in DISPATCHES:
            raise ValueError(f"dispatch must be one of {DISPATCHES}, not {dispatch!r}")
        self.dispatch = dispatch
        self.queue_size = _size("queue_size", queue_size)
        self.slow_callback_s = check_seconds("slow_callback_s", slow_callback_s)


def _credential(token: CredentialSource | None, api_key: CredentialSource | None) -> Credential:
    if token is not None and api_key is not None:
        raise ValueError("token and api_key exclude each other: give one of them")
    if token is not None:
        return Credential("token", token)
    if api_key is not None:
        return Credential("api_key", api_key)
    raise ValueError("a credential is needed: token or api_key")


def _integer(name: str, value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    return value


def _size(name: str, value: Any) -> int:
    if not 1 <= _integer(name, value) <= sys.maxsize:
        raise ValueError(f"{name} must be from 1 to {sys.maxsize}, not {value}")
    return int(value)


def check_seconds(name: str, value: Any) -> float:
    """Give `value` if it is a number of seconds above 0 and up to a day.

    Raises:
        TypeError, ValueError: it is not; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    # A day is longer than any of these makes sense, and some platforms' waits end not far above.
    if not 0 < value <= 86400:
        raise ValueError(f"{name} must be more than 0 and at most 86400 seconds, not {value!r}")
    return value


def _headers(headers: Mapping[str, str] | None, credential: str) -> dict[str, str]:
    checked: dict[str, str] = {}
    if headers is not None and not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError("headers must map str to str")
        token = name.replace("-", "").replace("_", "")
        if not (token.isascii() and token.isalnum()):
            raise ValueError(f"headers: {name!r} is no header name")
        if name.lower() in (*_RESERVED, credential) or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"headers: {name!r} is set by the library")
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"headers: the value of {name!r} is not one line of visible ASCII")
        checked[name] = value
    return checked
