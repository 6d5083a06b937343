"""Sends what happens to the account to a phone, through an HTTP hook.

    export FASTPOS_URL=wss://futuresws.exchange1.com/position_order/ws FASTPOS_BROKER=1003
    export FASTPOS_API_KEY=...
    export HOOK_URL=https://api.telegram.org/bot<token>/sendMessage HOOK_CHAT=<chat id>
    python examples/alert_hook.py

Each message is a POST of JSON with a `text`, and with HOOK_CHAT a `chat_id`, which is what Telegram
wants; Slack's hooks take the same without a chat. Ctrl-C ends it, when what waits has been sent.
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request

from fastpos import Disconnect, FastposError, Order, Position, PositionStream, Ready, Stale

ATTEMPTS = 6
FIRST_WAIT = 1.0  # seconds, doubled each time
LEAVE_WITHIN = 10.0  # seconds for what still waits at the end


class Hook:
    """Posts texts one after the other, on a thread of its own; nobody waits for it."""

    def __init__(self, url: str, chat: str | None) -> None:
        self._url, self._chat = url, chat
        self._waiting: queue.Queue[str | None] = queue.Queue(1000)
        self._leave_at = float("inf")  # set once, by `close`
        self._thread = threading.Thread(target=self._run, name="hook", daemon=True)
        self._thread.start()

    def send(self, text: str) -> None:
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            print("not sent, too many wait:", text, flush=True)

    def close(self) -> None:
        self._leave_at = time.monotonic() + LEAVE_WITHIN
        self._waiting.put(None)
        self._thread.join(LEAVE_WITHIN + 1)

    def _run(self) -> None:
        while (text := self._waiting.get()) is not None:
            if not self._sent(text):
                print("not sent:", text, flush=True)

    def _sent(self, text: str) -> bool:
        wait = FIRST_WAIT
        for _ in range(ATTEMPTS):
            try:
                self._post(text)
                return True
            except urllib.error.HTTPError as error:
                print("the hook answers", error.code, flush=True)
                if error.code != 429 and error.code < 500:
                    return False  # the same again would be refused again
                wait = max(wait, float(error.headers.get("Retry-After") or 0))
            except OSError as error:  # no connection, a time-out
                print("the hook can't be reached:", error, flush=True)
            if time.monotonic() + wait > self._leave_at:
                return False
            time.sleep(wait)
            wait *= 2
        return False

    def _post(self, text: str) -> None:
        body = {"text": text} | ({"chat_id": self._chat} if self._chat else {})
        request = urllib.request.Request(
            self._url, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()


def shown(value: float | None) -> str:
    return "?" if value is None else f"{value:.12g}"


class Alerts(PositionStream):
    """Methods named on_… are callbacks."""

    hook: Hook

    def on_position(self, position: Position) -> None:  # type: ignore[override]
        if position.change in ("CREATE", "DELETE"):
            done = "opened" if position.change == "CREATE" else "closed"
            self.hook.send(
                f"{done}: {position.contract_name} {position.side} {shown(position.volume)}"
                f" at {shown(position.open_price)}, realized {shown(position.realized_pnl)}"
            )

    def on_order(self, order: Order) -> None:  # type: ignore[override]
        if order.action == "CHANGE" and order.filled_volume:
            filled = f"{shown(order.filled_volume)} of {shown(order.volume)}"
            price = shown(order.avg_price)
            self.hook.send(f"filled: {order.contract_name} {order.side} {filled} at {price}")

    def on_ready(self, event: Ready) -> None:  # type: ignore[override]
        if event.gap_s is not None:
            self.hook.send(f"connected again; what happened in {event.gap_s:.0f} s was missed")

    def on_disconnect(self, event: Disconnect) -> None:  # type: ignore[override]
        if event.reason != "stopped":
            self.hook.send(f"disconnected: {event.reason}")

    def on_stale(self, event: Stale) -> None:  # type: ignore[override]
        self.hook.send(f"silence: {event.reason}")

    def on_error(self, error: FastposError) -> None:  # type: ignore[override]
        print("error:", error, flush=True)


def main() -> None:
    hook = Hook(os.environ["HOOK_URL"], os.environ.get("HOOK_CHAT"))
    stream = Alerts(
        os.environ["FASTPOS_URL"],
        api_key=os.environ["FASTPOS_API_KEY"],
        broker=int(os.environ["FASTPOS_BROKER"]),
    )
    stream.hook = hook
    try:
        stream.run_forever()
    except FastposError as error:
        hook.send(f"the stream has ended: {error}")
        raise
    finally:
        hook.close()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except FastposError as error:
        raise SystemExit(f"the stream has ended: {error}") from None
