"""Wrong arguments of a stream: named, before any socket is opened, and without showing secrets."""

from __future__ import annotations

import dataclasses
import inspect
import re
import socket
import ssl
import threading
import traceback
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import PositionStream, ReconnectPolicy
from fastpos.runtime.callbacks import CALLBACK_NAMES

SECRET = "hV3qZ8sT-secret"
URL = "ws://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def _no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was asked for")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)


def stream_with(**arguments: Any) -> PositionStream:
    given: dict[str, Any] = {"url": URL, "api_key": SECRET, "broker": 1003, **arguments}
    return PositionStream(**{name: value for name, value in given.items() if value is not ...})


def shown(error: BaseException) -> str:
    """All that a log or a traceback would show of it, its causes included."""
    return "".join(traceback.format_exception(error)) + repr(error)


# --- what is refused ------------------------------------------------------------------------------

TEXTS = [
    *("", " ", "\n", f"{SECRET}\n", f"{SECRET}\r\nX-Evil: 1", f"{SECRET}\n{SECRET}", f" {SECRET}"),
    *(f"{SECRET}\t", f"{SECRET}\0", f"{SECRET}\x7f", f"{SECRET}é", f"{SECRET}\u2028x"),
]
# The kinds of mistakes; net/ knows more of them.
URLS = [
    *("", "exchange.example:443/ws", "https://exchange.example/", "ws://", "ws://:80/"),
    *("ws://exchange.example:65536/", "ws://[::1/", "ws://[nonsense]/", "ws://a\u2100example/"),
    *("ws://exchange.example/a b", "ws://exchange.example/\r\nX: 1", "ws://exchange.example/#f"),
    *(f"ws://{SECRET}@exchange.example/", f"ws://user:{SECRET}@exchange.example:port/"),
    *(f"ws://user:{SECRET}@exchange\u2100example/", f"ws://user:{SECRET}@[::1/"),
]
PROXIES = [
    *("localhost:8080", "https://localhost/", "http://", "http://local host"),
    *(f"user:{SECRET}@localhost:8080", f"ftp://user:{SECRET}@localhost", f"http://u:{SECRET}@"),
    *(f"http://user:{SECRET}@localhost:port", f"http://user:{SECRET}@[::1"),
    *(f"http://user:{SECRET}@local\u2100host", f"http://user:{SECRET}\n@localhost"),
]
HEADERS = [
    *({name: "1"} for name in ("", "a b", "a:", "a\r\nb", "é", " ", "a\0")),
    *({name: "1"} for name in ("api-key", "API-KEY", "Host", "upgrade", "Connection")),
    *({"Sec-WebSocket-Key": "1"}, {"SEC-WEBSOCKET-EXTENSIONS": "1"}),
    *({"Origin": "a", "origin": "b"}, {"origin": None, "Origin": "b"}, {"X-A": "1", "x-a": "1"}),
    *({"X-A": value} for value in (f"{SECRET}\n", f"{SECRET}\r\nX: 1", f"{SECRET}\0", "é")),
]
SECONDS = [
    *("ping_interval", "pong_timeout", "connect_timeout", "subscribe_timeout"),
    *("slow_callback_s", "snapshot_timeout"),
]
SIZES = ["max_message_size", "queue_size"]
OF_WRONG_TYPES: dict[str, list[Any]] = {
    **{key: [SECRET.encode(), 5, True, [SECRET], {"key": SECRET}] for key in ("token", "api_key")},
    "url": [None, b"ws://x/", 5, ["ws://x/"]],
    "broker": [None, "1003", 1003.0, True, Decimal(1003), [1003], ...],
    "name": [None, 5, b"alice", True],
    **{key: [None, "10", True, [10], Decimal(10)] for key in SECONDS},
    **{key: [None, "1000", 1000000.0, True] for key in SIZES},
    "reconnect": [True, 5, "never", ReconnectPolicy, {"initial": 1}],
    "headers": [
        *(["X-A: 1"], "X-A: 1", [("X-A", "1")], 5, True),
        *({"X-A": 1}, {"X-A": None}, {1: "X-A"}, {"X-A": b"1"}, {"Origin": 1}),
    ],
    "source_address": [5, b"127.0.0.1", ["127.0.0.1", 0], ("127.0.0.1",), ("127.0.0.1", "80")],
    "ssl_context": [True, "cert.pem", 5, ssl, ssl.CERT_NONE, {}],
    "proxy": [5, 0, True, False, b"http://localhost", [], {}, ["http://x"]],
    "snapshot": [5, "snapshot", ()],
    "dispatch": [None, 1, True, b"thread", ["thread"], threading.Thread],
    "on_trade": [print],  # there is no such argument
}
WRONG: dict[str, list[Any]] = {
    **dict.fromkeys(("token", "api_key"), TEXTS),
    "url": URLS,
    "name": ["", " ", " a", "a\n", "a\x1b[2J", "x" * 101],
    **{key: [-1, -0.001, 0, 0.0, float("nan"), float("inf"), float("-inf")] for key in SECONDS},
    **{key: [0, -1, 2**63, 2**70] for key in SIZES},  # no buffer has more than a machine word says
    "number": [int, str, None, "float", 1.0, complex, "Decimal"],
    "headers": HEADERS,
    "source_address": ["", "localhost", "127.0.0.1:80", ("127.0.0.1", 70000), ("host", 0)],
    "proxy": PROXIES,
    "dispatch": ["", "threads", "Reader", "process"],
}
REFUSED = [
    (kind, name, value)
    for kind, table in ((TypeError, OF_WRONG_TYPES), (ValueError, WRONG))
    for name, values in table.items()
    for value in values
]


