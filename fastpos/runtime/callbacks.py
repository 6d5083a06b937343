"""A user's functions: adding, replacing and calling them, and what happens when one raises.

``stream.on_order`` is a `Handlers` object: calling it adds a function (so it is a decorator too),
assigning to the name replaces what is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, overload

from ..errors import CallbackError, FastposError
from ..model.events import (
    AccountUpdate,
    AdlPrice,
    Disconnect,
    Order,
    Position,
    Ready,
    Synced,
    SystemClose,
    Trigger,
    Unknown,
)

__all__ = ["CallbackSlot", "Callbacks", "Handlers", "callback_name"]

E = TypeVar("E")
F = TypeVar("F", bound=Callable[..., Any])


class Handlers(Generic[E]):
    """The functions registered for one kind of event, called in the order they were added.

    `functions` is replaced, never changed, so any thread may read it; `_lock` guards replacing.
    """

    __slots__ = ("_lock", "functions", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self.functions: tuple[Callable[[E], object], ...] = ()

    def __call__(self, function: F) -> F:
        """Add `function`; give it back, so that this can stand as a decorator."""
        self._check(function)
        with self._lock:
            self.functions = (*self.functions, function)
        return function

    def replace(self, function: Callable[[E], object] | None) -> None:
        """Have `function` alone, or with None nothing."""
        if function is not None:
            self._check(function)
        with self._lock:
            self.functions = () if function is None else (function,)

    def failure(
        self, function: Callable[[E], object], event: E, error: BaseException
    ) -> CallbackError:
        """Make the report of `function` having raised `error`."""
        said = f"{type(error).__name__}: {_shown(str, error)}"
        failure = CallbackError(
            f"{self.name} callback {callback_name(function)} raised {said}", event, function
        )
        failure.__cause__ = error
        return failure

    def _check(self, function: object) -> None:
        if not callable(function):
            raise TypeError(f"{self.name} takes a function, not {function!r}")

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.functions)} functions>"


def callback_name(function: object) -> str:
    """Give a user's function's name; not its repr(), which may hold what is no log's business."""
    if isinstance(function, partial):
        function = function.func
    try:
        name = getattr(function, "__qualname__", None)
    except Exception:  # it is a user's
        name = None
    return name if isinstance(name, str) else type(function).__qualname__


def _shown(show: Callable[[Any], str], thing: object) -> str:
    try:
        return show(thing)
    except Exception:  # it is a user's
        return f"<{type(thing).__name__}>"


class Callbacks:
    """One `Handlers` for each kind of event."""

    def __init__(self) -> None:
        self.on_position: Handlers[Position] = Handlers("on_position")
        self.on_order: Handlers[Order] = Handlers("on_order")
        self.on_trigger: Handlers[Trigger] = Handlers("on_trigger")
        self.on_system_close: Handlers[SystemClose] = Handlers("on_system_close")
        self.on_account: Handlers[AccountUpdate] = Handlers("on_account")
        self.on_adl_price: Handlers[AdlPrice] = Handlers("on_adl_price")
        self.on_ready: Handlers[Ready] = Handlers("on_ready")
        self.on_synced: Handlers[Synced] = Handlers("on_synced")
        self.on_disconnect: Handlers[Disconnect] = Handlers("on_disconnect")
        self.on_error: Handlers[FastposError] = Handlers("on_error")
        self.on_unknown: Handlers[Unknown] = Handlers("on_unknown")


class _HasCallbacks(Protocol):
    _callbacks: Callbacks


class CallbackSlot(Generic[E]):
    """A class attribute that gives the object's `Handlers` of that name and takes assignments."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> CallbackSlot[E]: ...
    @overload
    def __get__(self, instance: _HasCallbacks, owner: type) -> Handlers[E]: ...
    def __get__(self, instance: _HasCallbacks | None, owner: type) -> CallbackSlot[E] | Handlers[E]:
        if instance is None:
            return self
        handlers: Handlers[E] = getattr(instance._callbacks, self._name)
        return handlers

    def __set__(self, instance: _HasCallbacks, function: Callable[[E], object] | None) -> None:
        self.__get__(instance, type(instance)).replace(function)
