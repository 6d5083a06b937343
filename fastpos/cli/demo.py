"""``fastpos demo``: a day in a trader's life, against the simulator, on this machine alone.

With ``--live`` it is a market that goes on, shown as `fastpos watch` shows one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from ..model.events import Disconnect, Ready
from ..runtime.callbacks import CALLBACK_NAMES
from ..simulator import Exchange
from ..stream import PositionStream
from .follow import follow
from .lines import line
from .market import STEP, Market, snapshot_of
from .output import event_json

if TYPE_CHECKING:
    from ..journal import Journal

__all__ = ["DemoFailed", "live_demo", "run_demo"]

# What the script below takes at most, seconds, if every wait in it lasts as long as it may.
PATIENCE = 10.0


class DemoFailed(Exception):
    """Something did not come that should have."""


def run_demo(
    seconds: float | None = None,
    show: Callable[[str], object] = print,
    prepare: Callable[[PositionStream], object] = id,
    journal: Journal | None = None,
    as_json: bool = False,
) -> None:
    """Play the day and show every event; some 5 seconds.

    Args:
        seconds: keep on ticking until so many have passed.
        show: takes the lines.
        prepare: is given the stream before it starts.
        journal: where the day is written down.
        as_json: show an object an event, and nothing else.

    Raises:
        DemoFailed: the stream did not do what it promises.
    """
    began = time.monotonic()
    ready = threading.Semaphore(0)
    seen: set[str] = set()

    def tell(text: str) -> None:
        if not as_json:
            show(text)

    def note(slot: str, event: object) -> None:
        seen.add(type(event).__name__)
        with suppress(BrokenPipeError):  # of which the main thread hears when it shows something
            show(event_json("demo", slot, event) if as_json else line(event))
        if isinstance(event, Ready):
            ready.release()
        elif isinstance(event, Disconnect):
            seen.add("stopped" if event.retry_in_s is None else "dropped")

    with Exchange() as exchange:
        stream = PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            ping_interval=0.5,
            name="demo",
            journal=journal,
        )
        prepare(stream)
        for name in CALLBACK_NAMES:
            getattr(stream, name)(partial(note, name))
        tell(f"the simulator listens on {exchange.url}, the stream connects to it")
        with stream:
            _wait(ready, "the first subscription")
            _morning(exchange, tell)
            tell("--- the network drops the connection")
            exchange.drop()
            _wait(ready, "the recovery from a dropped connection")
            _afternoon(exchange, tell)
            tell("--- the exchange closes for the day")
            exchange.system_close()
            _wait(ready, "the recovery from a system close")
            while seconds is not None and time.monotonic() - began < seconds:
                exchange.tick()
                time.sleep(min(1.0, max(began + seconds - time.monotonic(), 0.0)))
            exchange.close_position(min(exchange.positions))
            time.sleep(0.2)
            stats = stream.stats
    missing = {"Position", "Order", "Trigger", "AccountUpdate", "AdlPrice", "SystemClose"} - seen
    if missing:
        raise DemoFailed(f"no {', '.join(sorted(missing))} was delivered")
    tell(
        f"done: {stats.messages} messages, {stats.subscriptions} subscriptions, "
        f"{stats.decode_errors} decode errors, round trip {(stats.round_trip_s or 0) * 1e3:.1f} ms"
    )


def live_demo(form: str, only_ascii: bool, seconds: float | None) -> None:
    """Show a market of the simulator's as `fastpos watch` would.

    Args:
        form, only_ascii: see `follow`.
        seconds: no longer than so; None: until it is ended.
    """
    over = threading.Event()

    def trade() -> None:
        market = Market(exchange)
        exchange.wait_for_subscribers(1, timeout=PATIENCE)
        market.open()
        while not over.wait(STEP):
            market.step()

    with Exchange() as exchange:
        stream = PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            ping_interval=1.0,
            snapshot=lambda: snapshot_of(exchange),
            name="demo",
        )
        trading = threading.Thread(target=trade, name="demo-market", daemon=True)
        trading.start()
        try:
            follow(stream, form, only_ascii, seconds)
        finally:
            over.set()
            trading.join()


def _morning(exchange: Exchange, show: Callable[[str], object]) -> None:
    show("--- an order is placed and filled, a position opens")
    exchange.set_balance("USDT", available=98000, frozen=2000)
    order = exchange.place_order(price=61001, volume=12)
    time.sleep(0.3)
    exchange.fill_order(order, volume=5)
    position = exchange.open_position(volume=5, open_price=61001)
    time.sleep(0.3)
    exchange.fill_order(order)
    exchange.update_position(position, volume=12)
    show("--- the price moves")
    for _ in range(2):
        time.sleep(0.4)
        exchange.tick()


def _afternoon(exchange: Exchange, show: Callable[[str], object]) -> None:
    show("--- a stop is set, part of the position is closed")
    exchange.place_trigger(trigger_price=60000, price=59990, volume=12)
    time.sleep(0.3)
    position = min(exchange.positions)
    exchange.update_position(position, volume=4, realized_pnl=210.5)
    exchange.tick()
    time.sleep(0.3)


def _wait(ready: threading.Semaphore, what: str) -> None:
    if not ready.acquire(timeout=PATIENCE):
        raise DemoFailed(f"{what} did not come within {PATIENCE:g} s")
