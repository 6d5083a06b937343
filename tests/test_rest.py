"""The snapshot over REST: against the simulator, and against servers that misbehave."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from typing import Any

import httpx
import pytest

import fastpos.rest
from fastpos import Balance, Order, Position, Snapshot, SnapshotError
from fastpos.rest import AccountSnapshot
from fastpos.simulator import Exchange
from tests.support.certificates import Certificates
from tests.support.connections import at_once
from tests.support.programs import run
from tests.support.pushes import bomb, pushed
from tests.support.recording import KEY, SOON, until
from tests.support.rig import LOOPBACK
from tests.support.servers import ScriptedServer
from tests.support.upgrade import read_request

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

SECRET = "secret-of-the-tests-3c9d"
HOUR_MS = 3_600_000
SHORT = 0.3
"""Seconds: a time-out that a test waits for."""
AT_ONCE = 6.0
"""Seconds: over in this time is within `SHORT`, on a busy machine."""

TIME = "/fapi/v1/time"
ACCOUNT = "/fapi/v1/account"
ORDERS = "/fapi/v1/openOrders"
NewSource = Callable[..., AccountSnapshot]

EMPTY = {"account": [{"marginCoin": "USDT", "positionVos": []}]}


@pytest.fixture
def new_source() -> Iterator[NewSource]:
    """Makes sources, of an `Exchange` or a URL, and closes them when the test ends."""
    sources: list[AccountSnapshot] = []

    def new(server: Exchange | ScriptedServer | str, **options: Any) -> AccountSnapshot:
        key, secret = KEY, SECRET
        if isinstance(server, Exchange):
            url, key, secret = server.rest_url, server.api_key, server.api_secret
        else:
            url = server if isinstance(server, str) else base_url(server)
        options = {"proxy": "", "timeout": SOON, **options}
        sources.append(AccountSnapshot(url, key, secret, **options))
        return sources[-1]

    yield new
    for source in sources:
        source.close()


@pytest.fixture
def source(exchange: Exchange, new_source: NewSource) -> AccountSnapshot:
    return new_source(exchange)


class Clock:
    """The library's clock, which a test puts forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(fastpos.rest, "monotonic", clock)
    return clock


def base_url(server: ScriptedServer) -> str:
    return server.url.replace("ws", "http", 1).rstrip("/")


def answer(
    body: Any = b"", status: str = "200 OK", headers: Mapping[str, str] | None = None
) -> bytes:
    """An HTTP answer; a `body` that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"Content-Length": str(len(content)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + content


def rightly(line: str) -> bytes | None:
    """The answer to a request for the time or the open orders, which are none; else None."""
    if TIME in line:
        return answer({"serverTime": time.time_ns() // 1_000_000})
    return answer([]) if ORDERS in line else None


def answering(*answers: bytes) -> Callable[[socket.socket], None]:
    """A handler that answers requests for the account with these, in turn, and others rightly."""
    left = list(answers)

    def handler(peer: socket.socket) -> None:
        with suppress(EOFError):
            while True:
                line, _ = read_request(peer)
                peer.sendall(rightly(line) or left.pop(0))

    return handler


def failure(source: AccountSnapshot) -> SnapshotError:
    with pytest.raises(SnapshotError) as caught:
        source()
    error = caught.value
    assert error.__cause__ is error.__context__ is None
    return error


def says(exchange: Exchange, said: Any, status: int = 200, **more: Any) -> None:
    """Have the exchange answer with this from now on, whatever it is asked for."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    exchange.rest_fail(status, body=body, **more)


def paths(exchange: Exchange) -> list[str]:
    return [path for _, path, _ in exchange.rest_requests]


def test_a_signature_worked_out_by_hand() -> None:
    # printf '1700000000000POST/a?b=1{"c":2}' \
    #   | openssl dgst -sha256 -hmac 'secret-of-the-tests-3c9d'
    expected = "32e9153d173b54a16387f0c20a4fc4e9748a56b9125d4728a9e946aa9df34646"
    signed = SECRET, 1700000000000, "POST", "/a?b=1", '{"c":2}'
    assert fastpos.rest._signature(*signed) == expected


