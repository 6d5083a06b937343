"""Closes each position at market when it has lost more than a limit.

    export FASTPOS_URL=wss://futuresws.exchange1.com/position_order/ws FASTPOS_BROKER=1003
    export FASTPOS_REST_URL=https://futuresopenapi.exchange1.com
    export FASTPOS_API_KEY=... FASTPOS_API_SECRET=...
    export GUARD_LOSS_PERCENT=2                # of the entry price
    pip install '.[rest]' && python examples/stop_loss_guard.py

It only says what it would do until `GUARD_LIVE=1` is set. Before you set that, compare
`close_at_market` with your exchange's own page: deployments differ in the names of its fields.

It is no replacement for a stop loss at the exchange, which also works while this program, its
machine or its network does not. It says so when it can't see. Ctrl-C ends it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import httpx

from fastpos import AdlPrice, Disconnect, FastposError, Position, PositionStream, Stale, Synced
from fastpos.rest import AccountSnapshot

RETRY_AFTER = 5.0  # seconds: a position that is still there then is closed again


def loss_percent(position: Position) -> float | None:
    """How far the mark price is on the wrong side of the entry, in % of the entry.

    None where that is not known for sure: an entry that may be out of date is no base for an order.
    """
    entry, mark = position.open_price, position.mark_price
    if not entry or mark is None or "open_price" in position.stale_fields:
        return None
    move = float((mark - entry) / entry) * 100
    return {"BUY": -move, "SELL": move}.get(position.side or "")


def close_at_market(position: Position) -> str:
    """Send the order; give what is to be said of it. Runs on a thread of its own."""
    order = {
        "contractName": position.contract_name,
        "side": "SELL" if position.side == "BUY" else "BUY",
        "open": "CLOSE",  # it can't open anything, so sending it twice does no harm
        "positionType": 2 if position.margin_mode == "ISOLATED" else 1,
        "type": "MARKET",
        "volume": position.volume,
    }
    if os.environ.get("GUARD_LIVE") != "1":
        return f"would send {order}"
    path, body, stamp = "/fapi/v1/order", json.dumps(order), str(int(time.time() * 1000))
    secret = os.environ["FASTPOS_API_SECRET"].encode()
    answer = httpx.post(
        os.environ["FASTPOS_REST_URL"] + path,
        content=body,
        headers={
            "Content-Type": "application/json",
            "X-CH-APIKEY": os.environ["FASTPOS_API_KEY"],
            "X-CH-TS": stamp,
            "X-CH-SIGN": hmac.new(
                secret, f"{stamp}POST{path}{body}".encode(), hashlib.sha256
            ).hexdigest(),
        },
        timeout=10,
    )
    answer.raise_for_status()
    return f"sent {order}, the answer is {answer.text[:200]}"


class Guard:
    """Looks at each tick. Its methods are called on the stream's thread, and never wait."""

    def __init__(
        self, stream: PositionStream, limit: float, close: Callable[[Position], str]
    ) -> None:
        self._stream, self._limit, self._close = stream, limit, close
        self._sender = ThreadPoolExecutor(1, "guard")  # an order takes as long as it takes
        self._sent: dict[int, tuple[Future[str], float]] = {}  # by position; and when
        stream.on_adl_price(self.on_tick)
        stream.on_position(self.on_position)

    def on_tick(self, event: AdlPrice) -> None:
        positions = self._stream.positions
        for tick in event.ticks:
            position = positions.get(tick.id) if tick.id is not None else None
            if position is None:
                continue
            loss = loss_percent(position)
            if loss is not None and loss >= self._limit:
                self._send(position, loss)

    def on_position(self, position: Position) -> None:
        if position.change == "DELETE" and position.id in self._sent:
            del self._sent[position.id]
            say(f"position {position.id} is closed")

    def _send(self, position: Position, loss: float) -> None:
        assert position.id is not None
        earlier = self._sent.get(position.id)
        if earlier is not None:
            future, at = earlier
            if not future.done() or time.monotonic() - at < RETRY_AFTER:
                return
        say(f"position {position.id} has lost {loss:.2f} %: closing it")
        future = self._sender.submit(self._close, position)
        future.add_done_callback(said)
        self._sent[position.id] = future, time.monotonic()


def say(text: str) -> None:
    print(f"{text}\n", end="", flush=True)  # in one piece, as two threads do


def said(future: Future[str]) -> None:
    error = future.exception()
    say(f"NOT CLOSED: {error!r}" if error else future.result())


def main() -> None:
    snapshot = AccountSnapshot(
        os.environ["FASTPOS_REST_URL"],
        os.environ["FASTPOS_API_KEY"],
        os.environ["FASTPOS_API_SECRET"],
    )
    stream = PositionStream(
        os.environ["FASTPOS_URL"],
        api_key=os.environ["FASTPOS_API_KEY"],
        broker=int(os.environ["FASTPOS_BROKER"]),
        snapshot=snapshot,  # without it, what was open before is not known
    )
    Guard(stream, float(os.environ.get("GUARD_LOSS_PERCENT", "2")), close_at_market)

    @stream.on_synced
    def watching(event: Synced) -> None:
        say(f"watching {len(stream.positions)} positions")

    @stream.on_stale
    @stream.on_disconnect
    def blind(event: Stale | Disconnect) -> None:
        say(f"NOT WATCHING: {event.reason}")

    @stream.on_error
    def error(error: FastposError) -> None:
        say(f"error: {error}")

    stream.run_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except FastposError as error:
        raise SystemExit(f"NOT WATCHING any more: {error}") from None
