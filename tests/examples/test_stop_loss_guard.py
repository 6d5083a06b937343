"""`examples/stop_loss_guard.py`."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("httpx")

from fastpos.simulator import Exchange
from tests.examples.programs import end, example
from tests.support.programs import read_until


class Rest(ThreadingHTTPServer):
    """The exchange's REST interface with what the simulator's lacks: taking orders."""

    daemon_threads = True

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(("127.0.0.1", 0), _Call)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.exchange = exchange
        self.orders: list[dict[str, Any]] = []
        self.failing = 0


class _Call(BaseHTTPRequestHandler):
    server: Rest

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.startswith("X-")}
        with urlopen(Request(self.server.exchange.rest_url + self.path, headers=headers)) as answer:
            self._answer(answer.status, answer.read())

    def do_POST(self) -> None:
        rest, exchange = self.server, self.server.exchange
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signed = f"{self.headers['X-CH-TS']}POST{self.path}".encode() + body
        digest = hmac.new(exchange.api_secret.encode(), signed, hashlib.sha256).hexdigest()
        assert self.headers["X-CH-SIGN"] == digest
        rest.orders.append(json.loads(body))
        if rest.failing:
            rest.failing -= 1
            self._answer(502, b"")
            return
        for number, position in exchange.positions.items():
            if position["cn"] == rest.orders[-1]["contractName"]:
                exchange.close_position(number)
        self._answer(200, b'{"orderId":1}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as exchange:
        exchange.start_ticking(0.05)
        yield exchange


@pytest.fixture
def rest(exchange: Exchange) -> Iterator[Rest]:
    with Rest(exchange) as rest:
        thread = threading.Thread(target=rest.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield rest
        rest.shutdown()
        thread.join()


def environment(rest: Rest) -> dict[str, str]:
    return {"FASTPOS_REST_URL": rest.url, "FASTPOS_API_SECRET": rest.exchange.api_secret}


def test_it_closes_what_has_lost_too_much_and_leaves_the_rest(
    exchange: Exchange, rest: Rest
) -> None:
    # Both were open before it began: it knows them from the snapshot.
    losing = exchange.open_position(volume=3, open_price=100, margin_mode="ISOLATED")
    fine = exchange.open_position("E-ETH-USDT", "SELL", volume=5, open_price=100)
    with example("stop_loss_guard.py", exchange, GUARD_LIVE="1", **environment(rest)) as guard:
        read_until(guard, "watching 2 positions")
        exchange.set_price("E-ETH-USDT", 101.9)
        exchange.set_price("E-BTC-USDT", 97.5)
        read_until(guard, f"position {losing} has lost 2.50 %")
        read_until(guard, f"position {losing} is closed")
        assert list(exchange.positions) == [fine]
        assert rest.orders == [
            {
                "contractName": "E-BTC-USDT",
                "side": "SELL",
                "open": "CLOSE",
                "positionType": 2,
                "type": "MARKET",
                "volume": 3.0,
            }
        ]
        exchange.set_price("E-ETH-USDT", 102)
        read_until(guard, f"position {fine} is closed")
        assert rest.orders[1]["side"] == "BUY"
        end(guard, exchange)
    assert len(rest.orders) == 2


def test_an_order_that_failed_is_sent_again(exchange: Exchange, rest: Rest) -> None:
    rest.failing = 1
    with example("stop_loss_guard.py", exchange, GUARD_LIVE="1", **environment(rest)) as guard:
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position(volume=3, open_price=100)
        exchange.set_price("E-BTC-USDT", 90)
        read_until(guard, "NOT CLOSED: HTTPStatusError")
        read_until(guard, f"position {position} is closed")
    assert len(rest.orders) == 2


def test_it_only_says_what_it_would_do_and_when_it_is_blind(exchange: Exchange, rest: Rest) -> None:
    with example("stop_loss_guard.py", exchange, **environment(rest)) as guard:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.open_position(volume=3, open_price=100)
        exchange.set_price("E-BTC-USDT", 90)
        read_until(guard, "would send {'contractName': 'E-BTC-USDT', 'side': 'SELL'")
        exchange.refuse_upgrade(503)
        exchange.drop()
        read_until(guard, "NOT WATCHING: the connection was lost")
        exchange.clear_faults()
        read_until(guard, "watching 1 positions")
        end(guard, exchange)
    assert not rest.orders