def test_what_is_sent(new_source: NewSource) -> None:
    heard: list[tuple[str, dict[str, str]]] = []

    def handler(peer: socket.socket) -> None:
        for body in ({"serverTime": 1_700_000_000_000}, EMPTY, []):
            heard.append(read_request(peer))
            peer.sendall(answer(body))

    with ScriptedServer(handler) as server:
        assert new_source(f"{base_url(server)}/")().orders == []  # a slash at the end is nothing
    assert [line for line, _ in heard] == [f"GET {p} HTTP/1.1" for p in (TIME, ACCOUNT, ORDERS)]
    assert not any(name.startswith("x-ch") for name in heard[0][1])
    for path, (_, signed) in zip((ACCOUNT, ORDERS), heard[1:], strict=True):
        assert signed["x-ch-apikey"] == KEY
        stamp = int(signed["x-ch-ts"])
        assert 0 <= stamp - 1_700_000_000_000 < SOON * 1000
        assert signed["x-ch-sign"] == fastpos.rest._signature(SECRET, stamp, "GET", path, "")


# --- the snapshot ---------------------------------------------------------------------------------

KEYS = fastpos.simulator._account.POSITION_KEYS
"""What a position's attributes are called on the wire."""


EXACT = {
    "volume": "12.5",
    "open_price": "98533.123456789012345",
    "liquidation_price": "85717.01833333999523920",
    "isolated_margin": "98.220083255963661234",
    "realized_pnl": "-1E-20",
    "margin_rate": "0.08470151327019741234",
    "open_margin": "0.08470151327019745678",
    "closable_volume": "2.50000000000000000001",
}


@pytest.mark.parametrize("style", ["documented", "swapped"])
def test_it_is_the_truth(tidy: None, new_source: NewSource, style: str) -> None:
    def expected(name: str, value: Any) -> Any:
        if name == "margin_mode":
            return {1: "CROSS", 2: "ISOLATED"}[value]
        return Decimal(str(value)) if name in EXACT else value

    with Exchange(style=style) as exchange:
        amounts = {"available": "122624.12345678901234567890", "frozen": "100.5"}
        exchange.set_balance(**amounts, isolated_margin="50.25")
        exchange.set_balance("EXUSD", available="0.00000000000000000001")
        numbers: dict[str, Any] = {name: Decimal(text) for name, text in EXACT.items()}
        exchange.open_position(leverage=3, **numbers)
        exchange.open_position("S-ETH-USDT", "SELL", margin_mode="ISOLATED")
        exchange.open_position("E-BTC-EXUSD", volume=1, closable_volume=0)
        before = time.time_ns()
        snapshot = new_source(exchange, number=Decimal)()
        truth, balances = exchange.positions, exchange.balances
    assert isinstance(snapshot, Snapshot)
    assert (snapshot.orders, snapshot.triggers) == ([], None)
    found = {position.id: position for position in snapshot.positions}
    assert found.keys() == truth.keys()
    for id, wire in truth.items():
        position = found[id]
        assert {"id", *KEYS.values()} == wire.keys()
        for name, key in KEYS.items():
            value = getattr(position, name)
            right = expected(name, wire[key])
            assert (value, type(value)) == (right, type(right)), name
        assert (position.uid, position.complete, position.change) == (exchange.uid, True, None)
        assert before <= position.received_ns <= time.time_ns()
        assert int(position.raw["brokerId"]) == exchange.broker
    assert {balance.coin: balance for balance in snapshot.balances} == {
        coin: Balance(
            coin=coin,
            available=Decimal(wire["an"]),
            frozen=Decimal(wire["la"]),
            isolated_margin=Decimal(wire["pn"]),
        )
        for coin, wire in balances.items()
    }
    assert all("sumMarginRate" in balance.raw for balance in snapshot.balances)


def from_account(
    exchange: Exchange, source: AccountSnapshot, account: Any, status: int = 200
) -> Snapshot:
    source()  # the clock is known
    says(exchange, account, status)
    return source()


def with_positions(positions: Any) -> Any:
    return {"account": [{"marginCoin": "USDT", "positionVos": [{"positions": positions}]}]}


