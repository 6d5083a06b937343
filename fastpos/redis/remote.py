"""`RemoteStream`: a stream's functions, events and properties, on another machine, from Redis.

It is a `PositionStream` that another driver drives (following.py). That reads entries (entries.py),
in a group as the one member that has the lock (member.py).

Threads: those of a `PositionStream`; here is nothing that changes.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ..logs import fields
from ..runtime.callbacks import CALLBACK_NAMES
from ..settings import takes
from ..stream import PositionStream
from .arguments import RemoteSettings
from .connecting import shown
from .following import Following

__all__ = ["RemoteStream"]


class RemoteStream(PositionStream):
    """A stream that another process follows, from Redis: the same functions, events, properties.

    It takes from Redis what the stream's owner publishes there, see `Publisher`. It has no
    connection to the exchange and needs no credential.

    Args:
        url: of the Redis or Valkey: ``redis://[user:password@]host:port/db``, ``rediss://`` for
            TLS, ``unix://``.
        name: the stream's there.
        prefix: what the keys begin with.
        group: several processes of one group share the work: each record is told to one of them, at
            least once, and goes on where the last one stopped. None: this one alone gets all, from
            now on.
        consumer: what this one is called in the group; None: host and process.
        on_position, on_order, …: the functions to call, see `PositionStream`. `on_ready` is called
            when it follows the owner, `on_disconnect` also when Redis can't be reached, `on_stale`
            also when nobody publishes the account any more.
        number: `float`, or `decimal.Decimal` for exact numbers.
        reconnect: when to try Redis again while it is away; None: never.
        dispatch, queue_size: see `PositionStream`. In a group there is only "reader": it
            acknowledges what functions have returned from.
        slow_callback_s: see `PositionStream`. In a group a function may take up to 5 s: after that
            another member goes on with the same record.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
        ImportError: redis-py is not there (extra "redis").
    """

    _drives_itself = "is a RemoteStream, which reads Redis itself: start it"

    @takes(RemoteSettings)
    def __init__(self, settings: RemoteSettings) -> None:
        functions: dict[str, Any] = {
            name: function
            for name in CALLBACK_NAMES
            for function in getattr(settings, name).functions
        }
        super().__init__(
            "ws://127.0.0.1:9/",  # nobody connects there
            api_key="remote",
            broker=0,
            name=settings.name,
            number=settings.number,
            reconnect=settings.reconnect,
            dispatch=settings.dispatch,
            queue_size=settings.queue_size,
            slow_callback_s=settings.slow_callback_s,
            **functions,
        )
        self._remote = settings
        self._remote_driver = Following(self._parts, self, settings)
        self._own_driver = self._driver = self._remote_driver

    def __repr__(self) -> str:
        settings = getattr(self, "_remote", None)
        if settings is None:  # its arguments were refused
            return f"<{type(self).__name__}>"
        group = "" if settings.group is None else f" group={settings.group}"
        return f"<{type(self).__name__} {settings.name} {shown(settings.url)}{group}>"

    def _fields(self, event: str, error: BaseException) -> dict[str, object]:
        settings = self._remote
        url, kind = shown(settings.url), type(error).__name__
        return fields(event, stream=settings.name, url=url, error=kind)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a RemoteStream can't be copied or pickled: make one of its own where it is needed"
        )
