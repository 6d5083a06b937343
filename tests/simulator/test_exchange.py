"""The simulator judges what a client says, and says itself what the real exchange would.

Its faults, ends and silences are those of the other tests, which could not pass without them.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import hmac
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection as Client
from websockets.sync.client import connect

import fastpos.simulator
from fastpos.simulator import Exchange
from fastpos.simulator._link import Transport
from tests.support.connections import at_once
from tests.support.programs import run
from tests.support.pushes import REAL, load
from tests.support.recording import SOON

pytestmark = pytest.mark.long

CONNECTED, SUBSCRIBED = "connect success", "sub success"
ACCOUNT = "/fapi/v1/account"


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as exchange:
        yield exchange


@pytest.fixture
def client(exchange: Exchange) -> Iterator[Client]:
    with subscribed(exchange) as client:
        yield client


@contextlib.contextmanager
def opened(exchange: Exchange, **options: Any) -> Iterator[Client]:
    """A client that was let in and has read nothing yet."""
    given = {"uri": exchange.url, "additional_headers": {"api-key": exchange.api_key}, **options}
    with connect(**given, compression=None, ping_interval=None, close_timeout=0.2) as client:
        yield client


@contextlib.contextmanager
def subscribed(exchange: Exchange) -> Iterator[Client]:
    with opened(exchange) as client:
        assert client.recv(SOON) == CONNECTED
        assert answer(client, sub(exchange)) == SUBSCRIBED
        yield client


def sub(exchange: Exchange, **other: Any) -> str:
    said = {"event": "sub", "apiKey": exchange.api_key, "broker": exchange.broker}
    return json.dumps(said | other)


def answer(client: Client, message: str | bytes) -> str | bytes:
    client.send(message)
    return client.recv(SOON)


def ping() -> str:
    return json.dumps({"ping": now_ms()})


def pushed(client: Client, **options: Any) -> Any:
    """The next push's JSON."""
    data = client.recv(SOON)
    assert isinstance(data, bytes), data
    return json.loads(gzip.decompress(data), **options)


def now_ms() -> int:
    return int(time.time() * 1000)


def close_code(client: Client) -> int | None:
    """What the server's close frame said, if it sent one."""
    try:
        while True:
            client.recv(SOON)
    except ConnectionClosed as closed:
        return None if closed.rcvd is None else closed.rcvd.code


def exchange_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("fastpos-exchange")]


# --- what a client may say ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        ({}, "", 401),
        ({"token": Exchange().api_key}, "", 401),
        ({"apiKey": Exchange().api_key}, "", 401),
        ({"token": Exchange().token, "api-key": Exchange().api_key}, "", 401),
        ({"api-key": Exchange().api_key}, "/", 404),
        ({"api-key": Exchange().api_key}, "?a=1", 404),
    ],
)
def test_others_are_turned_down(
    exchange: Exchange, headers: dict[str, str], path: str, status: int
) -> None:
    turned_down = opened(exchange, uri=exchange.url + path, additional_headers=headers)
    with pytest.raises(InvalidStatus) as caught, turned_down:
        pass
    assert caught.value.response.status_code == status
    assert (exchange.rejections, exchange.connections) == ([status], [])


@pytest.mark.parametrize(
    ("change", "violates"),
    [
        ({"broker": "1003"}, True),
        ({"broker": None}, True),
        ({"extra": 1}, True),
        ({"token": "abc"}, True),
        ({"broker": 1004}, False),
        ({"apiKey": "wrong"}, False),
        ({"apiKey": ["wrong"]}, False),
    ],
)
def test_a_wrong_subscription_is_refused_and_may_be_repeated(
    exchange: Exchange, change: dict[str, Any], violates: bool
) -> None:
    with opened(exchange) as client:
        client.recv(SOON)
        refusal = answer(client, sub(exchange, **change))
        assert isinstance(refusal, str)
        assert refusal.startswith("sub fail")
        assert exchange.api_key not in refusal
        assert exchange.push({"channel": "x"}) == 0
        assert bool(exchange.violations) == violates
        assert exchange.connections[0].refusals == [refusal]
        assert answer(client, sub(exchange)) == SUBSCRIBED


@pytest.mark.parametrize(
    "message",
    [
        *("hello", "[]", "7", "{}", '{"event":"subscribe"}', b'{"ping":1}', '{"ping":1,"x":2}'),
        *('{"ping":"1713338308232"}', '{"ping":1.5}', '{"ping":true}', '{"ping":null}'),
        *('{"ping":0}', '{"ping":1713338308}'),  # not the time, not in ms
    ],
)
def test_what_is_not_in_the_protocol_is_recorded(
    exchange: Exchange, client: Client, message: str | bytes
) -> None:
    client.send(message)
    assert exchange.wait_for("violation")
    assert len(exchange.violations) == 1