def test_what_is_missing_null_odd_or_unknown(exchange: Exchange, source: AccountSnapshot) -> None:
    bare = {"id": "7", "openPrice": 4, "avgPrice": "6.5", "newField": {"a": 1}}
    nulls = {"id": 8, "uid": None, "volume": 3, "side": None, "openPrice": None, "contractId": None}
    closed = [{"id": 1, "volume": volume} for volume in (0, "0.000", 0.0)]
    odd = {"id": 9, "volume": "12", "leverageLevel": "20x", "openPrice": "NaN", "holdAmount": [1]}
    held = {"contractId": "127", "contractName": None, "positions": [bare, nulls, odd]}
    coins = [
        {"marginCoin": "USDT", "accountNormal": None, "positionVos": []},
        {"marginCoin": "BTC", "accountLock": "0.10", "positionVos": [{"positions": closed}, held]},
        {"marginCoin": "EXUSD", "positionVos": []},
    ]
    snapshot = from_account(exchange, source, {"code": 0, "newField": [], "account": coins})
    first, second, third = snapshot.positions
    assert first == Position(id=7, contract_id=127, open_price=6.5, complete=True)
    assert first.raw == bare
    assert second == Position(id=8, contract_id=127, volume=3.0, complete=True)
    assert third.volume == 12
    shown: list[Any] = [third.leverage, third.open_price, third.isolated_margin]
    assert shown == ["20x", "NaN", [1]]
    assert third.closable_volume is None
    known = [(each.coin, each.available, each.frozen) for each in snapshot.balances]
    assert known == [("USDT", None, None), ("BTC", None, 0.1), ("EXUSD", None, None)]
    assert type(second.volume) is type(known[1][2]) is float


@pytest.mark.parametrize(("held", "pending"), [(12.5, 2), (12, 2.0), ("12.0", "2"), (12, 2)])
def test_closable_is_what_no_closing_order_waits_for(
    exchange: Exchange, source: AccountSnapshot, held: Any, pending: Any
) -> None:
    answer = with_positions([{"id": 1, "volume": held, "pendingCloseVolume": pending}])
    (found,) = from_account(exchange, source, answer).positions
    assert found.closable_volume == float(held) - 2


# --- open orders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["documented", "swapped"])
def test_open_orders(tidy: None, new_source: NewSource, style: str) -> None:
    with Exchange(style=style) as exchange:
        first = exchange.place_order(volume=100, price=61001.5)
        exchange.fill_order(first, volume=40, price=61000)
        second = exchange.place_order("E-ETH-USDT", "SELL", price=61001.5, type=5)
        exchange.cancel_order(exchange.place_order())
        orders = new_source(exchange)().orders
    shared = {"price": 61001.5, "volume": 100.0, "open_close": "OPEN"}
    assert orders == [
        Order(order_id=first, contract_name="E-BTC-USDT", side="BUY", type=1, filled_volume=40.0,
              avg_price=61000.0, action="CHANGE", **shared),
        Order(order_id=second, contract_name="E-ETH-USDT", side="SELL", type=5, filled_volume=0.0,
              avg_price=0.0, action="NEW", **shared),
    ]  # fmt: skip
    raw = [order.raw["orderId"] for order in orders or ()]
    assert raw == [id if style == "swapped" else int(id) for id in (first, second)]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b""),
        (200, {"code": -1121, "msg": "no"}),
        (200, {"list": []}),
        (200, [1]),
        (200, [{"price": 1}]),
        (200, b"<html>"),
        (429, b""),
    ],
)
def test_refused_open_orders_leave_the_positions(
    exchange: Exchange,
    source: AccountSnapshot,
    caplog: pytest.LogCaptureFixture,
    status: int,
    body: Any,
) -> None:
    position = exchange.open_position()
    says(exchange, body, status, path=ORDERS)
    for _ in range(2):
        snapshot = source()
        assert [known.id for known in snapshot.positions] == [position]
        assert snapshot.orders is None
    (record,) = [record for record in caplog.records if record.name == "fastpos"]
    assert ORDERS in record.getMessage()
    exchange.clear_faults()
    assert source().orders == []


def test_ended_and_odd_orders(exchange: Exchange, source: AccountSnapshot) -> None:
    statuses = ["INIT", "NEW", "PARTIALLY_FILLED", "FILLED", "CANCELED", "REJECTED", None, "new?"]
    orders: list[Any] = [{"orderId": n, "status": status} for n, status in enumerate(statuses)]
    says(exchange, [*orders, {"orderId": "9", "type": "WHO"}], path=ORDERS)
    found = source().orders or ()
    assert [order.order_id for order in found] == ["0", "1", "2", "6", "7", "9"]
    assert found[-1].type == "WHO"  # what is not documented is passed on


