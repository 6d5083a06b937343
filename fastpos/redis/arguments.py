"""The arguments of a `RemoteStream`, checked before anything is connected."""

# Annotations are evaluated here: the checks in them are used.

from dataclasses import field
from typing import Annotated, Any

from ..reconnect import ReconnectPolicy
from ..runtime.callbacks import Callbacks
from ..settings import Dispatch, Frozen, Label, Number, Reconnect, Seconds, Size, frozen
from .connecting import connect

__all__ = ["RemoteSettings"]


def _url(name: str, value: Any) -> None:
    connect(value)  # whether that can be


def _prefix(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value or "{" in value or "}" in value:
        raise ValueError(f"{name} must be a text without braces, not {value!r}")


def _text_or_none(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{name} must be a str or None, not {type(value).__name__}")
    if value is not None and not (0 < len(value) <= 100 and value.isprintable()):
        raise ValueError(f"{name} must be 1 to 100 printable characters, not {value!r}")


@frozen(kw_only=True, eq=False, repr=False)
class RemoteSettings(Frozen, Callbacks):
    """The arguments of a `RemoteStream`; see there for what they mean.

    Raises:
        TypeError, ValueError: one is unusable; the message names it.
        ImportError: redis-py is not there.
    """

    url: Annotated[str, _url] = field(kw_only=False)
    name: Label = field(kw_only=False)
    prefix: Annotated[str, _prefix] = field(default="fastpos", kw_only=False)
    group: Annotated[str | None, _text_or_none] = field(default=None, kw_only=False)
    consumer: Annotated[str | None, _text_or_none] = field(default=None, kw_only=False)
    number: Number = float
    reconnect: Reconnect = ReconnectPolicy(initial=0.2, maximum=2.0)
    dispatch: Dispatch = "reader"
    queue_size: Size = 10_000
    slow_callback_s: Seconds = 1.0

    def __post_init__(self) -> None:
        self._check()
        if "<n>" in self.name:
            raise ValueError(f"name is that which is published, so <n> is none: {self.name!r}")
        if self.group is not None and self.dispatch == "thread":
            raise ValueError(
                'a group acknowledges what functions have returned from: dispatch="thread" is not '
                "for it"
            )
        if self.consumer is not None and self.group is None:
            raise ValueError("consumer is one of a group: give that, too")
