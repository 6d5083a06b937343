"""A user's functions: which there are, adding and replacing them, and what is refused.

`Callbacks` is the list of them, and the only one: a line there is the stream's attribute, the
constructor's keyword, and a name in `CALLBACK_NAMES`. ``stream.on_order`` is a `Handlers` object:
calling it adds a function (so it is a decorator too), assigning to the name replaces what is there.

On a frame's path: delivery.py comes from the decoder and calls what is registered here; a user's
function is the end of the path.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ..errors import CallbackError, FastposError
from ..model import events

if TYPE_CHECKING:
    # A checker reads `Callbacks` as a dataclass, so that `Settings` inherits its lines as
    # parameters. At run time a stream is none: it would be printed, compared and copied as one.
    from dataclasses import dataclass
else:

    def dataclass(**_: object) -> Callable[[type], type]:
        return lambda cls: cls


__all__ = ["CALLBACK_NAMES", "Callback", "Callbacks", "Handlers", "callback_name", "refuse_result"]

E = TypeVar("E")
F = TypeVar("F", bound=Callable[..., Any])


class Handlers(Generic[E]):
    """The functions registered for one kind of event, called in the order they were added.

    What is in `cell` is replaced, never changed, so any thread may read it; `_lock` guards
    replacing. A signal handler that has interrupted who holds it may enter it again.
    """

    __slots__ = ("_lock", "cell", "name")

    def __init__(self, name: str) -> None:
        self.name: str = name
        self._lock = threading.RLock()
        self.cell: list[tuple[Callable[[E], object], ...]] = [()]
        """Has `functions` for who looks often: an attribute takes longer to look up."""

    @property
    def functions(self) -> tuple[Callable[[E], object], ...]:
        """Those that are called."""
        return self.cell[0]

    def __call__(self, function: F) -> F:
        """Add `function`; give it back, so that this can stand as a decorator.

        Raises:
            TypeError: it can't be called with an event and be done.
        """
        self._check(function)
        with self._lock:
            self.cell[0] = (*self.cell[0], function)
        return function

    def replace(self, function: Callable[[E], object] | None) -> None:
        """Have `function` alone, or with None nothing.

        Raises:
            TypeError: as above; what was there stays.
        """
        if function is not None:
            self._check(function)
        with self._lock:
            self.cell[0] = () if function is None else (function,)

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
        if reason := _postponed(function):
            raise TypeError(f"{self.name} takes a plain function: {reason}")

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.functions)} functions>"


class Callback(Generic[E]):
    """Called with an event: `stream.on_…(f)` adds `f`, `stream.on_… = f` replaces what was there.

    The attribute of a class that gives an object's `Handlers` of that name. They are in the
    object's dict under the same name, where they are found too if a subclass has a method so named.
    """

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Callback[E]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Handlers[E]: ...
    def __get__(self, instance: object | None, owner: type) -> Callback[E] | Handlers[E]:
        return self if instance is None else _handlers(instance, self.name)

    def __set__(self, instance: object, function: Callable[[E], object] | None) -> None:
        _handlers(instance, self.name).replace(function)


def _handlers(instance: object, name: str) -> Handlers[Any]:
    there = vars(instance)
    found: Handlers[Any] | None = there.get(name)
    return there.setdefault(name, Handlers(name)) if found is None else found


@dataclass(kw_only=True, eq=False, repr=False)
class Callbacks:
    """What a stream calls its user back for, one line each."""

    on_position: Callback[events.Position] = Callback()
    """Called with a `Position`, merged, when one was opened, changed or closed."""
    on_order: Callback[events.Order] = Callback()
    """Called with an `Order` when one was placed, cancelled, changed or filled."""
    on_trigger: Callback[events.Trigger] = Callback()
    """Called with a `Trigger` when a trigger order was placed or cancelled."""
    on_system_close: Callback[events.SystemClose] = Callback()
    """Called with a `SystemClose` when the exchange says that it closes; the stream comes back by
    itself."""
    on_account: Callback[events.AccountUpdate] = Callback()
    """Called with an `AccountUpdate` that holds balances."""
    on_adl_price: Callback[events.AdlPrice] = Callback()
    """Called with an `AdlPrice`, once a second while a position is held."""
    on_ready: Callback[events.Ready] = Callback()
    """Called with a `Ready` when the stream is subscribed, first and again."""
    on_synced: Callback[events.Synced] = Callback()
    """Called with a `Synced` when a snapshot was merged."""
    on_stale: Callback[events.Stale] = Callback()
    """Called with a `Stale` when no ticks come any more though a position is open, see
    `tick_timeout`; once, until they come again."""
    on_disconnect: Callback[events.Disconnect] = Callback()
    """Called with a `Disconnect` when a connection ended or could not be made."""
    on_error: Callback[FastposError] = Callback()
    """Called with each `FastposError` that does not end the stream. Without one they are logged."""
    on_unknown: Callback[events.Unknown] = Callback()
    """Called with an `Unknown` for a push on a channel that is not documented."""

    def _register(self, given: Callbacks) -> None:
        """Have the functions of `given`, and the methods of this object's class that are named so.

        From now on both have the same `Handlers`.
        """
        for name in CALLBACK_NAMES:
            handlers = _handlers(given, name)
            earlier = vars(self).pop(name, None)  # registered before the constructor was called
            if not isinstance(getattr(type(self), name), Callback):
                handlers(getattr(self, name))
            if earlier is not None and earlier is not handlers:
                for function in earlier.functions:
                    handlers(function)
            vars(self)[name] = handlers

    # A misspelt name would be a function that is never called. None of a checker's business, which
    # would think that anything may be assigned.
    if not TYPE_CHECKING:

        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            for name, value in vars(cls).items():
                if name[:2].lower() != "on" or name in CALLBACK_NAMES or not callable(value):
                    continue
                if meant := _nearest(name, 0.85):
                    raise TypeError(
                        f"{cls.__qualname__}.{name} is no callback and would never be called: "
                        f"call it {meant}"
                    )

        def __setattr__(self, name: str, value: Any) -> None:
            if name in CALLBACK_NAMES:
                _handlers(self, name).replace(value)
                return
            if name[:2].lower() == "on" and not hasattr(type(self), name):
                ours = name.startswith("on_")  # else it may be a name of the user's own: online
                meant = _nearest(name, 0.6 if ours else 0.85)
                hint = (
                    f"did you mean {meant}?" if meant else f"there are {', '.join(CALLBACK_NAMES)}"
                )
                if ours or meant:
                    raise AttributeError(
                        f"there is no callback {name}: {hint}", name=name, obj=self
                    )
            object.__setattr__(self, name, value)


CALLBACK_NAMES = tuple(name for name, slot in vars(Callbacks).items() if isinstance(slot, Callback))


def _nearest(name: str, likeness: float) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415 (needed for a mistake alone)

    return next(iter(get_close_matches(name.lower(), CALLBACK_NAMES, 1, likeness)), None)


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


# --- functions that only make something which nobody would run ------------------------------------

_AWAIT = (
    "nothing here awaits it. Hand the event over to your event loop: "
    "lambda event: asyncio.run_coroutine_threadsafe(handle(event), loop)"
)


def _postponed(function: Any) -> str | None:
    """Say why calling `function` would not run its body, and what to do; None if it would."""
    while isinstance(function, partial):
        function = function.func
    with suppress(Exception):  # it is a user's
        for called in (function, type(function).__call__):
            if inspect.iscoroutinefunction(called):
                return f"{callback_name(function)} is a coroutine function, and {_AWAIT}"
            if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
                return (
                    f"{callback_name(function)} is a generator function, of which a call runs "
                    "nothing. Take the yield out of it, or put the event into a queue.Queue"
                )
    return None


def refuse_result(result: object) -> None:
    """Look at what a callback returned, where that is not None.

    Raises:
        TypeError: it is something to be awaited, which nobody does; it was closed.
    """
    if inspect.isawaitable(result):
        close = getattr(result, "close", None)
        if callable(close):
            close()  # else Python warns of it some time later
        raise TypeError(f"it returned a {type(result).__name__}, and {_AWAIT}")