# --- refusals -------------------------------------------------------------------------------------

INVALID = {"code": -1121, "msg": "Invalid symbol."}
NOT_A_LIST = "'account' is not a list"
NO_POSITIONS = "'positionVos' is not a list"
HUGE = b"1e99999999999999999999"


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (400, INVALID, -1121, "Invalid symbol."),
        (400, INVALID | {"code": "-1121", "msg": None}, -1121, "HTTP 400"),
        (200, INVALID, -1121, "Invalid symbol."),
        (401, {"code": -2015}, -2015, "HTTP 401"),
        (403, b"<html>Forbidden</html>", None, "HTTP 403"),
        (404, b"", None, "HTTP 404"),
        (429, {"code": -1003, "msg": "slow\ndown"}, -1003, r"slow\\ndown"),
        (418, b"teapot", None, "HTTP 418"),
        # What is said is shown as printable text of bounded length.
        (400, {"code": -1, "msg": "a\x1b[2J\nCRITICAL: sold"}, -1, r"a\\x1b\[2J\\nCRITICAL: sold"),
        (200, {"code": -1, "msg": "x" * 10_000}, -1, "x{190}…"),
        (400, b'{"code":%s,"msg":"x"}' % (b"9" * 90), int("9" * 90), "code 9{19}…"),
        (500, [], None, "HTTP 500"),
        (504, {"code": None, "msg": "unknown"}, None, "HTTP 504"),
        (204, b"", None, "HTTP 204"),
        (200, b"", None, "not JSON"),
        (200, b"<html>", None, "not JSON"),
        (200, b'{"account":[{"marginCoin":"USDT","accountNormal":NaN}]}', None, "not JSON"),
        (200, b'{"account":[{"accountNormal":' + HUGE + b"}]}", None, "not JSON"),
        (200, b'{"account":[{"marginCoin":1e1000000}]}', None, "not JSON"),
        (200, b"[" * 100_000, None, "not JSON"),
        (200, b"\xff\xfe", None, "not JSON"),
        (200, [EMPTY], None, "not a JSON object"),
        (200, {}, None, NOT_A_LIST),
        # Missing is not empty: who has a position would hear that it is closed.
        (200, {"account": []}, None, "'account' is empty"),
        (200, {"account": [{"marginCoin": "U"}]}, None, NO_POSITIONS),
        (200, {"account": [{"marginCoin": "U", "positionVos": None}]}, None, NO_POSITIONS),
        (200, {"account": [{"marginCoin": "U", "positionVos": [{}]}]}, None, "'positions' is not"),
        (200, {"account": None}, None, NOT_A_LIST),
        (200, {"account": {"marginCoin": "USDT"}}, None, NOT_A_LIST),
        (200, {"account": [1]}, None, NOT_A_LIST),
        (200, {"account": [{}]}, None, "a balance without marginCoin"),
        (200, {"account": [{"marginCoin": "U", "positionVos": {}}]}, None, NO_POSITIONS),
        (200, with_positions(1), None, "'positions' is not a list"),
        (200, with_positions([{"volume": 1}]), None, "a position without id"),
    ],
)
def test_refusals(
    exchange: Exchange, source: AccountSnapshot, status: int, body: Any, code: int, said: str
) -> None:
    with pytest.raises(SnapshotError, match=said) as caught:
        from_account(exchange, source, body, status)
    error = caught.value
    assert (error.code, error.status, error.retry_after) == (code, status, None)
    assert str(error).startswith(f"{exchange.rest_url}: {ACCOUNT}: ")
    assert str(error).isprintable()
    exchange.clear_faults()
    assert source().balances


@pytest.mark.parametrize("told", [{}, {"serverTime": None}, {"serverTime": "soon"}, [1]])
def test_a_time_that_is_none(exchange: Exchange, source: AccountSnapshot, told: Any) -> None:
    says(exchange, told)
    error = failure(source)
    assert error.status == 200
    assert TIME in str(error)
    assert paths(exchange) == [TIME]


def test_redirects_are_refused(new_source: NewSource) -> None:
    with ScriptedServer(answering()) as other:
        there = base_url(other)
        moved = answer(b"", "308 Moved", {"Location": there + ACCOUNT + "/" * 9000})
        with ScriptedServer(answering(moved)) as server:
            error = failure(new_source(server))
        assert other.accepted == 0
    assert error.status == 308
    assert f"redirects to '{there}" in str(error)
    assert len(str(error)) < 500


