"""The simulator, asked over real sockets by a client that is not this library's."""

from __future__ import annotations

import ast
import base64
import contextlib
import gc
import gzip
import hashlib
import hmac
import http.client
import itertools
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import fastpos.simulator
from fastpos.simulator import Exchange

pytestmark = pytest.mark.long

FRAMES = Path(__file__).parent / "frames"
SOON = 5.0  # seconds: a deadline, never a pause


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as exchange:
        yield exchange


@contextlib.contextmanager
def opened(exchange: Exchange, kind: str = "api-key", **options: Any) -> Iterator[ClientConnection]:
    """A client that was let in and has read nothing yet."""
    secret = exchange.token if kind == "token" else exchange.api_key
    options.setdefault("additional_headers", {kind: secret})
    with connect(
        options.pop("url", exchange.url),
        compression=None,
        ping_interval=None,
        close_timeout=0.2,
        max_queue=None,
        **options,
    ) as client:
        yield client


@contextlib.contextmanager
def subscribed(
    exchange: Exchange, kind: str = "api-key", **options: Any
) -> Iterator[ClientConnection]:
    with opened(exchange, kind, **options) as client:
        assert client.recv(SOON) == "connect success"
        client.send(sub_message(exchange, kind))
        assert client.recv(SOON) == "sub success"
        yield client


def sub_message(exchange: Exchange, kind: str = "api-key", event: str = "sub", **other: Any) -> str:
    secret = {"token": exchange.token} if kind == "token" else {"apiKey": exchange.api_key}
    return json.dumps({"event": event, **secret, "broker": exchange.broker} | other)


def pushed(client: ClientConnection, **options: Any) -> Any:
    """The next push's JSON."""
    data = client.recv(SOON)
    assert isinstance(data, bytes), data
    return json.loads(gzip.decompress(data), **options)


def nothing_queued(client: ClientConnection) -> bool:
    """Whether the server has sent nothing: the answer to a ping comes first."""
    client.send(json.dumps({"ping": now_ms()}))
    answer = client.recv(SOON)
    return isinstance(answer, str) and "pong" in answer


def now_ms() -> int:
    return int(time.time() * 1000)


def close_seen(client: ClientConnection) -> ConnectionClosed:
    """How the connection ended, for the client."""
    try:
        while True:
            client.recv(SOON)
    except ConnectionClosed as closed:
        return closed


def exchange_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("fastpos-exchange")]


# The opening handshake.


@pytest.mark.parametrize("kind", ["token", "api-key"])
def test_both_credentials_are_let_in(exchange: Exchange, kind: str) -> None:
    with subscribed(exchange, kind, user_agent_header="somebody"):
        (record,) = exchange.connections
        assert record.kind == kind
        assert record.alive
        assert record.subscribed
        assert record.headers["User-Agent"] == "somebody"
        assert record.headers[kind] == "…"
        for secret in (exchange.token, exchange.api_key, exchange.api_secret):
            assert secret not in repr(record) + repr(exchange) + repr(vars(record))
    assert exchange.wait_for("disconnect")
    assert not record.alive
    assert record.close_code == 1000
    assert record.ended_at is not None
    assert exchange.violations == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"token": "wrong"},
        {"api-key": "wrong"},
        {"token": Exchange().api_key},
        {"apiKey": Exchange().api_key},
        {"token": Exchange().token, "api-key": Exchange().api_key},
    ],
)
def test_wrong_credentials_are_turned_down(exchange: Exchange, headers: dict[str, str]) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(exchange, additional_headers=headers):
        pass
    assert caught.value.response.status_code == 401
    assert exchange.rejections == [401]
    assert exchange.connections == []


def test_other_paths_are_not_found(exchange: Exchange) -> None:
    for path in ("/", "/position_order/ws/", "/position_order/ws?a=1"):
        url = exchange.url.replace("/position_order/ws", path)
        with pytest.raises(InvalidStatus) as caught, opened(exchange, url=url):
            pass
        assert caught.value.response.status_code == 404


def test_the_api_keys_header_may_have_another_name() -> None:
    with Exchange(api_key_header="apiKey") as exchange:
        with opened(exchange, additional_headers={"apiKey": exchange.api_key}) as client:
            assert client.recv(SOON) == "connect success"
        assert exchange.connections[0].kind == "api-key"


def test_an_expired_token_is_turned_down(exchange: Exchange) -> None:
    old, exchange.token = exchange.token, "fresh"
    with pytest.raises(InvalidStatus), opened(exchange, additional_headers={"token": old}):
        pass
    with subscribed(exchange, "token"):
        pass


# Subscribing.


