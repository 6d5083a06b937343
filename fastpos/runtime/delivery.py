"""From a push to the user's functions: make the event, merge it, call.

With the C extension, numbers as floats and callbacks on the reader thread, C does all of this for
pushes as they usually are (_delivery.c). The others are left to what is here.

All of it happens on the reader thread; with ``dispatch="thread"`` the calling, and what comes of
it, on the callback thread (see dispatch.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any

from ..account.book import Book
from ..account.state import Entry, PositionEntry, State
from ..errors import CallbackError, DecodeError, FastposError
from ..logs import fields, log
from ..model.events import (
    AccountUpdate,
    AdlPrice,
    Event,
    Order,
    Position,
    SystemClose,
    Trigger,
    Unknown,
)
from ..model.fields import NumberType
from ..wire.decoder import KEYS, event_from, native_decoder
from .callbacks import Callbacks, Handlers, callback_name
from .dispatch import Dispatcher
from .stats import Counters, count
from .timing import CallbackTimes

__all__ = ["Delivery"]

Deliverer: Any = None  # of _native.c, None where it was not built
if native_decoder is not None:
    from .._c._native import Deliverer

_CLASSES = {
    kind.__name__: kind
    for kind in (
        AccountUpdate,
        AdlPrice,
        Book,
        CallbackTimes,
        Entry,
        Handlers,
        Order,
        Position,
        PositionEntry,
        State,
    )
}


class Delivery:
    """Hands out events, in the order of arrival.

    Args:
        callbacks: the user's functions.
        book: where positions and balances are merged.
        counters: what is counted.
        number: type of numbers in events.
        times: takes the functions' time; None: nobody wants to know.
        dispatcher: has them called on a thread of its own; None: they are called here.
    """

    def __init__(
        self,
        callbacks: Callbacks,
        book: Book,
        counters: Counters,
        number: NumberType,
        times: CallbackTimes | None = None,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._book = book
        self._counters = counters
        self._events: defaultdict[type, int] = defaultdict(int)
        self._number = number
        self._times = times or CallbackTimes(inf)
        self._dispatcher = dispatcher
        self._heard = 0.0  # when what is being delivered was received
        self._muted = False  # no function may be called any more
        self._background = True  # on a thread of ours, where a user's sys.exit() would end nothing
        self._routes: dict[type, Callable[[Any], None]] = {
            AccountUpdate: self._account_update,
            AdlPrice: self._adl_price,
            Order: self._order,
            Trigger: self._trigger,
            SystemClose: lambda event: self.call(callbacks.on_system_close, event),
            Unknown: self._unknown,
        }
        self._native: Any = None
        if Deliverer is not None and number is float and dispatcher is None:
            self._native = Deliverer(
                native_decoder,
                book,
                book.lock,
                callbacks,
                self._times,
                KEYS,
                _CLASSES,
                self.handle,
                self.raised,
            )

    # --- for any thread ---------------------------------------------------------------------

    def begin(self, background: bool) -> None:
        """Begin a run; `background`: on a thread of ours, where sys.exit() would end nothing."""
        self._muted = False
        self._background = background
        if self._native is not None:
            self._native.muted = self._native.halted = False

    def halt(self) -> None:
        """Have `pushes` return before the next push."""
        if self._native is not None:
            self._native.halted = True

    def mute(self) -> None:
        """Call no function any more."""
        self._muted = True
        if self._native is not None:
            self._native.muted = True

    @property
    def counts(self) -> dict[str, int]:
        """How many events were delivered, by the name of their class."""
        counts = {kind.__name__: number for kind, number in list(self._events.items())}
        if self._native is not None:
            for kind, number in (
                (AccountUpdate, self._native.account_updates),
                (AdlPrice, self._native.adl_prices),
                (Order, self._native.orders),
            ):
                if number:
                    counts[kind.__name__] = counts.get(kind.__name__, 0) + number
        return counts

    # --- the reader's -----------------------------------------------------------------------

    def pushes(self, texts: list[bytes], start: int, received_ns: int) -> int:
        """Deliver the pushes whose JSON is in ``texts[start:]``, as far as they are as usual.

        Returns:
            The position of the first that was not delivered, which `push` is for.

        Raises:
            BaseException: what a function raised to end the stream.
        """
        if self._native is None:
            return start
        at: int = self._native.deliver(texts, start, received_ns)
        return at

    def push(self, text: bytes, received_ns: int) -> type[Event]:
        """Deliver the push whose JSON is `text`; give the class of its event.

        Raises:
            NoChannel: it is no push.
            DecodeError: it can't be decoded.
        """
        event = event_from(text, received_ns, self._number)
        self.handle(event)
        return type(event)

    def handle(self, event: Event) -> None:
        """Count, merge and hand out an event."""
        kind = type(event)
        self._events[kind] += 1
        self._routes[kind](event)

    def _account_update(self, event: AccountUpdate) -> None:
        self._book.apply_account(event)
        body = event._wire["d"]
        if body.get("p"):
            self.call(self._callbacks.on_position, event._position)
        if body.get("a"):
            self.call(self._callbacks.on_account, event)

    def _adl_price(self, event: AdlPrice) -> None:
        self._book.apply_ticks(event)
        self.call(self._callbacks.on_adl_price, event)

    def _order(self, event: Order) -> None:
        self._book.apply_order(event)
        self.call(self._callbacks.on_order, event)

    def _trigger(self, event: Trigger) -> None:
        self._book.apply_trigger(event)
        self.call(self._callbacks.on_trigger, event)

    def _unknown(self, event: Unknown) -> None:
        count(self._counters.unknown_channels, event._raw["channel"])
        self.call(self._callbacks.on_unknown, event)

    def received(self, at: float) -> None:
        """Say when what is pushed from now on was read, `time.monotonic()`."""
        if at > self._heard:
            self._heard = at
            if self._dispatcher is None:
                self._times.take_up(at)

    def tell(self, handlers: Handlers[Any], event: Any) -> None:
        """Do `call` with something that was not read but happens now."""
        self.received(monotonic())
        self.call(handlers, event)

    def call_queued(self, handlers: Handlers[Any], event: Any, heard: float) -> None:
        """Do `call` on the callback thread, with an event that was received at `heard`."""
        self._times.take_up(heard)
        self.call(handlers, event, True)

    def call(self, handlers: Handlers[Any], event: Any, queued: bool = False) -> None:
        """Call each function with `event`; what one raises is reported, and the rest go on.

        With a dispatcher the event goes into its queue, from which it comes back `queued`.
        """
        if self._dispatcher is not None and not queued:
            if handlers.functions:
                self._dispatcher.put(handlers, event, self._heard)
            return
        times = self._times
        for function in handlers.functions:
            if self._muted:
                return
            times.begun = begun = times.now
            try:
                function(event)
            except (Exception, SystemExit) as error:
                times.now = monotonic()
                times.took(handlers.name, function, times.now - begun)
                self.raised(handlers, function, event, error, queued)
            else:
                times.now = now = monotonic()
                if now - begun > times.limit:
                    times.took(handlers.name, function, now - begun)

    def raised(
        self,
        handlers: Handlers[Any],
        function: Callable[[Any], object],
        event: Any,
        error: BaseException,
        queued: bool = False,
    ) -> None:
        """Report what `function` raised, or raise it if it is to end the stream."""
        if isinstance(error, SystemExit):
            if not self._background:
                raise error
        elif not isinstance(error, Exception):
            raise error
        self._counters.callback_errors += 1
        if handlers is self._callbacks.on_error:  # reporting this to itself would not end
            name = callback_name(function)
            log.error(
                "on_error callback raised; it was called with: %s",
                event,
                exc_info=error,
                extra=fields("callback_error", slot=handlers.name, callback=name),
            )
        else:
            self._report(handlers.failure(function, event, error), queued)

    def report(self, error: FastposError) -> None:
        """Tell `on_error` of an error that does not end the stream; log it where nobody listens."""
        if isinstance(error, DecodeError):
            self._counters.decode_errors += 1
        self.received(monotonic())
        self._report(error, False)

    def _report(self, error: FastposError, queued: bool) -> None:
        on_error = self._callbacks.on_error
        if on_error.functions:
            self.call(on_error, error, queued)
            return
        extra = fields("error", error=type(error).__name__)
        if isinstance(error, CallbackError):
            extra |= fields("callback_error", callback=callback_name(error.callback))
        detail = isinstance(error, (CallbackError, DecodeError))
        log.error("%s", error, exc_info=error if detail else None, extra=extra)