# --- pauses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 418])
def test_a_pause_is_kept(
    exchange: Exchange, source: AccountSnapshot, clock: Clock, status: int
) -> None:
    source()
    exchange.rest_fail(503, {"Retry-After": "9"}, times=1)  # of other statuses it is told only
    error = failure(source)
    assert (error.status, error.retry_after) == (503, 9)
    exchange.rest_fail(status, times=1)  # without it there is none
    assert failure(source).retry_after is None
    assert source().balances
    body = b'{"code":-1003,"msg":"too many requests"}'
    exchange.rest_fail(status, {"Retry-After": "700"}, body, times=1)
    error = failure(source)
    assert (error.code, error.status, error.retry_after) == (-1003, status, 700.0)
    asked = len(exchange.rest_requests)
    for clock.ahead in (0.0, 300.0, 650.0):
        error = failure(source)
        assert (error.code, error.status) == (-1003, status)
        assert 700 - clock.ahead - AT_ONCE < (error.retry_after or 0) <= 700 - clock.ahead
        assert "pause" in str(error)
    assert len(exchange.rest_requests) == asked
    clock.ahead = 700.0
    assert source().balances


NEW_YEAR = "Fri, 31 Dec 1999 23:59:59 GMT"


@pytest.mark.parametrize(
    ("told", "date", "seconds"),
    [
        ("0", None, 0.0),
        (" 30 ", None, 30.0),
        ("9" * 400, None, 24 * 3600.0),
        *((bad, None, None) for bad in ("-5", "1.5", "soon", "", None)),
        # A date counts from the server's own.
        (NEW_YEAR, "Fri, 31 Dec 1999 23:59:14 GMT", 45.0),
        (NEW_YEAR, "Sat, 01 Jan 2000 00:00:09 GMT", 0.0),
        (NEW_YEAR, None, 0.0),
    ],
)
def test_retry_after(told: str | None, date: str | None, seconds: float | None) -> None:
    headers = {} if told is None else {"Retry-After": told}
    headers |= {} if date is None else {"Date": date}
    assert fastpos.rest._retry_after(httpx.Headers(headers)) == seconds


# --- the exchange's clock -------------------------------------------------------------------------