@pytest.mark.parametrize(
    ("change", "violates"),
    [
        ({"broker": "1003"}, True),
        ({"broker": True}, True),
        ({"broker": 1003.0}, True),
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
        client.send(sub_message(exchange, **change))
        answer = client.recv(SOON)
        assert isinstance(answer, str)
        assert answer.startswith("sub fail")
        assert exchange.api_key not in answer
        assert exchange.push({"channel": "x"}) == 0
        assert bool(exchange.violations) == violates
        assert exchange.connections[0].refusals == [answer]
        client.send(sub_message(exchange))
        assert client.recv(SOON) == "sub success"


def test_the_subscription_must_have_the_headers_kind_of_credential(exchange: Exchange) -> None:
    with opened(exchange, "token") as client:
        client.recv(SOON)
        client.send(sub_message(exchange, "api-key"))
        assert client.recv(SOON) == "sub fail: token"
        assert len(exchange.violations) == 1
        assert exchange.api_key not in exchange.violations[0]


def test_unsub_ends_the_pushes_and_sub_brings_them_back(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        assert exchange.push({"n": 1}) == 1
        assert pushed(client) == {"n": 1}
        client.send(sub_message(exchange, event="unsub"))
        assert exchange.wait_for("unsub")
        assert exchange.connections[0].unsubscribed_at is not None
        assert exchange.push({"n": 2}) == 0
        assert nothing_queued(client)
        client.send(sub_message(exchange))
        assert client.recv(SOON) == "sub success"
        assert len(exchange.connections[0].subscriptions) == 2
        assert exchange.push({"n": 3}) == 1
        assert pushed(client) == {"n": 3}
    assert exchange.violations == []


@pytest.mark.parametrize(
    "message",
    ["hello", "[]", "7", '{"event":"subscribe"}', '{"ping":1,"x":2}', "{}", b'{"ping":1}'],
)
def test_what_is_not_in_the_protocol_is_recorded(exchange: Exchange, message: str | bytes) -> None:
    with subscribed(exchange) as client:
        client.send(message)
        assert exchange.wait_for("violation")
        assert len(exchange.violations) == 1
        assert nothing_queued(client)


def test_violations_hide_credentials(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        client.send(f"what about {exchange.api_key} and {exchange.token}")
        assert exchange.wait_for("violation")
        assert exchange.violations == ["not JSON: what about … and …"]


def test_a_breach_of_the_websocket_protocol_is_recorded(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        client.socket.sendall(b"\x81\x02hi")  # not masked
        closed = close_seen(client)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1002
        assert exchange.wait_for("violation")


# Heartbeat.


def test_a_pong_has_the_exchanges_own_clock(exchange: Exchange) -> None:
    exchange.clock_offset_ms = 7_000
    with subscribed(exchange) as client:
        before, sent = time.monotonic(), now_ms()
        client.send(json.dumps({"ping": sent}))
        answer = json.loads(client.recv(SOON))
        assert list(answer) == ["pong"]
        assert sent + 7_000 <= answer["pong"] <= now_ms() + 7_000
        ((at, value),) = exchange.connections[0].pings
        assert before <= at <= time.monotonic()
        assert value == sent
    assert exchange.violations == []


@pytest.mark.parametrize("value", ["1713338308232", 1.5, True, None, 0, 1713338308])
def test_a_ping_that_is_not_the_time_in_ms_is_recorded(exchange: Exchange, value: Any) -> None:
    with subscribed(exchange) as client:
        client.send(json.dumps({"ping": value}))
        assert exchange.wait_for("violation")
        assert "ping" in exchange.violations[0]


def test_a_client_that_does_not_ping_is_disconnected() -> None:
    with Exchange(ping_timeout=0.3) as exchange, subscribed(exchange) as client:
        first = time.monotonic()
        client.send(json.dumps({"ping": now_ms()}))
        closed = close_seen(client)
        assert time.monotonic() - first >= 0.3
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1001
        assert exchange.connections[0].timed_out
        assert exchange.wait_for("disconnect")
        assert exchange.counts["timeout"] == 1


def test_websocket_pings_and_their_pongs(exchange: Exchange) -> None:
    with subscribed(exchange):
        assert exchange.ws_ping(b"one") == 1
        assert exchange.wait_for("ws_pong")
        assert exchange.connections[0].pongs == [b"one"]


# What goes out, byte by byte.


@pytest.mark.parametrize(
    ("reply_format", "unwrap"),
    [
        ("text", lambda data: data),
        ("quoted", json.loads),
        ("binary", bytes.decode),
        ("gzip", lambda data: gzip.decompress(data).decode()),
        ("gzip-quoted", lambda data: json.loads(gzip.decompress(data))),
    ],
)
def test_reply_formats(reply_format: str, unwrap: Any) -> None:
    with Exchange(reply_format=reply_format) as exchange, opened(exchange) as client:
        assert unwrap(client.recv(SOON)) == "connect success"
        client.send(sub_message(exchange))
        assert unwrap(client.recv(SOON)) == "sub success"
        client.send(json.dumps({"ping": now_ms()}))
        pong = client.recv(SOON)
        if reply_format.startswith("gzip"):
            assert isinstance(pong, bytes)
            pong = gzip.decompress(pong)
        assert list(json.loads(pong)) == ["pong"]


def test_pongs_may_be_gzip() -> None:
    with Exchange(pong_format="gzip") as exchange, subscribed(exchange) as client:
        client.send(json.dumps({"ping": now_ms()}))
        assert list(pushed(client)) == ["pong"]


@pytest.mark.parametrize("argument", ["reply_format", "pong_format", "style"])
def test_unknown_formats_are_told(argument: str) -> None:
    with pytest.raises(ValueError, match=argument):
        Exchange(**{argument: "morse"})  # type: ignore[arg-type]


def test_a_push_is_what_the_real_exchange_sends(exchange: Exchange) -> None:
    real = base64.b64decode((FRAMES / "adl_price.b64").read_text())
    with subscribed(exchange) as client:
        exchange.push(gzip.decompress(real))
        assert client.recv(SOON) == real
        exchange.push(gzip.decompress(real).decode())
        assert client.recv(SOON) == real
        exchange.push_bytes(b"\x00\x01")
        assert client.recv(SOON) == b"\x00\x01"
        exchange.push_bytes("text", text=True)
        assert client.recv(SOON) == "text"
        exchange.push_bytes(b"x" * 70_000)
        assert client.recv(SOON) == b"x" * 70_000


def test_decimals_keep_their_digits(exchange: Exchange) -> None:
    number = Decimal("85717.01833333999523920")
    with subscribed(exchange) as client:
        exchange.push({"é": [number, 1, 2.5, None, True, ("x",)]})
        assert pushed(client, parse_float=Decimal) == {"é": [number, 1, 2.5, None, True, ["x"]]}
    for bad in (float("nan"), Decimal("inf")):
        with pytest.raises(ValueError, match=r"(?i)nan|inf|JSON"):
            exchange.push({"x": bad})
    with pytest.raises(TypeError):
        exchange.push({"x": object()})


def shape(value: Any) -> Any:
    """Keys and JSON types, which is what two messages of a kind have in common."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def documented(name: str) -> Any:
    return json.loads((FRAMES / f"{name}.json").read_text())


def test_messages_have_the_documented_shape(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        position = exchange.open_position("S-BTC-USDT")
        created = pushed(client)
        assert shape(created) == shape(documented("account_update_create"))
        assert created["d"]["et"] == "CREATE"
        assert abs(int(created["t"]) - now_ms()) < 5000
        exchange.update_position(position, volume=7, margin_rate=0.09)
        updated = pushed(client)
        assert shape(updated) == shape(documented("account_update_update"))
        assert updated["d"]["p"] == {"id": position, "pv": 7, "mr": 0.09}
        exchange.tick()
        assert shape(pushed(client)) == shape(documented("adl_price_two"))
        exchange.close_position(position)
        deleted = pushed(client)
        assert shape(deleted) == shape(documented("account_update_delete"))
        assert deleted["d"]["p"] == {"id": position}
        exchange.set_balance("BTC", available="1.5")
        balances = pushed(client)
        assert shape(balances) == shape(documented("account_update_default"))
        assert {b["c"]: b["an"] for b in balances["d"]["a"]} == {"USDT": "100000", "BTC": "1.5"}
        order = exchange.place_order(take_profit=62000, stop_loss=59000)
        expected = documented("order")
        for side in ("takerProfit", "stopLoss"):  # attached here, unlike in the example
            expected["order"]["otoOrder"][f"{side}TriggerId"] = "1"
        placed = pushed(client)
        assert shape(placed) == shape(expected)
        assert placed["order"]["orderId"] == order
        exchange.place_trigger()
        assert shape(pushed(client)) == shape(documented("trig_order"))
        exchange.system_close()
        assert pushed(client) == documented("system_close")


def test_a_careless_deployment_swaps_the_types() -> None:
    with Exchange(style="swapped") as exchange, subscribed(exchange) as client:
        exchange.open_position(open_price=Decimal("0.10000000000000000001"))
        message = pushed(client)
        assert message["uid"] == "1001"
        assert isinstance(message["t"], int)
        assert message["d"]["p"]["op"] == "0.10000000000000000001"
        assert message["d"]["p"]["s"] == "BUY"
        assert message["d"]["a"][0]["an"] == 100000
        assert "undocumented" in message["d"]["p"]
        order_id = exchange.place_order()
        order = pushed(client)["order"]
        assert order["orderId"] == int(order_id)
        assert order["orderAction"] == 1
        assert order["otoOrder"] is None


# The truth.


def test_positions(exchange: Exchange) -> None:
    first = exchange.open_position(side="SELL", volume=3, leverage=5, margin_mode="ISOLATED", cid=9)
    second = exchange.open_position("E-ETH-USDT", position_id=7, mark_price=Decimal("1.5"))
    assert second == 7
    position = exchange.positions[first]
    assert (position["s"], position["pv"], position["l"], position["pt"]) == ("SELL", 3, 5, 2)
    assert (position["cid"], position["ccv"]) == (9, 3)
    assert exchange.ticks[7]["tp"] == Decimal("1.5")
    assert exchange.update_position(first, volume=2, adl_level=4)
    assert exchange.positions[first]["pv"] == 2
    assert exchange.ticks[first]["al"] == 4
    exchange.positions[first]["pv"] = 0  # a copy
    assert exchange.positions[first]["pv"] == 2
    with pytest.raises(ValueError, match="7"):
        exchange.open_position(position_id=7)
    with pytest.raises(TypeError, match="colour"):
        exchange.open_position(colour="red")
    for method in (exchange.update_position, exchange.close_position):
        with pytest.raises(KeyError):
            method(99)
    exchange.close_position(first)
    assert list(exchange.positions) == [7]


def test_an_update_tells_only_what_is_new(exchange: Exchange) -> None:
    position = exchange.open_position(volume=3)
    with subscribed(exchange) as client:
        assert not exchange.update_position(position, volume=3)
        assert not exchange.update_position(position, mark_price=5)
        assert nothing_queued(client)
        assert exchange.update_position(position, volume=3, leverage=50)
        assert pushed(client)["d"]["p"] == {"id": position, "l": 50}


def test_ticks(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        assert not exchange.tick()
        assert nothing_queued(client)
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


def test_orders(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        order = exchange.place_order(volume=10, price=100)
        other = exchange.place_order(side="SELL", type=2)
        assert order != other
        assert [pushed(client)["order"]["orderAction"] for _ in "12"] == ["1", "1"]
        exchange.fill_order(order, 4)
        partly = pushed(client)["order"]
        assert (partly["dealVolume"], partly["avgPrice"]) == (4, 100)
        assert partly["orderAction"] == "3"
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
        assert len(order) == 19


def test_triggers(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        trigger = exchange.place_trigger(side="sell", expires_ms=5)
        placed = pushed(client)["trigOrder"]
        assert (placed["side"], placed["expireTime"], placed["orderAction"]) == ("sell", 5, "1")
        assert list(exchange.triggers) == [trigger]
        exchange.cancel_trigger(trigger)
        assert pushed(client)["trigOrder"]["orderAction"] == "2"
        assert exchange.triggers == {}
        assert len(trigger) == 19


def test_what_happens_while_nobody_is_there_only_changes_the_truth(exchange: Exchange) -> None:
    position = exchange.open_position()
    exchange.set_balance(frozen=0.1, isolated_margin=Decimal("1E-7"))
    with subscribed(exchange) as client:
        assert nothing_queued(client)
        state = exchange.snapshot_state()
        assert list(state["positions"]) == [position]
        assert state["balances"]["USDT"] == {
            "c": "USDT",
            "an": "100000",
            "la": "0.1",
            "pn": "0.0000001",
        }
        assert set(state) == {"positions", "ticks", "balances", "orders", "triggers"}


# Many clients.


def test_all_clients_get_all_pushes_in_one_order(exchange: Exchange) -> None:
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(subscribed(exchange, ("token", "api-key")[i % 2]))
            for i in range(20)
        ]
        assert exchange.wait_for_subscribers(20)

        def run(name: int) -> None:
            for n in range(50):
                assert exchange.push([name, n]) == 20

        pushers = [threading.Thread(target=run, args=(name,)) for name in range(4)]
        for pusher in pushers:
            pusher.start()
        heard = [[pushed(client) for _ in range(200)] for client in clients]
        for pusher in pushers:
            pusher.join()
        assert all(h == heard[0] for h in heard)
        for name in range(4):
            assert [n for who, n in heard[0] if who == name] == list(range(50))
        assert len({record.number for record in exchange.connections}) == 20
    assert exchange.wait_for_clients(0)


def test_a_client_that_does_not_read_holds_up_nobody(exchange: Exchange) -> None:
    small = socket.socket()
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.connect((exchange.host, exchange.port))
    with small, subscribed(exchange) as client:
        upgrade_by_hand(exchange, small)
        small.sendall(masked(sub_message(exchange).encode()))
        assert exchange.wait_for_subscribers(2)
        for n in range(200):
            assert exchange.push_bytes(struct.pack("!I", n) * 25_000) == 2
        for n in range(200):
            assert client.recv(SOON)[:4] == struct.pack("!I", n)
        # It is still heard, and the end does not wait for it.
        small.sendall(masked(json.dumps({"ping": now_ms()}).encode()))
        assert exchange.wait_for("ping")
        started = time.monotonic()
        exchange.stop()
        assert time.monotonic() - started < 2
    assert exchange_threads() == []


def test_a_burst_of_a_hundred_thousand(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        data = b"x" * 150
        started = time.monotonic()
        for _ in range(100_000):
            exchange.push_bytes(data)
        assert time.monotonic() - started < 10
        exchange.drop()  # what is queued is lost: this client is too slow to wait for
        assert close_seen(client)


# Ends.


def test_drop_resets(exchange: Exchange) -> None:
    with subscribed(exchange) as client, opened(exchange) as other:
        assert exchange.drop() == 2
        assert exchange.wait_for_clients(0, 0)
        for victim in (client, other):
            assert isinstance(close_seen(victim).__cause__, ConnectionResetError)
        assert exchange.wait_for("disconnect", count=2)
        assert exchange.connections[0].close_code is None
        with subscribed(exchange):
            assert exchange.wait_for_subscribers(1)


def test_drop_one(exchange: Exchange) -> None:
    with subscribed(exchange) as first, subscribed(exchange) as second:
        assert exchange.drop(connection=exchange.connections[0]) == 1
        assert close_seen(first)
        assert nothing_queued(second)


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4999])
def test_a_clean_drop_follows_what_was_pushed(exchange: Exchange, code: int) -> None:
    with subscribed(exchange) as client:
        exchange.push({"last": True})
        assert exchange.drop(clean=True, code=code, reason="because") == 1
        assert exchange.push({"late": True}) == 0
        assert pushed(client) == {"last": True}
        closed = close_seen(client)
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (code, "because")
        assert exchange.wait_for("disconnect")
        assert exchange.connections[0].close_code == code


def test_any_close_code_can_be_sent(exchange: Exchange) -> None:
    for code in (0, 1005):
        with subscribed_by_hand(exchange) as raw:
            exchange.drop(clean=True, code=code)
            assert raw.recv(4, socket.MSG_WAITALL) == b"\x88\x02" + struct.pack("!H", code)


def test_the_stream_may_just_end(exchange: Exchange) -> None:
    with subscribed_by_hand(exchange) as raw:
        exchange.push_bytes(b"x")
        exchange.drop(clean=True, code=None)
        assert read_all(raw) == b"\x82\x01x"


def test_a_client_that_does_not_answer_a_close_frame_is_left(exchange: Exchange) -> None:
    with subscribed_by_hand(exchange) as raw:
        exchange.drop(clean=True)
        assert exchange.wait_for("disconnect")
        assert read_all(raw)[:1] == b"\x88"


def test_system_close(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        exchange.system_close(0.05)
        assert pushed(client)["et"] == "close"
        closed = close_seen(client)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1001
        with subscribed(exchange) as returned:
            assert nothing_queued(returned)


def test_stop_and_start_on_the_same_port() -> None:
    exchange = Exchange()
    with pytest.raises(RuntimeError, match="not started"):
        _ = exchange.url
    exchange.start()
    url = exchange.url
    for _ in range(3):
        with (
            subscribed(exchange) as client,
            subscribed_by_hand(exchange),
            socket.create_connection((exchange.host, exchange.port)),
        ):
            started = time.monotonic()
            exchange.stop()
            assert time.monotonic() - started < 1
            assert exchange_threads() == []
            closed = close_seen(client)
            assert closed.rcvd is not None
            assert closed.rcvd.code == 1001
            with pytest.raises(ConnectionRefusedError), opened(exchange):
                pass
            exchange.stop()  # once more is nothing
            assert exchange.start() is exchange.start()
            assert exchange.url == url
    exchange.stop()
    assert exchange_threads() == []


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
def test_nothing_is_left_behind() -> None:
    def once() -> None:
        with Exchange() as exchange, subscribed(exchange):
            urllib.request.urlopen(f"{exchange.rest_url}/fapi/v1/time").close()

    def descriptors() -> int:
        gc.collect()  # websockets leaves its selectors to the collector
        return len(os.listdir("/proc/self/fd"))

    once()
    before = descriptors()
    for _ in range(10):
        once()
    assert descriptors() <= before
    assert exchange_threads() == []


def test_the_port_taken_is_told(exchange: Exchange) -> None:
    with pytest.raises(OSError, match="in use"):
        Exchange(port=exchange.port).start()


# Silence.


def test_stall_and_resume(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        exchange.stall()
        assert exchange.push({"lost": True}) == 0
        waiting = client.ping()
        client.send(json.dumps({"ping": now_ms()}))
        assert exchange.wait_for("ping")
        exchange.resume()
        assert exchange.push({"n": 1}) == 1
        assert pushed(client) == {"n": 1}
        assert not waiting.is_set()


def test_a_stalled_exchange_answers_no_close_frame(exchange: Exchange) -> None:
    with subscribed_by_hand(exchange) as raw:
        exchange.stall()
        raw.sendall(masked(struct.pack("!H", 1000), opcode=8))
        assert exchange.wait_for("close")
        assert exchange.connections[0].close_code == 1000
        raw.settimeout(0.1)
        with pytest.raises(TimeoutError):
            raw.recv(1)


def test_a_stalled_exchange_keeps_upgrades_waiting(exchange: Exchange) -> None:
    exchange.stall()
    with pytest.raises(TimeoutError), opened(exchange, open_timeout=0.1):
        pass
    with socket.create_connection((exchange.host, exchange.port)) as raw:
        send_upgrade(exchange, raw)
        exchange.resume()
        raw.settimeout(SOON)
        assert raw.recv(12) == b"HTTP/1.1 101"
    assert exchange.rejections == []


def test_data_without_pongs_and_pongs_without_data(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        exchange.stall(pushes=True)
        client.send(json.dumps({"ping": now_ms()}))
        assert exchange.wait_for("ping")
        assert exchange.push({"n": 1}) == 1
        assert pushed(client) == {"n": 1}
        exchange.stall(pongs=True)
        assert exchange.push({"n": 2}) == 0
        assert nothing_queued(client)


def test_a_stalled_exchange_does_not_judge_heartbeats() -> None:
    with Exchange(ping_timeout=0.05) as exchange, opened(exchange):
        exchange.stall()
        assert not exchange.wait_for("timeout", 0.2)
        exchange.resume()
        assert exchange.wait_for("timeout")


def test_never_read(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        exchange.never_read()
        client.send(json.dumps({"ping": now_ms()}))
        client.send(json.dumps({"ping": now_ms()}))
        assert not exchange.wait_for("ping", 0.1, count=2)
        exchange.resume()
        assert exchange.wait_for("ping", count=2)


# Other faults.


def test_refuse_upgrade(exchange: Exchange) -> None:
    exchange.refuse_upgrade(429, {"Retry-After": "3"}, b"slow down", times=1)
    with pytest.raises(InvalidStatus) as caught, opened(exchange):
        pass
    response = caught.value.response
    assert (response.status_code, response.body) == (429, b"slow down")
    assert response.headers["Retry-After"] == "3"
    with subscribed(exchange):
        pass
    exchange.refuse_upgrade(302, {"Location": exchange.url})
    for _ in range(2):
        raw = socket.create_connection((exchange.host, exchange.port))
        with raw:
            send_upgrade(exchange, raw)
            answer = read_all(raw).decode()
            assert answer.startswith("HTTP/1.1 302 Found\r\n")
            assert f"Location: {exchange.url}\r\n" in answer
    exchange.clear_faults()
    with subscribed(exchange):
        assert exchange.rejections == [429, 302, 302]


def test_faults_of_the_subscription(exchange: Exchange) -> None:
    exchange.silent_connect(times=1)
    exchange.ignore_subscription(times=1)
    exchange.refuse_subscription("sub fail: maintenance", times=1)
    exchange.push_before_sub_success({"early": 1})
    exchange.push_before_sub_success('{"early":2}')
    with opened(exchange) as client:
        assert nothing_queued(client)
        client.send(sub_message(exchange))
        assert nothing_queued(client)
        client.send(sub_message(exchange))
        assert client.recv(SOON) == "sub fail: maintenance"
        client.send(sub_message(exchange))
        assert pushed(client) == {"early": 1}
        assert pushed(client) == {"early": 2}
        assert client.recv(SOON) == "sub success"
        client.send(sub_message(exchange))
        assert client.recv(SOON) == "sub success"


def test_raw_bytes(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        exchange.push({"n": 1})
        assert exchange.send_raw(b"\x83\x00") == 1  # a reserved opcode
        assert pushed(client) == {"n": 1}
        sent = close_seen(client).sent
        assert sent is not None
        assert sent.code == 1002
        assert exchange.wait_for("close")
        assert exchange.connections[0].close_code == 1002


def test_announce_frame(exchange: Exchange) -> None:
    with subscribed(exchange) as client:
        exchange.announce_frame(10**9)
        sent = close_seen(client).sent
        assert sent is not None
        assert sent.code == 1009


@pytest.mark.parametrize("end", [False, True])
def test_truncate_frame(exchange: Exchange, end: bool) -> None:
    with subscribed_by_hand(exchange) as raw:
        assert exchange.truncate_frame({"channel": "order"}, end=end) == 1
        assert exchange.push({"lost": True}) == 0
        header = raw.recv(2)
        if not end:
            raw.settimeout(0.1)
        rest = b""
        with contextlib.suppress(TimeoutError):
            while data := raw.recv(100):
                rest += data
        assert 0 < len(rest) < header[1]


def test_trickle(exchange: Exchange) -> None:
    exchange.trickle(1, 0.0001)
    with subscribed(exchange) as client:
        exchange.push({"n": 1})
        assert pushed(client) == {"n": 1}
        exchange.trickle(1, 100)
        exchange.push({"n": 2})
        exchange.clear_faults()
        assert pushed(client) == {"n": 2}
        exchange.trickle(1, 100)
        exchange.push({"n": 3})
    assert exchange.wait_for("close")


def test_waiting_ends_at_the_deadline(exchange: Exchange) -> None:
    assert not exchange.wait_for("connect", 0.01)
    assert not exchange.wait_for(lambda: exchange.positions, 0.01)
    assert not exchange.wait_for_clients(1, 0.01)
    assert not exchange.wait_for_subscribers(1, 0.01)
    with opened(exchange):
        assert exchange.wait_for("connect")
        assert exchange.wait_for(lambda: exchange.connections[0].alive)


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls_with_pings_during_a_burst(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    with (
        Exchange(ssl_context=server_tls) as exchange,
        subscribed(exchange, ssl=client_tls) as client,
    ):
        assert exchange.url.startswith("wss://")
        for n in range(2000):
            assert exchange.push_bytes(struct.pack("!I", n) * 50) == 1
            if n % 20 == 0:
                client.send(json.dumps({"ping": now_ms()}))
        got: list[Any] = [client.recv(SOON) for _ in range(2100)]
        frames = [data[:4] for data in got if isinstance(data, bytes)]
        assert frames == [struct.pack("!I", n) for n in range(2000)]
        assert exchange.wait_for("ping", count=100)
        exchange.push_bytes(bytes(1_000_000))
        assert client.recv(SOON) == bytes(1_000_000)
        exchange.drop(clean=True)
        closed = close_seen(client)
        assert closed.rcvd is not None
        assert closed.rcvd.code == 1001
        assert exchange.violations == []


def test_drop_resets_below_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    with (
        Exchange(ssl_context=server_tls) as exchange,
        socket.create_connection((exchange.host, exchange.port)) as raw,
    ):
        tls = client_tls.wrap_socket(raw, server_hostname=exchange.host)
        upgrade_by_hand(exchange, tls)
        # Some releases of `ssl` show a reset as an end: look at the socket below.
        with socket.socket(fileno=tls.detach()) as below:
            below.settimeout(SOON)
            exchange.drop()
            with pytest.raises(ConnectionResetError):
                below.recv(1)


def test_tls_refused_by_the_client(server_tls: ssl.SSLContext) -> None:
    with Exchange(ssl_context=server_tls) as exchange:
        context = ssl.create_default_context()  # does not trust this authority
        with pytest.raises(ssl.SSLCertVerificationError), opened(exchange, ssl=context):
            pass
        with socket.create_connection((exchange.host, exchange.port)) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")  # not TLS at all
            raw.settimeout(SOON)
            while raw.recv(100):
                pass
        assert exchange.connections == []
    assert exchange_threads() == []


def test_rest_over_tls(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    with (
        Exchange(ssl_context=server_tls) as exchange,
        socket.create_connection((exchange.host, int(exchange.rest_url.rsplit(":", 1)[1]))),
    ):
        # The silent client beside it does not hold it up.
        assert "serverTime" in get(exchange, "/fapi/v1/time", context=client_tls)
        assert "account" in get(exchange, "/fapi/v1/account", context=client_tls)


# REST.


def get(
    exchange: Exchange,
    path: str,
    *,
    context: ssl.SSLContext | None = None,
    parse_float: Any = Decimal,
    **changes: str,
) -> Any:
    """A signed request's answer; `changes` replace headers."""
    stamp = changes.get("ts", str(now_ms()))
    signed = f"{stamp}GET{path}".encode()
    headers = {
        "X-CH-APIKEY": changes.get("key", exchange.api_key),
        "X-CH-TS": stamp,
        "X-CH-SIGN": changes.get(
            "sign", hmac.new(exchange.api_secret.encode(), signed, hashlib.sha256).hexdigest()
        ),
    }
    request = urllib.request.Request(exchange.rest_url + path, headers=headers)
    with urllib.request.urlopen(request, timeout=SOON, context=context) as response:
        return json.loads(response.read(), parse_float=parse_float)


def error_of(call: Any) -> tuple[int, Any]:
    with pytest.raises(urllib.error.HTTPError) as caught:
        call()
    with caught.value as error:
        return error.code, json.loads(error.read())["code"]


def test_rest_time(exchange: Exchange) -> None:
    exchange.clock_offset_ms = -3_600_000
    assert abs(get(exchange, "/fapi/v1/time")["serverTime"] - (now_ms() - 3_600_000)) < 1000


def test_rest_account_tells_the_truth(exchange: Exchange) -> None:
    long = exchange.open_position(
        volume=12, open_price=Decimal("98533.12345678901234567"), closable_volume=2, leverage=3
    )
    exchange.open_position("S-ETH-USDT", "SELL", margin_mode="ISOLATED")
    exchange.update_position(long, volume=8)
    exchange.set_balance(available="122624.12345678", frozen="100.5", isolated_margin="50.25")
    answer = get(exchange, "/fapi/v1/account")
    (account,) = answer["account"]
    assert account["marginCoin"] == "USDT"
    assert account["accountNormal"] == Decimal("122624.12345678")
    assert account["accountLock"] == Decimal("100.5")
    assert account["partPositionNormal"] == Decimal("50.25")
    first, second = account["positionVos"]
    assert first["contractName"] == "E-BTC-USDT"
    assert first["contractSymbol"] == "BTC-USDT"
    assert first["contractOtherName"] == "BTCUSDT-EXUSD"
    (position,) = first["positions"]
    truth = exchange.positions[long]
    for key, name in {
        "id": "id",
        "cid": "contractId",
        "pt": "positionType",
        "s": "side",
        "pv": "volume",
        "op": "openPrice",
        "rp": "reducePrice",
        "hm": "holdAmount",
        "ra": "realizedAmount",
        "mr": "marginRate",
        "oa": "openAmount",
        "l": "leverageLevel",
    }.items():
        assert (
            Decimal(str(position[name])) == Decimal(str(truth[key]))
            if key != "s"
            else (position[name] == truth[key])
        )
    assert position["closeVolume"] == 4
    assert position["volume"] - position["pendingCloseVolume"] == truth["ccv"] == 2
    assert position["brokerId"] == exchange.broker
    assert second["positions"][0]["positionType"] == 2
    documented_names = (
        "id uid contractId positionType side volume openPrice avgPrice closePrice leverageLevel "
        "holdAmount closeVolume pendingCloseVolume realizedAmount historyRealizedAmount tradeFee "
        "capitalFee closeProfit shareAmount freezeLock status ctime mtime brokerId marginRate "
        "reducePrice openAmount"
    )
    assert list(position) == documented_names.split()


def test_rest_signatures(exchange: Exchange) -> None:
    path = "/fapi/v1/account"
    assert get(exchange, path)["account"]
    assert error_of(lambda: get(exchange, path, key="wrong")) == (401, -2015)
    assert error_of(lambda: get(exchange, path, sign="0" * 64)) == (400, -1022)
    assert error_of(lambda: get(exchange, path, ts=str(now_ms() - 6000))) == (400, -1021)
    assert error_of(lambda: get(exchange, path, ts="soon")) == (400, -1102)
    assert error_of(lambda: get(exchange, "/fapi/v1/other"))[0] == 404
    exchange.clock_offset_ms = 60_000
    assert error_of(lambda: get(exchange, path)) == (400, -1021)
    assert get(exchange, path, ts=str(now_ms() + 60_000))["account"]
    assert [status for _, _, status in exchange.rest_requests][:2] == [200, 401]


def test_rest_signature_worked_out_by_openssl() -> None:
    # printf '1700000000000GET/fapi/v1/account' | openssl dgst -sha256 -hmac 'my secret'
    signature = "14e385f273ff9911cdb94a042ee34a366e70ab8363ea8bf2b3451007bc3912d5"
    with Exchange(api_secret="my secret") as exchange:
        exchange.clock_offset_ms = 1_700_000_000_000 - now_ms()
        assert get(exchange, "/fapi/v1/account", ts="1700000000000", sign=signature)["account"]


def test_rest_faults(exchange: Exchange) -> None:
    exchange.rest_fail(429, {"Retry-After": "7"}, b'{"code":-1003,"msg":"slow"}', times=1)
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(exchange, "/fapi/v1/time")
    with caught.value as error:
        assert (error.code, error.headers["Retry-After"]) == (429, "7")
    assert get(exchange, "/fapi/v1/time")


def test_a_delayed_answer_tells_of_the_moment_it_was_asked(exchange: Exchange) -> None:
    exchange.rest_delay(60)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(get(exchange, "/fapi/v1/account")))
    asking.start()
    assert exchange.wait_for("rest")
    exchange.open_position()
    exchange.clear_faults()
    asking.join(SOON)
    assert answers[0]["account"][0]["positionVos"] == []


def test_stop_interrupts_rest(exchange: Exchange) -> None:
    exchange.rest_delay(60)
    url = exchange.rest_url

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            get(exchange, "/fapi/v1/time")

    asking = threading.Thread(target=ask)
    asking.start()
    assert exchange.wait_for("rest")
    exchange.stop()
    asking.join(SOON)
    assert not asking.is_alive()
    assert exchange_threads() == []
    exchange.clear_faults()
    exchange.start()
    assert exchange.rest_url == url
    assert get(exchange, "/fapi/v1/time")


# The package.


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
    root = Path(__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert 'ImportError: fastpos.simulator needs the websockets library: pip install "fastpos[' in (
        run.stderr
    )


# A client by hand, for what no library's client would do.


def masked(payload: bytes, opcode: int = 1) -> bytes:
    """A client's frame; the mask is zero, which changes nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


def send_upgrade(exchange: Exchange, raw: socket.socket) -> None:
    raw.sendall(
        f"GET /position_order/ws HTTP/1.1\r\nHost: {exchange.host}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n"
        f"api-key: {exchange.api_key}\r\n\r\n".encode()
    )


def upgrade_by_hand(exchange: Exchange, raw: socket.socket) -> None:
    send_upgrade(exchange, raw)
    raw.settimeout(SOON)
    head = b""
    while not head.endswith(b"connect success"):
        head += raw.recv(1)
    assert head.startswith(b"HTTP/1.1 101")


@contextlib.contextmanager
def subscribed_by_hand(exchange: Exchange) -> Iterator[socket.socket]:
    with socket.create_connection((exchange.host, exchange.port)) as raw:
        upgrade_by_hand(exchange, raw)
        raw.sendall(masked(sub_message(exchange).encode()))
        assert raw.recv(13, socket.MSG_WAITALL) == b"\x81\x0bsub success"
        yield raw


def read_all(raw: socket.socket) -> bytes:
    """Everything up to the stream's end."""
    raw.settimeout(SOON)
    return b"".join(itertools.takewhile(bool, iter(lambda: raw.recv(65536), None)))
