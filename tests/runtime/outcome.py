"""All that can be seen of what becomes of pushes.

As a program, it does line by line what it is given as JSON, and says what became of it: so what two
installations do can be compared (test_delivery.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from fastpos import _c
from fastpos.account.book import Book
from fastpos.runtime.callbacks import Callbacks
from fastpos.runtime.delivery import Delivery
from fastpos.runtime.stats import Counters
from fastpos.runtime.timing import CallbackTimes

CALLED = ("on_position", "on_account", "on_adl_price", "on_order", "on_trigger", "on_unknown")


def text(push: Any) -> bytes:
    """A push as the wire has it."""
    return json.dumps(push).encode()


class Rig:
    """A `Delivery` with all that it needs, which keeps what it tells."""

    def __init__(self, number: Any = float, hide: Callable[[str], str] = str) -> None:
        self.callbacks = Callbacks()
        self.told: list[tuple[str, Any]] = []
        for name in (*CALLED, "on_error"):
            getattr(self.callbacks, name)(self.keep(name))
        self.book = Book(number)
        self.counters = Counters()
        self.times = CallbackTimes(1.0)
        self.delivery = Delivery(
            self.callbacks, self.book, self.counters, number, self.times, hide=hide
        )

    def keep(self, name: str) -> Callable[[Any], None]:
        """A function that keeps what it is called with."""
        return lambda event: self.told.append((name, event))

    def deliver(self, *pushes: Any) -> bool:
        """Deliver pushes, JSON texts or what they say."""
        texts = [push if isinstance(push, bytes) else text(push) for push in pushes]
        return self.delivery.pushes(texts, 7)

    def act(self, what: str) -> None:
        """Do something to the book."""
        if what == "stale":
            self.book.mark_stale()
        elif what == "interrupt":
            self.book.interrupt()
        elif what == "load":
            text = self.book.dump()
            self.book.load(text)

    @property
    def outcome(self) -> dict[str, Any]:
        """All that anybody can see of what was delivered."""
        book = self.book
        return {
            "told": [(name, type(event), _seen(event)) for name, event in self.told],
            "counts": self.delivery.counts,
            "errors": self.counters.decode_errors,
            "unknown": self.counters.unknown_channels,
            "dump": book.dump(),
            "positions": [(_seen(p), p.missing_from_ticks) for p in book.positions.values()],
            "others": [
                [*map(_seen, known.values())]
                for known in (book.balances, book.orders, book.triggers)
            ],
        }


def _seen(event: Any) -> Any:
    if isinstance(event, Exception):
        return str(event)
    changed = sorted(getattr(event, "changed", ()))
    received_ns = getattr(event, "received_ns", None)
    return (
        repr(event),
        changed,
        event.raw,
        received_ns,
        list(event._wire),
        hash(event) == hash(event),
    )


def main() -> None:
    print("compiled" if _c.compiled else "not compiled", flush=True)
    for line in sys.stdin:
        number, reads = json.loads(line)
        rig = Rig(Decimal if number == "Decimal" else float)
        for texts, then in reads:
            rig.deliver(*(text.encode("latin-1") for text in texts))
            rig.act(then)
        print(repr(rig.outcome), flush=True)


if __name__ == "__main__":
    main()