@pytest.mark.parametrize(("kind", "name", "value"), REFUSED, ids=ascii)
def test_what_is_wrong_is_named_and_no_secret_shown(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(kind) as caught:
        stream_with(**({"api_key": ..., name: value} if name == "token" else {name: value}))
    assert name in str(caught.value)
    assert SECRET not in shown(caught.value)


def test_it_has_to_be_one_credential() -> None:
    two: dict[str, Any] = {"token": lambda: "x", "api_key": lambda: "y"}
    for credentials in ({"api_key": ...}, {"api_key": None}, {"token": "another-secret"}, two):
        with pytest.raises(ValueError, match=r"token.*api_key") as caught:
            stream_with(**credentials)
        assert SECRET not in shown(caught.value)


# --- what is fine ---------------------------------------------------------------------------------

FINE: list[dict[str, Any]] = [
    *({"url": url} for url in (..., "wss://exchange.example", "ws://[::1]:8080/ws?x=1")),
    {"api_key": ..., "token": SECRET, "broker": 0, "number": Decimal, "reconnect": None},
    {"ping_interval": 1, "pong_timeout": 0.001, "connect_timeout": 5, "subscribe_timeout": 86400},
    {"headers": {}, "proxy": "", "max_message_size": 1, "name": "alice's, Zürich"},
    {"headers": {"apiKey": SECRET, "User-Agent": "bot/1.0 (x; y)", "X_1": ""}},
    {"proxy": f"http://user:{SECRET}@localhost:3128"},
    {"proxy": f"socks5h://user:{SECRET}@[::1]"},
    {"dispatch": "reader", "queue_size": 1, "slow_callback_s": 0.001, "tick_timeout": None},
    {"dispatch": "thread", "queue_size": 1_000_000, "slow_callback_s": 86400},
]


@pytest.mark.parametrize("arguments", FINE, ids=[", ".join(each) for each in FINE])
def test_fine(arguments: dict[str, Any]) -> None:
    threads = threading.active_count()
    stream = stream_with(**arguments)
    parts: list[Any] = [vars(stream), vars(stream._settings), stream, stream._settings]
    for text in (*map(repr, parts), str(stream), repr(stream.stats)):
        assert SECRET not in text.replace(
            str({"apiKey": SECRET})[1:-1], ""
        )  # a header of the user's
    assert threading.active_count() == threads


def test_a_stream_is_named_and_says_where_to() -> None:
    stream = stream_with(url="wss://exchange.example/ws", name="alice")
    assert stream.name == "alice"
    assert repr(stream) == "<PositionStream alice wss://exchange.example:443 broker=1003>"
    one, other = stream_with().name, stream_with().name
    assert one.startswith("stream-")
    assert int(other[7:]) == int(one[7:]) + 1


def test_arguments_are_kept_as_they_were_given() -> None:
    headers = {"X-A": "1"}
    kept = stream_with(headers=headers)._settings
    headers["X-A"] = "a\r\nb"
    assert kept.headers == {"X-A": "1"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        kept.broker = 5
    with pytest.raises(AttributeError):  # not the default of what is kept in another form
        _ = kept.proxy


def test_the_constructor_shows_every_argument() -> None:
    there = inspect.signature(PositionStream).parameters
    assert there.keys() >= {"url", "token", "api_key", "broker", *SECONDS, *SIZES, *CALLBACK_NAMES}
    assert there["broker"].default is inspect.Parameter.empty
    assert there["ping_interval"].default == 30.0
    assert str(there["ping_interval"]) == "ping_interval: float = 30.0"
    assert str(there["on_order"]) == "on_order: 'Callable[[Order], object] | None' = None"
    assert there["proxy"].annotation == str | None
    assert [name for name, each in there.items() if each.kind is not each.KEYWORD_ONLY] == ["url"]
    documented = re.findall(r"^    (\w+): ", inspect.getdoc(PositionStream) or "", re.M)
    assert set(documented) == there.keys() - set(CALLBACK_NAMES)


# Words of the message are no credentials; hypothesis takes texts from the sources, too.
@given(st.text(max_size=20).filter(lambda text: "api_key" not in text))
@settings(max_examples=100, deadline=None)
def test_any_credential_is_one_visible_line_or_refused(text: str) -> None:
    visible = text != "" and text.isascii() and text.isprintable() and text == text.strip()
    refused = nullcontext() if visible else pytest.raises(ValueError, match="api_key")
    with refused:
        stream_with(api_key=text)
