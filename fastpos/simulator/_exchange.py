"""`Exchange`: what a test or a demo says to the exchange in a box."""

import hashlib
import hmac
import ssl
import struct
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ._account import Account, Message, Number
from ._faults import Answer, Faults, Planned
from ._link import Connection
from ._rest import RestServer
from ._server import Server
from ._wire import BINARY, swapped, to_json

_RECEIVE_WINDOW_MS = 5000  # a signed request may be this far off the clock

_Self = TypeVar("_Self", bound="Exchange")


class Exchange(Server):
    """An exchange in a box, as strict as a real one, on a free port of this machine::

        with Exchange() as exchange:
            stream = PositionStream(exchange.url, api_key=exchange.api_key, broker=exchange.broker)
            with stream:
                stream.wait_ready(5)
                position = exchange.open_position(side="BUY", volume=3, open_price=61000.5)

    It has one user's account. What happens to the account (`open_position`, `fill_order`, …) is
    pushed to every subscribed client, as the exchange would; what happens while nobody is there
    only changes the truth, which `positions`, `balances`, `orders`, `triggers` and
    `snapshot_state()` tell and `rest_url` serves. What clients said wrong is in `violations`. The
    faults (`drop`, `stall`, `refuse_upgrade`, …) last until `clear_faults()`, or as often as told.

    All methods may be called from any thread; none waits for a client. One lock guards it all, so
    whatever runs inside a `wait_for` predicate sees one moment.

    Args:
        host: the address that it listens on.
        port: its port; 0: a free one, kept over stop and start.
        api_key, token: the credentials that it takes, at the upgrade and in ``sub``.
        api_secret: what REST requests are to be signed with.
        broker: the broker that it takes in ``sub``.
        uid: the user's id, in pushes.
        ssl_context: a server's; with one it speaks ``wss`` and ``https``.
        ping_timeout: without a ping for so long it disconnects a client, seconds.
        ping_tolerance: how far a ping's value may be off its clock, seconds.
        reply_format: how ``connect success`` and ``sub success`` come: "text", "quoted", "binary",
            "gzip", "gzip-quoted", "json-event" or "json-code".
        pong_format: how the answer to a ping comes: "text" or "gzip".
        style: "documented", or "swapped": numbers are sent as strings, numeric strings as numbers,
            and each object has an undocumented field.
        api_key_header: the name of the API key's header at the upgrade.
        rest_port: the port of REST, as `port`.

    Raises:
        ValueError: an argument is none of these.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        api_key: str = "simulated-api-key-4f1c9a",
        api_secret: str = "simulated-api-secret-7be02d",
        token: str = "simulated-token-c83d15",
        broker: int = 1003,
        uid: int = 1001,
        ssl_context: ssl.SSLContext | None = None,
        ping_timeout: float = 40.0,
        ping_tolerance: float = 60.0,
        reply_format: str = "text",
        pong_format: str = "text",
        style: str = "documented",
        api_key_header: str = "api-key",
        rest_port: int = 0,
    ) -> None:
        if style not in ("documented", "swapped"):
            raise ValueError(f"style: {style!r} is neither 'documented' nor 'swapped'")
        super().__init__(
            host,
            port,
            api_key=api_key,
            api_secret=api_secret,
            token=token,
            broker=broker,
            uid=uid,
            ssl_context=ssl_context,
            ping_timeout=ping_timeout,
            ping_tolerance=ping_tolerance,
            reply_format=reply_format,
            pong_format=pong_format,
            api_key_header=api_key_header,
        )
        self._style = style
        self._account = Account(uid, broker, self.now_ms)
        self._account.set_balance("USDT", {"an": "100000", "la": "0", "pn": "0"})
        self._ticker: threading.Thread | None = None
        self._ticker_stop = threading.Event()
        self._closers: list[threading.Thread] = []
        self.rest_requests: list[tuple[float, str, int]] = []
        """REST requests: when (`time.monotonic`), path with query, status of the answer."""
        self._rest_port = rest_port
        self._rest_server: RestServer | None = None

    def start(self: _Self) -> _Self:
        """Listen and serve, on the same ports as before if there were any; returns itself.

        Raises `OSError` when a port is taken. Does nothing while running.
        """
        super().start()
        if self._rest_port:
            self._start_rest()
        return self

    def stop(self) -> None:
        """Close every connection with 1001 and stop listening and ticking; may be started again.

        Clients have a moment to answer the close frame, then their connection is reset. Faults
        and the truth stay as they are. Does nothing while stopped.
        """
        self.stop_ticking()
        super().stop()
        with self._lock:
            rest, self._rest_server = self._rest_server, None
            closers, self._closers = self._closers, []
        if rest is not None:
            rest.stop()
        for closer in closers:
            closer.join(1.0)

    # The truth.

    @property
    def positions(self) -> dict[int, Message]:
        """The open positions by id: copies, as a CREATE would show them now."""
        return self._copy("positions")

    @property
    def ticks(self) -> dict[int, Message]:
        """What only ticks tell of the open positions, by id: copies (`al`, `ha`, `bo`, …)."""
        return self._copy("ticks")

    @property
    def balances(self) -> dict[str, Message]:
        """The balances by coin: copies, as pushes show them."""
        return self._copy("balances")

    @property
    def orders(self) -> dict[str, Message]:
        """The open orders by id: copies, as pushes show them but for `orderAction`."""
        return self._copy("orders")

    @property
    def triggers(self) -> dict[str, Message]:
        """The open trigger orders by id: copies, as pushes show them but for `orderAction`."""
        return self._copy("triggers")

    def snapshot_state(self) -> Message:
        """All of `positions`, `ticks`, `balances`, `orders` and `triggers`, at one moment."""
        with self._lock:
            return self._account.copy()

    def _copy(self, what: str) -> dict[Any, Message]:
        return dict(self.snapshot_state()[what])

    def _publish(self, message: Message) -> int:
        """Push a message made from the truth; the lock is held since the truth changed."""
        return self.push(self._styled(message))

    def _styled(self, message: Message) -> Any:
        return swapped(message) if self._style == "swapped" else message

    # REST.

    @property
    def rest_url(self) -> str:
        """The REST interface's base URL; asking for it while running starts that server.

        It has `GET /fapi/v1/time` and, signed, `GET /fapi/v1/account` and
        `GET /fapi/v1/openOrders`. Raises `RuntimeError` before the first start.
        """
        if self._running:
            self._start_rest()
        return f"{'https' if self._ssl_context else 'http'}://{self._authority(self._rest_port)}"

    def _start_rest(self) -> None:
        with self._lock:
            if self._rest_server is None:
                self._rest_server = RestServer(
                    self.host, self._rest_port, self._family(), self._respond, self._ssl_context
                )
                self._rest_port = self._rest_server.port

    def _respond(self, method: str, path: str, header: Callable[[str], str | None]) -> Answer:
        with self._lock:
            fault = self.faults.rest
            if (
                fault is not None
                and fault.answer is not None
                and fault.path in (None, path.partition("?")[0])
                and fault.take()
            ):
                answer = fault.answer
            else:
                status, body = self._rest_answer(method, path, header)
                answer = Answer(status, {}, to_json(self._styled(body)))
            self.rest_requests.append((time.monotonic(), path, answer.status))
            self._note("rest")
            self._changed.wait_for(
                lambda: not self._running or self.faults.rest_delay == 0, self.faults.rest_delay
            )
        return answer

    def _rest_answer(
        self, method: str, path: str, header: Callable[[str], str | None]
    ) -> tuple[int, Any]:
        resource = path.partition("?")[0]
        if resource == "/fapi/v1/time":
            return 200, {"serverTime": self.now_ms()}
        answers: dict[str, Callable[[], Any]] = {
            "/fapi/v1/account": self._account.rest_account,
            "/fapi/v1/openOrders": self._account.rest_open_orders,
        }
        if resource not in answers:
            return 404, {"code": -1100, "msg": "no such resource"}
        stamp, signature = header("X-CH-TS") or "", header("X-CH-SIGN")
        if header("X-CH-APIKEY") != self.api_key:
            return 401, {"code": -2015, "msg": "invalid API key"}
        if not (stamp.isascii() and stamp.isdigit()):
            return 400, {"code": -1102, "msg": "X-CH-TS: not a time in ms"}
        if abs(int(stamp) - self.now_ms()) > _RECEIVE_WINDOW_MS:
            return 400, {"code": -1021, "msg": "X-CH-TS: too far from the server's time"}
        signed = f"{stamp}{method}{path}".encode()
        if signature != hmac.new(self.api_secret.encode(), signed, hashlib.sha256).hexdigest():
            return 400, {"code": -1022, "msg": "X-CH-SIGN: the signature is not valid"}
        return 200, answers[resource]()

    # What happens to the account. Each is pushed.

    def open_position(
        self,
        contract_name: str = "E-BTC-USDT",
        side: str = "BUY",
        volume: Number = 12,
        open_price: Number = 98533.6,
        *,
        position_id: int | None = None,
        **fields: Any,
    ) -> int:
        """Open a position (CREATE); returns its id.

        More `fields` by the names of `fastpos.Position` (`leverage=5`, `margin_mode="ISOLATED"`,
        and of a tick, `mark_price=…`) or by the wire's (`l=5`); the rest have sensible values.
        Raises `TypeError` for other names, `ValueError` when `position_id` is open already.
        """
        given = {"cn": contract_name, "s": side, "pv": volume, "op": open_price} | fields
        with self._lock:
            new_id, message = self._account.open_position(position_id, given)
            self._publish(message)
        return new_id

    def update_position(self, position_id: int, **changes: Any) -> bool:
        """Change fields of an open position (UPDATE with those that are new); False when none is.

        Named as in `open_position`. What only ticks tell shows with the next tick. Raises
        `KeyError` for an id that is not open, `TypeError` for other names.
        """
        with self._lock:
            message = self._account.update_position(position_id, changes)
            if message is not None:
                self._publish(message)
        return message is not None

    def close_position(self, position_id: int) -> None:
        """Close a position (DELETE). Raises `KeyError` for an id that is not open."""
        with self._lock:
            self._publish(self._account.close_position(position_id))

    def set_price(self, contract_name: str, last: Number, spread: Number = 0.2) -> None:
        """Set last, mark, bid and ask price of a contract's positions; the next tick shows them."""
        with self._lock:
            self._account.set_price(contract_name, last, spread)

    def set_balance(
        self,
        coin: str = "USDT",
        *,
        available: Number | str | None = None,
        frozen: Number | str | None = None,
        isolated_margin: Number | str | None = None,
    ) -> None:
        """Set a coin's amounts (DEFAULT); None leaves one as it is, a string goes out as it is."""
        amounts = {"an": available, "la": frozen, "pn": isolated_margin}
        with self._lock:
            self._publish(self._account.set_balance(coin, amounts))

    def place_order(
        self,
        contract_name: str = "E-BTC-USDT",
        side: str = "BUY",
        volume: Number = 100,
        price: Number = 61001,
        *,
        take_profit: Number | None = None,
        stop_loss: Number | None = None,
        **fields: Any,
    ) -> str:
        """Place an order ("1"); returns its id. `take_profit` and `stop_loss` are trigger prices.

        More `fields` by the names of `fastpos.Order` or the wire's. Raises `TypeError` for others.
        """
        given: Message = {"contractName": contract_name, "contractSide": side}
        given |= {"volume": volume, "price": price} | fields
        with self._lock:
            order_id, message = self._account.place_order(given, take_profit, stop_loss)
            self._publish(message)
        return order_id

    def fill_order(
        self, order_id: str, volume: Number | None = None, price: Number | None = None
    ) -> None:
        """Fill `volume` contracts (None: what is left) at `price` (None: the order's) ("3").

        A filled order is no longer open. Raises `KeyError` for an id that is not open,
        `ValueError` for more than is left.
        """
        with self._lock:
            self._publish(self._account.fill_order(order_id, volume, price))

    def change_order(self, order_id: str, **changes: Any) -> None:
        """Change fields of an open order ("3"). Raises `KeyError`, `TypeError`."""
        with self._lock:
            self._publish(self._account.change_order(order_id, changes))

    def cancel_order(self, order_id: str) -> None:
        """Cancel an open order ("2"). Raises `KeyError` for an id that is not open."""
        with self._lock:
            self._publish(self._account.cancel_order(order_id))

    def place_trigger(
        self,
        side: str = "buy",
        trigger_price: Number = 61001,
        price: Number = 61003,
        volume: Number = 10,
        **fields: Any,
    ) -> str:
        """Place a trigger order ("1"); returns its id.

        More `fields` by the names of `fastpos.Trigger` or the wire's. Raises `TypeError`.
        """
        given = {"side": side, "triggerPrice": trigger_price, "price": price, "volume": volume}
        with self._lock:
            trigger_id, message = self._account.place_trigger(given | fields)
            self._publish(message)
        return trigger_id

    def cancel_trigger(self, trigger_id: str) -> None:
        """Cancel a trigger order ("2"). Raises `KeyError` for an id that is not open."""
        with self._lock:
            self._publish(self._account.cancel_trigger(trigger_id))

    def tick(self) -> bool:
        """Push one ADL_PRICE for all open positions; False when there is none."""
        with self._lock:
            message = self._account.tick()
            if message is not None:
                self._publish(message)
        return message is not None

    def start_ticking(self, interval: float = 1.0) -> None:
        """Call `tick` every `interval` seconds until `stop_ticking` or `stop`."""
        self.stop_ticking()
        stop = self._ticker_stop = threading.Event()

        def run() -> None:
            due = time.monotonic() + interval
            while not stop.wait(max(0.0, due - time.monotonic())):
                due += interval
                self.tick()

        self._ticker = threading.Thread(target=run, name="fastpos-exchange-ticker", daemon=True)
        self._ticker.start()

    def stop_ticking(self) -> None:
        """End what `start_ticking` began."""
        self._ticker_stop.set()
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None

    def system_close(self, close_after: float = 0.1) -> None:
        """Push SYSTEM close; `close_after` seconds later end the connections there are with 1001.

        New connections are served.
        """
        with self._lock:
            self._publish({"channel": "SYSTEM", "uid": self.uid, "et": "close"})
            leaving = list(self._live)

        def run() -> None:
            with self._lock:
                self._changed.wait_for(lambda: not self._running, close_after)
                for record in leaving:
                    if record.alive:
                        self._close(record, 1001, "")

        closer = threading.Thread(target=run, name="fastpos-exchange-closer", daemon=True)
        self._closers = [c for c in self._closers if c.is_alive()] + [closer]
        closer.start()

    # Faults.

    def drop(
        self,
        *,
        clean: bool = False,
        code: int | None = 1001,
        reason: str = "",
        connection: Connection | None = None,
    ) -> int:
        """End every connection (or one) now; returns how many. New ones are served.

        A TCP reset, and what was queued is lost; or, when `clean`, a close frame after what was
        queued, with any `code` at all from 0 to 65535, or with None the stream's bare end.
        """
        with self._lock:
            chosen = [c for c in self._live if connection is None or c is connection]
            if clean:
                for record in chosen:
                    self._close(record, code, reason)
                return len(chosen)
            for record in chosen:
                if record.link is not None:
                    record.link.transport.abort()
                self._retire(record)
            if connection is None:
                for transport in list(self._transports):
                    transport.abort()  # those still in their handshake
            return len(chosen)

    def stall(
        self,
        *,
        pushes: bool = False,
        pongs: bool = False,
        handshakes: bool = False,
        closes: bool = False,
    ) -> None:
        """Go silent, with TCP left open, until `resume()`; what is named True goes on.

        `pushes`: data is sent (else it goes nowhere); `pongs`: pings of both kinds are answered;
        `handshakes`: upgrades and subscriptions are; `closes`: close frames are. Upgrades that
        were not answered are when it resumes; nothing else is made up for.
        """
        self._set_faults(pushes=pushes, pongs=pongs, handshakes=handshakes, closes=closes)

    def resume(self) -> None:
        """End all faults; the same as `clear_faults`."""
        self.clear_faults()

    def clear_faults(self) -> None:
        """End all faults. What is waiting for one of them goes on."""
        with self._lock:
            self.faults: Faults = Faults()
            self._wake()

    def refuse_upgrade(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        times: int | None = None,
    ) -> None:
        """Answer the next `times` upgrades (None: all) with this HTTP response."""
        self._set_faults(upgrade=Planned(times, Answer(status, headers or {}, body)))

    def refuse_subscription(self, text: str = "sub fail", times: int | None = None) -> None:
        """Answer the next `times` subscriptions (None: all) with `text`."""
        self._set_faults(refuse_sub=Planned(times, text=text))

    def ignore_subscription(self, times: int | None = None) -> None:
        """Answer nothing to the next `times` subscriptions (None: all)."""
        self._set_faults(no_sub_answer=Planned(times))

    def silent_connect(self, times: int | None = None) -> None:
        """Leave out `connect success` for the next `times` clients (None: all)."""
        self._set_faults(no_greeting=Planned(times))

    def push_before_sub_success(self, message: Any) -> None:
        """Push `message` (as in `push`) right before the next `sub success`; may be repeated."""
        with self._lock:
            self.faults.early_pushes.append(self._push_of(message))

    def truncate_frame(self, message: Any = None, *, end: bool = False) -> int:
        """Begin a push to every client and never finish it; returns to how many.

        Nothing follows on these connections; with `end`, the stream's end does.
        """
        whole = self._push_of({"channel": "SYSTEM"} if message is None else message)
        with self._lock:
            chosen = list(self._live)
            for record in chosen:
                link = record.link
                if link is not None:
                    link.transport.put(whole[: len(whole) // 2], last=True)
                if end:
                    self._close(record, None, "")
                else:
                    self._retire(record)
            return len(chosen)

    def trickle(self, size: int = 1, pause: float = 0.0) -> None:
        """Send in pieces of `size` bytes, with `pause` seconds after each: upgrades too."""
        self._set_faults(trickle=(size, pause))

    def never_read(self) -> None:
        """Read nothing more of what clients send."""
        self._set_faults(reading=False)

    def announce_frame(self, size: int) -> int:
        """Send every client the header of a binary frame of `size` bytes, and nothing of it."""
        return self.send_raw(struct.pack("!BBQ", 0x80 | BINARY, 127, size))

    def rest_fail(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        times: int | None = None,
        path: str | None = None,
    ) -> None:
        """Answer the next `times` REST requests (None: all), of this `path` (None: any), so."""
        self._set_faults(rest=Planned(times, Answer(status, headers or {}, body), path=path))

    def rest_delay(self, seconds: float) -> None:
        """Hold each REST answer back for `seconds`, until the fault is cleared, or until `stop`.

        The answer is made when the request comes, so it tells the truth of that moment.
        """
        self._set_faults(rest_delay=seconds)

    def _set_faults(self, **faults: Any) -> None:
        with self._lock:
            for name, value in faults.items():
                setattr(self.faults, name, value)
            self._wake()

    def _wake(self) -> None:
        for transport in self._transports:
            transport.wake()
        self._changed.notify_all()
