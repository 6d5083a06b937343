"""From a push to the user's functions: make the event, merge it, count it, call; by the table.

All of it happens on the reader thread; with ``dispatch="thread"`` the calling, and what comes of
it, on the callback thread (see dispatch.py). `begin`, `halt`, `mute` and `counts` are anybody's:
they set flags that are looked at before each push and each call.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from ..account.book import Book
from ..errors import CallbackError, DecodeError, FastposError, is_exit
from ..logs import fields, log
from ..model import primitives
from ..model.events import SystemClose
from ..model.exchange import CHANNELS, UNDOCUMENTED
from ..model.fields import NumberType
from ..model.table import Channel
from ..wire.decoder import OddPart, event_from
from .callbacks import Callbacks, Handlers, callback_name, refuse_result
from .causes import kind_of
from .dispatch import CallbackQueue
from .stats import Counters, count
from .timing import CallbackTimes

__all__ = ["Delivery"]


class Route:
    """Where the events of a channel go, and how many have gone there."""

    __slots__ = ("cell", "channel", "count", "parts", "whole")

    def __init__(self, channel: Channel, callbacks: Callbacks) -> None:
        self.channel: Channel = channel
        self.count: int = 0
        # Of each part that has a callback: its key in the body, the callback's functions and their
        # cell, and whether they get the part itself as an event.
        self.parts: tuple[tuple[str, Handlers[Any], list[Any], bool], ...] = tuple(
            [
                (part.key, handlers, handlers.cell, part.change is not None)
                for part in channel.parts
                if part.callback is not None and part.key is not None
                for handlers in (getattr(callbacks, part.callback),)
            ]
        )
        # The functions that get every event; None: there is no such callback.
        self.whole: Handlers[Any] | None = (
            None if channel.callback is None else getattr(callbacks, channel.callback)
        )
        self.cell: list[Any] = [()] if self.whole is None else self.whole.cell


class Delivery:
    """Hands out events, in the order of arrival.

    Args:
        callbacks: the user's functions.
        book: where positions and balances are merged.
        counters: what is counted.
        number: type of numbers in events.
        times: takes the functions' time; None: nobody wants to know.
        dispatcher: has them called on a thread of its own; None: they are called here.
        hide: takes credentials out of a text that is shown.
        stream: the stream's name, which events and errors get.
    """

    __slots__ = (
        "_background", "_book", "_callbacks", "_counters", "_dispatcher", "_halted", "_hide",
        "_muted", "_number", "_received", "_routes", "_stream", "_times", "begun", "silent",
    )  # fmt: skip

    def __init__(
        self,
        callbacks: Callbacks,
        book: Book,
        counters: Counters,
        number: NumberType,
        times: CallbackTimes | None = None,
        dispatcher: CallbackQueue | None = None,
        hide: Callable[[str], str] = str,
        stream: str | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._book = book
        self._counters = counters
        self._number = number
        self._times = times or CallbackTimes(inf)
        self._dispatcher = dispatcher
        self._hide = hide
        self._stream = stream
        self._received = 0.0  # when what is being delivered was received
        self._muted = False  # no function may be called any more
        self._halted = False  # no push may be begun any more
        self._background = True  # on a thread of ours, where a user's sys.exit() would end nothing
        self.begun: int = 0
        """How many pushes the last call of `pushes` has begun with; the others came too late."""
        self.silent: bool = False
        """Whether what comes is merged, but nobody is told; the reader's."""
        self._routes = {
            channel.event: Route(channel, callbacks) for channel in (*CHANNELS, UNDOCUMENTED)
        }

    def dispatch_by(self, dispatcher: CallbackQueue | None) -> None:
        """Have the functions called by another `dispatcher`; not while a run is under way."""
        self._dispatcher = dispatcher

    # --- anybody's --------------------------------------------------------------------------

    def begin(self, background: bool) -> None:
        """Begin a run; `background`: on a thread of ours, where sys.exit() would end nothing."""
        self._muted = self._halted = False
        self._background = background

    def halt(self) -> None:
        """Have `pushes` return before the next push."""
        self._halted = True

    def mute(self) -> None:
        """Call no function any more."""
        self._muted = True

    def abandon(self) -> None:
        """Deliver nothing any more, not even what is at hand: this is a copy in another process."""
        self._muted = self._halted = True

    @property
    def is_muted(self) -> bool:
        """Whether no function is called any more."""
        return self._muted

    @property
    def counts(self) -> dict[str, int]:
        """How many events were delivered, by the name of their class."""
        return {kind.__name__: route.count for kind, route in self._routes.items() if route.count}

    @property
    def ticks(self) -> int:
        """How many ticks were delivered."""
        return sum(route.count for route in self._routes.values() if route.channel.conflated)

    # --- the reader's -----------------------------------------------------------------------

    def pushes(self, texts: list[bytes], received_ns: int) -> bool:
        """Deliver pushes, each one JSON text, until `halt` was called.

        One that can't be decoded is reported; where that is so of a part only, the rest of it is
        delivered.

        Args:
            texts: the pushes.
            received_ns: when they were read, `time.time_ns`.

        Returns:
            Whether one of them said that the system closes, and more may be done about it.

        Raises:
            BaseException: what a function raised to end the stream.
        """
        closes = False
        self.begun = 0
        for text in texts:
            if self._halted:
                break
            self.begun += 1
            refused: DecodeError | None = None
            try:
                event = event_from(text, received_ns, self._number, self._stream)
            except OddPart as error:
                event, refused = error.event, error.with_traceback(None)
            except DecodeError as error:
                event, refused = None, error.with_traceback(None)
            # Not within `except`: what is raised from here would have it as its context, and in
            # it what the server said, credentials and all.
            if event is not None:
                self._deliver(event)
                if type(event) is SystemClose:
                    closes = True
            if refused is not None:
                self.refuse(refused)
        return closes and not self._halted

    def refuse(self, error: DecodeError) -> None:
        """Report that something can't be decoded, with the credential hidden in it."""
        data = self._hide(error.data.decode("latin-1")).encode("latin-1")
        self.report(DecodeError(error.message, data))

    def _deliver(self, event: Any) -> None:
        route = self._routes[type(event)]
        route.count += 1
        if route.channel.merged:
            self._book.apply(event, route.channel)
        for key, handlers, cell, told in route.parts:
            functions = cell[0]
            if functions and event._wire.get(key):
                self._call(handlers, functions, event._part if told else event, False)
        if route.channel is UNDOCUMENTED:
            count(self._counters.unknown_channels, event._raw["channel"])
        functions = route.cell[0]
        if functions:
            self._call(route.whole, functions, event, False)

    def received(self, at: float) -> None:
        """Say when what is pushed from now on was read, `clock.monotonic()`."""
        if at > self._received:
            self._received = at
            if self._dispatcher is None:
                self._times.take_up(at)

    def tell(self, handlers: Handlers[Any] | str, event: Any) -> None:
        """Do `call` with something that was not read but happens now.

        Args:
            handlers: whom to call, or the callback's name.
            event: with what.
        """
        self.received(primitives.monotonic())
        event._stream = self._stream
        self.call(getattr(self._callbacks, handlers) if type(handlers) is str else handlers, event)

    def call_queued(self, handlers: Handlers[Any], event: Any, received: float) -> None:
        """Do `call` on the callback thread, with an event that was received at `received`."""
        self._times.take_up(received)
        self.call(handlers, event, True)

    def call(self, handlers: Any, event: Any, queued: bool = False) -> None:
        """Call each function with `event`; what one raises is reported, and the rest go on.

        With a dispatcher the event goes into its queue, from which it comes back `queued`.
        """
        functions = handlers.functions
        if functions:
            self._call(handlers, functions, event, queued)

    def _call(
        self,
        handlers: Any,
        functions: tuple[Callable[[Any], object], ...],
        event: Any,
        queued: bool,
    ) -> None:
        if self.silent and not queued:
            return
        if self._dispatcher is not None and not queued:
            self._dispatcher.put(handlers, event, self._received)
            return
        times = self._times
        for function in functions:
            if self._muted:
                return
            times.begun = begun = times.now
            times.handlers = handlers
            times.function = function
            try:
                result = function(event)
                if result is not None:
                    refuse_result(result)
            except BaseException as error:
                times.function = None
                times.now = primitives.monotonic()
                times.took(handlers.name, function, times.now - begun)
                self._raised(handlers, function, event, error, queued)
            else:
                times.function = None
                times.now = now = primitives.monotonic()
                seconds = now - begun
                if seconds > times.limit:
                    times.took(handlers.name, function, seconds)
                else:
                    times.quick += 1
                    times.total_s += seconds

    def _raised(
        self,
        handlers: Handlers[Any],
        function: Callable[[Any], object],
        event: Any,
        error: BaseException,
        queued: bool,
    ) -> None:
        """Report what `function` raised, or raise it if it is to end the stream."""
        if is_exit(error) and not (self._background and isinstance(error, SystemExit)):
            raise error
        self._counters.callback_errors += 1
        if handlers is self._callbacks.on_error:  # reporting this to itself would not end
            name = callback_name(function)
            log.error(
                "on_error callback raised; it was called with: %s",
                event,
                exc_info=error,
                extra=fields(
                    "callback_error", stream=self._stream, slot=handlers.name, callback=name
                ),
            )
        else:
            self._report(handlers.failure(function, event, error), queued)

    def report(self, error: FastposError) -> None:
        """Tell `on_error` of an error that does not end the stream; log it where nobody listens."""
        if isinstance(error, DecodeError):
            self._counters.decode_errors += 1
        self.received(primitives.monotonic())
        self._report(error, False)

    def _report(self, error: FastposError, queued: bool) -> None:
        if self.silent and not queued:
            return
        error.stream = self._stream
        count(self._counters.errors, kind_of(error))
        on_error = self._callbacks.on_error
        if on_error.functions:
            self.call(on_error, error, queued)
            return
        extra = fields("error", stream=self._stream, error=type(error).__name__)
        if isinstance(error, CallbackError):
            extra |= fields("callback_error", callback=callback_name(error.callback))
        detail = isinstance(error, (CallbackError, DecodeError))
        text = str(error) if self._stream is None else f"{self._stream}: {error}"
        log.error("%s", text, exc_info=error if detail else None, extra=extra)