def test_a_breach_of_the_websocket_protocol_is_recorded(exchange: Exchange, client: Client) -> None:
    client.socket.sendall(b"\x81\x02hi")  # not masked
    assert close_code(client) == 1002
    assert exchange.wait_for("violation")


@pytest.mark.parametrize("form", ["text", "binary", "gzip"])
def test_its_own_pings_are_to_be_answered(exchange: Exchange, client: Client, form: str) -> None:
    assert exchange.json_ping(1790145583, form) == 1
    data = client.recv(SOON)
    assert (data if form != "gzip" else gzip.decompress(data)) in (  # type: ignore[arg-type]
        '{"ping":1790145583}',
        b'{"ping":1790145583}',
    )
    (connection,) = exchange.connections
    assert connection.unanswered_pings == [1790145583]
    client.send('{"pong":1790145583}')
    assert exchange.wait_for("pong")
    assert (connection.unanswered_pings, exchange.violations) == ([], [])
    client.send('{"pong":1790145583}')  # once is enough
    assert exchange.wait_for("violation")


def test_what_a_client_is_answered_is_in_the_records_by_then(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has seen the answer need not wait for what it answers."""
    put, known = Transport.put, []

    def look(transport: Transport, data: bytes, *, last: bool = False) -> bool:
        codes = [connection.close_code for connection in exchange.connections]
        known.append((sorted(exchange.counts), codes))
        return put(transport, data, last=last)

    monkeypatch.setattr(Transport, "put", look)
    exchange.refuse_subscription(times=1)
    with opened(exchange) as client:
        client.recv(SOON)
        for message in (sub(exchange), sub(exchange), ping()):
            answer(client, message)
        client.close(3000)
    del known[0]  # the upgrade's answer
    assert known == [
        (["connect"], [None]),
        (["connect", "refusal"], [None]),
        (["connect", "refusal", "sub"], [None]),
        (["connect", "ping", "refusal", "sub"], [None]),
        (["close", "connect", "ping", "refusal", "sub"], [3000]),
    ]


# --- what goes out --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply_format", "unwrap"),
    [
        ("text", lambda data: data),
        ("quoted", json.loads),
        ("binary", bytes.decode),
        ("gzip", lambda data: gzip.decompress(data).decode()),
        ("gzip-quoted", lambda data: json.loads(gzip.decompress(data))),
        ("json-event", lambda data: json.loads(data)["event"]),
        ("json-code", lambda data: json.loads(data)["msg"]),
    ],
)
def test_formats_of_replies_and_pongs(reply_format: str, unwrap: Any) -> None:
    with Exchange(reply_format=reply_format) as exchange, opened(exchange) as client:
        assert unwrap(client.recv(SOON)) == CONNECTED
        assert unwrap(answer(client, sub(exchange))) == SUBSCRIBED
        pong = answer(client, ping())
        if reply_format.startswith("gzip"):
            assert isinstance(pong, bytes)
            pong = gzip.decompress(pong)
        assert list(json.loads(pong)) == ["pong"]
    with Exchange(pong_format="gzip") as exchange, subscribed(exchange) as client:
        client.send(ping())
        assert list(pushed(client)) == ["pong"]


def test_unknown_formats_are_told(exchange: Exchange) -> None:
    with pytest.raises(ValueError, match="morse"):
        exchange.json_ping(form="morse")
    for argument in ("reply_format", "pong_format", "style"):
        with pytest.raises(ValueError, match=argument):
            Exchange(**{argument: "morse"})  # type: ignore[arg-type]


def test_a_push_is_what_the_real_exchange_sends(exchange: Exchange, client: Client) -> None:
    text = gzip.decompress(REAL)
    for push in (text, text.decode()):
        exchange.push(push)
        assert client.recv(SOON) == REAL
    for data in (b"\x00\x01", "text", b"x" * 70_000):
        exchange.push_bytes(data, text=isinstance(data, str))
        assert client.recv(SOON) == data
    number = Decimal("85717.01833333999523920")
    exchange.push([number, 1, 2.5, None, True, ("é",)])
    assert pushed(client, parse_float=Decimal) == [number, 1, 2.5, None, True, ["é"]]
    for bad in (float("nan"), Decimal("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            exchange.push({"x": bad})


def shape(value: Any) -> Any:
    """Keys and JSON types, which is what two messages of a kind have in common."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def test_messages_have_the_documented_shape(exchange: Exchange, client: Client) -> None:
    def shaped(documented: Any) -> Any:
        message = pushed(client)
        assert shape(message) == shape(documented)
        return message

    position = exchange.open_position("S-BTC-USDT")
    created = shaped(load("account_update_create"))
    assert created["d"]["et"] == "CREATE"
    assert abs(int(created["t"]) - now_ms()) < 5000
    exchange.update_position(position, volume=7, margin_rate=0.09)
    updated = shaped(load("account_update_update"))
    assert updated["d"]["p"] == {"id": position, "pv": 7, "mr": 0.09}
    exchange.tick()
    shaped(load("adl_price_two"))
    exchange.close_position(position)
    assert shaped(load("account_update_delete"))["d"]["p"] == {"id": position}
    exchange.set_balance("BTC", available="1.5")
    balances = shaped(load("account_update_default"))
    assert {b["c"]: b["an"] for b in balances["d"]["a"]} == {"USDT": "100000", "BTC": "1.5"}
    order = exchange.place_order(take_profit=62000, stop_loss=59000)
    expected = load("order")
    for side in ("takerProfit", "stopLoss"):  # attached here, unlike in the example
        expected["order"]["otoOrder"][f"{side}TriggerId"] = "1"
    assert shaped(expected)["order"]["orderId"] == order
    exchange.place_trigger()
    shaped(load("trig_order"))
    exchange.system_close()
    assert pushed(client) == load("system_close")


# --- the account ----------------------------------------------------------------------------------


def test_positions(exchange: Exchange) -> None:
    first = exchange.open_position(side="SELL", volume=3, leverage=5, margin_mode="ISOLATED", cid=9)
    assert exchange.open_position("E-ETH-USDT", position_id=7, mark_price=Decimal("1.5")) == 7
    position = exchange.positions[first]
    keys = ("s", "pv", "l", "pt", "cid", "ccv")
    assert [position[key] for key in keys] == ["SELL", 3, 5, 2, 9, 3]
    assert exchange.ticks[7]["tp"] == Decimal("1.5")
    assert exchange.update_position(first, volume=2, adl_level=4)
    assert (exchange.positions[first]["pv"], exchange.ticks[first]["al"]) == (2, 4)
    with pytest.raises(ValueError, match="7"):
        exchange.open_position(position_id=7)
    with pytest.raises(TypeError, match="colour"):
        exchange.open_position(colour="red")
    for method in (exchange.update_position, exchange.close_position):
        with pytest.raises(KeyError):
            method(99)
    exchange.close_position(first)
    assert list(exchange.positions) == [7]


def test_ticks(exchange: Exchange, client: Client) -> None:
    assert not exchange.tick()
    assert "pong" in str(answer(client, ping()))  # and nothing before that
    ids = [exchange.open_position(), exchange.open_position("E-ETH-USDT", open_price=2500)]
    pushed(client)
    pushed(client)
    exchange.set_price("E-ETH-USDT", Decimal("2510.00000000000000005"), spread=2)
    assert exchange.tick()
    tick = pushed(client, parse_float=Decimal)
    assert [t["id"] for t in tick["l"]] == ids
    assert tick["l"][1]["tp"] == Decimal("2510.00000000000000005")
    assert tick["l"][1]["bo"] == Decimal("2509.00000000000000005")
    exchange.start_ticking(0.01)
    for _ in range(3):
        assert pushed(client)["channel"] == "ADL_PRICE"
    exchange.stop_ticking()
    assert "fastpos-exchange-ticker" not in exchange_threads()


def test_orders(exchange: Exchange, client: Client) -> None:
    order = exchange.place_order(volume=10, price=100)
    other = exchange.place_order(side="SELL", type=2)
    assert order != other
    assert len(order) == 19
    assert [pushed(client)["order"]["orderAction"] for _ in "12"] == ["1", "1"]
    exchange.fill_order(order, 4)
    partly = pushed(client)["order"]
    assert (partly["dealVolume"], partly["avgPrice"], partly["orderAction"]) == (4, 100, "3")
    with pytest.raises(ValueError, match="7"):
        exchange.fill_order(order, 7)
    exchange.change_order(order, price=101)
    assert pushed(client)["order"]["price"] == 101
    exchange.fill_order(order, price=110)
    filled = pushed(client)["order"]
    assert (filled["dealVolume"], filled["avgPrice"]) == (10, 106)
    assert list(exchange.orders) == [other]
    with pytest.raises(KeyError):
        exchange.cancel_order(order)
    exchange.cancel_order(other)
    cancelled = pushed(client)["order"]
    assert (cancelled["orderId"], cancelled["orderAction"]) == (other, "2")
    assert exchange.orders == {}
    trigger = exchange.place_trigger()
    assert list(exchange.triggers) == [trigger]
    exchange.cancel_trigger(trigger)
    assert [pushed(client)["trigOrder"]["orderAction"] for _ in "12"] == ["1", "2"]
    assert exchange.triggers == {}


# --- REST -----------------------------------------------------------------------------------------


def get(exchange: Exchange, path: str, **changes: str) -> Any:
    """A signed request's answer; `changes` replace headers."""
    stamp = changes.get("ts", str(now_ms()))
    signed = f"{stamp}GET{path}".encode()
    signature = hmac.new(exchange.api_secret.encode(), signed, hashlib.sha256).hexdigest()
    headers = {
        "X-CH-APIKEY": changes.get("key", exchange.api_key),
        "X-CH-TS": stamp,
        "X-CH-SIGN": changes.get("sign", signature),
    }
    request = urllib.request.Request(exchange.rest_url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=SOON) as response:
        return json.loads(response.read(), parse_float=Decimal)


def refusal(exchange: Exchange, path: str, **changes: str) -> tuple[int, Any]:
    """The status and the code."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(exchange, path, **changes)
    with caught.value as error:
        return error.code, json.loads(error.read())["code"]


DOCUMENTED = (
    "id uid contractId positionType side volume openPrice avgPrice closePrice leverageLevel "
    "holdAmount closeVolume pendingCloseVolume realizedAmount historyRealizedAmount tradeFee "
    "capitalFee closeProfit shareAmount freezeLock status ctime mtime brokerId marginRate "
    "reducePrice openAmount"
)


def test_rest(exchange: Exchange) -> None:
    exchange.open_position(volume=12)
    (account,) = get(exchange, ACCOUNT)["account"]
    ((position,),) = [each["positions"] for each in account["positionVos"]]
    assert list(position) == DOCUMENTED.split()
    assert refusal(exchange, ACCOUNT, key="wrong") == (401, -2015)
    assert refusal(exchange, ACCOUNT, sign="0" * 64) == (400, -1022)
    assert refusal(exchange, ACCOUNT, ts=str(now_ms() - 6000)) == (400, -1021)
    assert refusal(exchange, ACCOUNT, ts="soon") == (400, -1102)
    assert refusal(exchange, "/fapi/v1/other")[0] == 404
    exchange.clock_offset_ms = 60_000
    assert refusal(exchange, ACCOUNT) == (400, -1021)
    assert get(exchange, ACCOUNT, ts=str(now_ms() + 60_000))["account"]
    assert [status for _, _, status in exchange.rest_requests][:2] == [200, 401]


# --- beginning, faults and end --------------------------------------------------------------------


def test_stop_and_start_on_the_same_port() -> None:
    exchange = Exchange()
    with pytest.raises(RuntimeError, match="not started"):
        _ = exchange.url
    exchange.start()
    url = exchange.url
    with pytest.raises(OSError, match="in use"):
        Exchange(port=exchange.port).start()
    for _ in range(2):
        silent = socket.create_connection((exchange.host, exchange.port))
        with silent, subscribed(exchange) as client:
            with at_once():
                exchange.stop()
            assert exchange_threads() == []
            assert close_code(client) == 1001
            with pytest.raises(ConnectionRefusedError), opened(exchange):
                pass
            exchange.stop()  # once more is nothing
            assert exchange.start() is exchange.start()
            assert exchange.url == url
    exchange.stop()


def test_trickle_and_drop(exchange: Exchange, client: Client) -> None:
    with subscribed(exchange) as other:
        exchange.trickle(1, 100)
        exchange.push({"n": 1})
        assert exchange.drop(connection=exchange.connections[0]) == 1
        assert close_code(client) is None
        exchange.clear_faults()
        assert pushed(other) == {"n": 1}


def test_a_stalled_exchange_does_not_judge_heartbeats() -> None:
    with Exchange(ping_timeout=0.05) as exchange:
        exchange.stall(handshakes=True)
        with opened(exchange):
            assert not exchange.wait_for("timeout", 0.2)
            exchange.resume()
            assert exchange.wait_for("timeout")


def test_it_knows_nothing_of_the_rest_of_the_library() -> None:
    assert fastpos.simulator.__file__ is not None
    for source in Path(fastpos.simulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1
                assert node.level == 1 or not str(node.module).startswith("fastpos")
            elif isinstance(node, ast.Import):
                assert not any(name.name.startswith("fastpos") for name in node.names)


def test_the_extra_is_named_where_it_is_missing() -> None:
    code = "import sys; sys.modules['websockets'] = None; import fastpos.simulator"
    told = 'ImportError: fastpos.simulator needs the websockets library: pip install "fastpos['
    assert told in run("-c", code).stderr
