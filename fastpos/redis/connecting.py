"""Connecting to Redis: the URL, and what can be said before anything is connected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["connect", "errors", "shown"]

# How long a server may take to answer, and to be reached, seconds.
TIMEOUT, REACHING = 5.0, 2.0
_SCHEMES = ("redis", "rediss", "unix")
_OURS = frozenset(("protocol", "decode_responses"))


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
    scheme = urlsplit(url).scheme
    if "sentinel" in scheme or "cluster" in scheme:
        raise ValueError(
            f"{scheme}:// is not supported: give the URL of a server, or of a proxy or a name that "
            "leads to the present master"
        )
    if scheme not in _SCHEMES:
        raise ValueError(f"url must begin with redis://, rediss:// or unix://, not {scheme!r}")
    for name in _OURS.intersection(parse_qs(urlsplit(url).query)):
        raise ValueError(f"url may not say {name}: what answers look like is decided here")
    try:
        from redis import Redis  # noqa: PLC0415 -- an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
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
        return Redis.from_url(url, **options)
    except (TypeError, ValueError) as error:  # it may have the password in it
        raise ValueError(f"the URL of Redis can't be used: {type(error).__name__}") from None


def errors() -> tuple[type[Exception], ...]:
    """Give what a client raises where something is wrong with Redis or the way to it."""
    from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

    return RedisError, OSError


def shown(url: str) -> str:
    """Give a URL without user and password, for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
