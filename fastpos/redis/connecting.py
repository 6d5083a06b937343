"""Connecting to Redis: the URL, and what can be said before anything is connected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["connect", "errors", "is_of_some_keys", "shown"]

# How long a server may take to answer, and to be reached, seconds.
TIMEOUT, REACHING = 5.0, 2.0
_SCHEMES = ("redis", "rediss", "unix")
_OURS = frozenset(("protocol", "decode_responses"))
# How errors begin that redis-py has no classes for, and that come of what some keys are or hold.
_OF_KEYS = ("WRONGTYPE", "CROSSSLOT", "user_script", "Error running script")
_UNREADABLE = (
    "the URL of Redis can't be used: it is redis://[user:password@]host[:port][/number], and what "
    "is not a letter or a digit in user and password is percent-encoded"
)


def connect(url: str, timeout: float = TIMEOUT) -> Redis:
    """Make a client for a URL; it connects when it is used.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py takes it, with user,
            password and database in it.
        timeout: seconds for each answer.

    Raises:
        TypeError, ValueError: the URL is unusable; the message does not have it.
        ImportError: redis-py is not there.
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    _check(url)
    try:
        from redis import Redis  # noqa: PLC0415 -- an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import RedisError  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            f'this needs the extra "redis": pip install fastpos[redis] ({error})'
        ) from error
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, REACHING),
        "retry": Retry(NoBackoff(), 0),  # whoever calls tries again, and knows why
        "protocol": 2,
    }
    try:
        client = Redis.from_url(url, **options)
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # which connects nowhere yet
    except (TypeError, ValueError, RedisError) as error:  # it may have the password in it
        raise ValueError(
            f"the URL of Redis can't be used: one of its options is wrong ({type(error).__name__})"
        ) from None
    return client


def _check(url: str) -> None:
    """Raise ValueError where a URL is of no use; the message has nothing that may be secret."""
    scheme = url.partition(":")[0].lower()
    if scheme.endswith(("sentinel", "cluster")):
        raise ValueError(
            f"{scheme}:// is not supported: give the URL of a server, or of a proxy or a name that "
            "leads to the present master"
        )
    if scheme not in _SCHEMES:
        raise ValueError("url must begin with redis://, rediss:// or unix://")
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
        _ = parts.port  # which raises where it is no number
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    # Else a part of the password is taken for a host, a port or a database, and shown.
    user = parts.netloc.rpartition("@")[0]
    is_database = scheme == "unix" or re.fullmatch(r"(/\d*)?/?", parts.path, re.ASCII)
    if not is_database or "#" in url or "[" in user or "]" in user:
        raise ValueError(_UNREADABLE)
    for name in _OURS.intersection(options):
        raise ValueError(f"url may not say {name}: what answers look like is decided here")


def errors() -> tuple[type[Exception], ...]:
    """Give what a client raises where something is wrong with Redis or the way to it."""
    from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

    return RedisError, OSError


def is_of_some_keys(error: Exception) -> bool:
    """Whether it is some keys that are of no use, or not allowed, and not the server."""
    from redis.exceptions import MovedError, NoPermissionError, ResponseError  # noqa: PLC0415

    if type(error) is ResponseError:
        return str(error).startswith(_OF_KEYS)
    return isinstance(error, (MovedError, NoPermissionError))


def shown(url: str) -> str:
    """Give a URL without user and password, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
