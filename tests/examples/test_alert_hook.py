"""`examples/alert_hook.py`."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fastpos.simulator import Exchange
from tests.examples.programs import end, example
from tests.support.programs import read_until
from tests.support.recording import until


class Phone(ThreadingHTTPServer):
    """What is behind the hook: it keeps what it was sent, and answers with `answers` first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.url = f"http://127.0.0.1:{self.server_port}/bot/sendMessage"
        self.got: list[dict[str, Any]] = []
        self.answers: list[int] = []

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.got]


class _Request(BaseHTTPRequestHandler):
    server: Phone

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.got.append(json.loads(body))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def phone() -> Iterator[Phone]:
    with Phone() as phone:
        thread = threading.Thread(target=phone.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield phone
        phone.shutdown()
        thread.join()


def test_what_happens_is_sent_to_the_hook(phone: Phone) -> None:
    with (
        Exchange() as exchange,
        example("alert_hook.py", exchange, HOOK_URL=phone.url, HOOK_CHAT="42") as alerts,
    ):
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position(volume=3, open_price=61000.5)
        exchange.fill_order(exchange.place_order(volume=100, price=61001), 40)
        exchange.close_position(position)
        until(lambda: len(phone.got) == 3, 20)
        assert phone.got == [
            {"text": "opened: E-BTC-USDT BUY 3 at 61000.5, realized 0", "chat_id": "42"},
            {"text": "filled: E-BTC-USDT BUY 40 of 100 at 61001", "chat_id": "42"},
            {"text": "closed: E-BTC-USDT BUY 3 at 61000.5, realized 0", "chat_id": "42"},
        ]
        exchange.drop()
        until(lambda: len(phone.got) == 5, 20)
        assert phone.texts[3].startswith("disconnected: the connection was lost")
        assert re.fullmatch(r"connected again; what happened in \d+ s was missed", phone.texts[4])
        end(alerts, exchange)
    assert len(phone.got) == 5


def test_a_hook_in_trouble_is_tried_again_and_holds_up_nothing(phone: Phone) -> None:
    phone.answers = [500, 429]
    with Exchange() as exchange, example("alert_hook.py", exchange, HOOK_URL=phone.url) as alerts:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.open_position(volume=3)
        exchange.open_position(volume=4)
        read_until(alerts, "the hook answers 500")
        read_until(alerts, "the hook answers 429")
        alerts.send_signal(signal.SIGINT)  # it leaves when what waits is sent
        read_until(alerts, "stopped")
    assert [text.split(" at ")[0] for text in phone.texts] == [
        "opened: E-BTC-USDT BUY 3",
        "opened: E-BTC-USDT BUY 4",
    ]


def test_what_the_hook_refuses_is_said_and_not_tried_again(phone: Phone) -> None:
    phone.answers = [400]
    with Exchange() as exchange, example("alert_hook.py", exchange, HOOK_URL=phone.url) as alerts:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.open_position(volume=3)
        read_until(alerts, "not sent: opened: E-BTC-USDT BUY 3")
        exchange.open_position(volume=4)
        until(lambda: phone.got, 20)
    assert phone.texts[0].startswith("opened: E-BTC-USDT BUY 4")