def test_a_clock_that_is_hours_off(
    exchange: Exchange, source: AccountSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.clock_offset_ms = -20 * HOUR_MS
    assert source().balances
    with monkeypatch.context() as host:  # whose clock is set: that changes nothing
        host.setattr(fastpos.rest, "time", lambda: 0.0)
        host.setattr(fastpos.rest, "time_ns", lambda: 0)
        assert source().balances
    assert paths(exchange) == [TIME, ACCOUNT, ORDERS, ACCOUNT, ORDERS]
    exchange.clock_offset_ms = 0  # a timestamp that is refused is put right
    assert source().balances
    assert paths(exchange)[5:] == [ACCOUNT, TIME, ACCOUNT, ORDERS]


def test_a_timestamp_that_is_always_refused(new_source: NewSource) -> None:
    refusal = answer({"code": -1021, "msg": "outside of the window"}, "400 Bad Request")
    with ScriptedServer(answering(refusal, refusal)) as server:
        error = failure(new_source(server))
        assert server.accepted == 1
    assert (error.code, error.status) == (-1021, 400)


def test_the_clock_is_taken_from_the_middle_of_the_round_trip(
    new_source: NewSource, clock: Clock
) -> None:
    stamps: list[int] = []

    def handler(peer: socket.socket) -> None:
        read_request(peer)
        clock.ahead += 40.0
        peer.sendall(answer({"serverTime": 1_000_000_000_000}))
        for body in (EMPTY, []):
            stamps.append(int(read_request(peer)[1]["x-ch-ts"]))
            peer.sendall(answer(body))

    with ScriptedServer(handler) as server:
        new_source(server, timeout=300)()
    assert 0 <= stamps[0] - 1_000_000_020_000 < 1000 * AT_ONCE


# --- time-outs and limits -------------------------------------------------------------------------


# What the server begins its answer with, and then sends again and again, a byte at a time.
ENDLESS = {
    "nothing": (b"", b""),
    "status": (b"", b"HTTP/1.1 200 OK"),
    "headers": (b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
    "interim": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


@pytest.mark.parametrize("part", ENDLESS)
def test_an_answer_without_an_end(new_source: NewSource, part: str) -> None:
    over = threading.Event()
    begin, more = ENDLESS[part]

    def handler(peer: socket.socket) -> None:
        peer.sendall(rightly(read_request(peer)[0]) or b"")
        read_request(peer)
        peer.sendall(begin)
        for byte in itertools.cycle(more or b" "):
            if over.wait(0.02):
                return
            peer.sendall(bytes([byte]) if more else b"")

    with ScriptedServer(handler) as server:
        try:
            with at_once(AT_ONCE):
                error = failure(new_source(server, timeout=SHORT))
        finally:
            over.set()
    assert "no whole answer in 0.3 s" in str(error)


def test_nothing_is_sent_after_the_deadline(new_source: NewSource, clock: Clock) -> None:
    def handler(peer: socket.socket) -> None:
        read_request(peer)
        clock.ahead += 60
        peer.sendall(answer({"serverTime": 1_000_000_000_000}))

    with ScriptedServer(handler) as server:
        assert f"no whole answer in {SOON:g} s" in str(failure(new_source(server)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "disconnected"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "illegal"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", "closed connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 40_000, "too"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(5 << 20), "larger than 4 MiB"),
    ],
)
def test_a_broken_answer(new_source: NewSource, said: bytes, expected: str) -> None:
    def handler(peer: socket.socket) -> None:
        read_request(peer)
        with suppress(OSError):
            peer.sendall(said)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1)

    with ScriptedServer(handler) as server:
        error = failure(new_source(server))
    assert expected in str(error)
    assert error.status is None


def test_gzip_that_was_not_asked_for(exchange: Exchange, source: AccountSnapshot) -> None:
    source()
    packed = pushed(EMPTY)
    gzip: dict[str, Any] = {"headers": {"Content-Encoding": "gzip"}}
    says(exchange, packed, **gzip)
    assert source().balances == [Balance(coin="USDT")]
    says(exchange, packed[:-20], **gzip)
    assert failure(source).status == 200
    says(exchange, b"{}", **gzip)
    assert "gzip" in str(failure(source))
    says(exchange, bomb(64 * 1024 * 1024), **gzip)
    assert "larger than 4 MiB" in str(failure(source))


# --- connections ----------------------------------------------------------------------------------


def test_one_connection_serves_several_requests(
    new_source: NewSource, certificates: Certificates
) -> None:
    answers = answering(*[answer(EMPTY)] * 3)
    with ScriptedServer(answers, certificates.good.context()) as server:
        source = new_source(server, ssl_context=certificates.client_context())
        for _ in range(3):
            source()
        assert server.accepted == 1


def test_a_connection_that_the_server_ended(exchange: Exchange, source: AccountSnapshot) -> None:
    exchange.rest_fail(400, {"Connection": "close"}, times=1)
    failure(source)
    assert source().balances
    exchange.stop()
    assert str(failure(source)).startswith(f"{exchange.rest_url}: cannot connect")
    exchange.start()
    assert source().balances


def test_a_call_does_not_wait_longer_for_another(exchange: Exchange, new_source: NewSource) -> None:
    source = new_source(exchange, timeout=SHORT)
    with at_once(AT_ONCE), source._lock:  # as a call holds it that does not end
        assert "another call has not ended in 0.3 s" in str(failure(source))
    exchange.rest_delay(60)
    with at_once(AT_ONCE), ThreadPoolExecutor(4) as pool:
        errors = [error.message for error in pool.map(lambda _: failure(source), range(4))]
    assert f"{exchange.rest_url}: {TIME}: no whole answer in 0.3 s" in errors


def test_close_ends_a_call(exchange: Exchange, source: AccountSnapshot) -> None:
    source()
    exchange.rest_delay(60)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(failure, source)
        until(lambda: len(exchange.rest_requests) == 4)
        source.close()
        assert "close()" in str(call.result(AT_ONCE))
    exchange.clear_faults()
    assert source().balances
    source.close()
    source.close()
    assert paths(exchange) == [TIME, ACCOUNT, ORDERS, ACCOUNT, ACCOUNT, ORDERS]


@pytest.mark.parametrize("identity", ["wrong_host", "expired", "untrusted", "good"])
def test_a_certificate_that_is_not_accepted(
    new_source: NewSource, certificates: Certificates, identity: str
) -> None:
    context = None if identity == "good" else certificates.client_context()
    with Exchange(ssl_context=getattr(certificates, identity).context()) as exchange:
        error = failure(new_source(exchange, ssl_context=context))
        assert exchange.rest_requests == []
    assert "certificate is not accepted" in str(error)


@pytest.mark.parametrize("named", ["argument", "environment"])
def test_a_proxy_and_the_warning_about_clear_text(
    new_source: NewSource,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    named: str,
) -> None:
    asked: list[tuple[str, str]] = []

    def handler(peer: socket.socket) -> None:
        line, headers = read_request(peer)
        asked.append((line, headers["proxy-authorization"]))
        peer.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        serve(peer)

    serve = answering(*[answer(EMPTY)] * 2)
    for name in ("http_proxy", "HTTP_PROXY", "ws_proxy", "WS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ScriptedServer(handler) as server:
        proxy = f"http://user:pass@{LOOPBACK}:{server.port}"
        if named == "environment":
            monkeypatch.setenv("http_proxy", proxy)
        source = new_source("http://exchange.example", proxy=proxy if named == "argument" else None)
        for _ in range(2):
            assert source().balances
    assert asked == [("CONNECT exchange.example:80 HTTP/1.1", "Basic dXNlcjpwYXNz")]
    warnings = [record.getMessage() for record in caplog.records if record.name == "fastpos"]
    assert warnings == ["http://exchange.example: the API key travels in clear; use https://"]


@pytest.mark.parametrize("where", ["msg", "location", "status"])
def test_what_the_exchange_repeats_is_hidden(new_source: NewSource, where: str) -> None:
    def handler(peer: socket.socket) -> None:
        peer.sendall(rightly(read_request(peer)[0]) or b"")
        _, headers = read_request(peer)
        text = f"{headers['x-ch-apikey']} {headers['x-ch-sign']} {SECRET} refused"
        said = {
            "msg": answer({"code": -1, "msg": text}, "400 Bad"),
            "location": answer(b"", "302 Found", {"Location": f"/{text}"}),
            "status": f"{text}\r\n\r\n".encode(),
        }
        peer.sendall(said[where])

    hidden = pytest.raises(SnapshotError, match=r"\*\*\* \*\*\* \*\*\* refused")
    with ScriptedServer(handler) as server, hidden:
        new_source(server)()


# --- arguments ------------------------------------------------------------------------------------


URL = "https://exchange.example"
UNUSABLE: list[tuple[type[Exception], str, list[Any]]] = [
    (TypeError, "base_url", [1]),
    (TypeError, "api_key", [None]),
    (TypeError, "api_secret", [b"secret"]),
    (TypeError, "timeout", ["10"]),
    (TypeError, "ssl_context", [True]),
    (ValueError, "base_url", ["", "exchange.example", "ftp://exchange.example", "https://"]),
    (ValueError, "base_url", ["https://exchange example", f"{URL}:99999", f"{URL}/fapi"]),
    (ValueError, "base_url", ["https://user:pass@exchange.example", f"{URL}?"]),
    (ValueError, "api_key", ["", f"{KEY}\r\n", f"{KEY}é", f"{KEY} "]),
    (ValueError, "api_secret", ["", f"{SECRET}\n", f"{SECRET}\ud800"]),
    (ValueError, "timeout", [0, float("nan")]),
    (ValueError, "number", [int, "float"]),
    (ValueError, "proxy", ["ftp://proxy"]),
]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(kind, name, value) for kind, name, values in UNUSABLE for value in values],
)
def test_unusable_arguments(kind: type[Exception], name: str, value: object) -> None:
    arguments: dict[str, Any] = {"base_url": URL, "api_key": KEY, "api_secret": SECRET}
    with pytest.raises(kind, match=f"^{name} ") as caught:
        AccountSnapshot(**arguments | {name: value})
    assert "pass@" not in str(caught.value)


def test_without_httpx() -> None:
    program = "import sys, fastpos; assert not {'httpx', 'httpcore'} & {*sys.modules}\n"
    program += "sys.modules['httpx'] = None; import fastpos.rest"
    assert 'pip install "fastpos[rest]"' in run("-c", program).stderr.splitlines()[-1]
