"""From a push to the user's functions: make the event, merge it, call.

All of it happens on the reader thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from .book import Book
from .callbacks import Callbacks, Handlers
from .decoder import event_from
from .errors import CallbackError, DecodeError, FastposError
from .events import AccountUpdate, AdlPrice, Event, Order, SystemClose, Trigger, Unknown
from .fields import NumberType
from .stats import Counters, count

__all__ = ["Delivery"]

_log = logging.getLogger("fastpos")


class Delivery:
    """Hands out events, in the order of arrival.

    Args:
        callbacks: the user's functions.
        book: where positions and balances are merged.
        counters: what is counted.
        number: type of numbers in events.
    """

    def __init__(
        self, callbacks: Callbacks, book: Book, counters: Counters, number: NumberType
    ) -> None:
        self._callbacks = callbacks
        self._book = book
        self._counters = counters
        self._events = counters.events
        self._number = number
        self.muted = False
        """True once no function may be called any more; set by the thread that stops."""
        self.background = True
        """Whether this runs on a thread of ours, where a user's sys.exit() would end nothing."""
        self._routes: dict[type, Callable[[Any], None]] = {
            AccountUpdate: self._account_update,
            AdlPrice: self._adl_price,
            Order: self._order,
            Trigger: self._trigger,
            SystemClose: lambda event: self.call(callbacks.on_system_close, event),
            Unknown: self._unknown,
        }

    def push(self, text: bytes, received_ns: int) -> type[Event]:
        """Deliver the push whose JSON is `text`; give the class of its event.

        Raises:
            NoChannel: it is no push.
            DecodeError: it can't be decoded.
        """
        event = event_from(text, received_ns, self._number)
        kind = type(event)
        self._events[kind] += 1
        self._routes[kind](event)
        return kind

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
        count(self._counters.unknown_channels, event.raw["channel"])
        self.call(self._callbacks.on_unknown, event)

    def call(self, handlers: Handlers[Any], event: Any) -> None:
        """Call each function with `event`; what one raises is reported, and the rest go on."""
        for function in handlers.functions:
            if self.muted:
                return
            try:
                function(event)
            except (Exception, SystemExit) as error:
                if isinstance(error, SystemExit) and not self.background:
                    raise
                self._counters.callback_errors += 1
                self.report(handlers.failure(function, event, error))

    def report(self, error: FastposError) -> None:
        """Tell `on_error` of an error that does not end the stream; log it where nobody listens."""
        if isinstance(error, DecodeError):
            self._counters.decode_errors += 1
        functions = self._callbacks.on_error.functions
        if not functions:
            detail = isinstance(error, (CallbackError, DecodeError))
            _log.error("%s", error, exc_info=error if detail else None)
        for function in functions:
            if self.muted:
                return
            try:
                function(error)
            except Exception:  # reporting this to itself would not end
                self._counters.callback_errors += 1
                _log.exception("on_error callback raised; it was called with: %s", error)
