"""Wrong arguments of a stream: named, before any socket is opened, and without showing secrets."""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpos import PositionStream, ReconnectPolicy

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


def refused(kind: Any, *names: str, **arguments: Any) -> str:
    """What was said when these arguments were refused."""
    with pytest.raises(kind) as caught:
        stream_with(**arguments)
    said = str(caught.value)
    for name in names:
        assert name in said
    assert SECRET not in shown(caught.value)
    return said


# --- the credential -------------------------------------------------------------------------------


def test_no_credential() -> None:
    for nothing in (..., None):
        refused((TypeError, ValueError), "token", "api_key", api_key=nothing)


def test_two_credentials() -> None:
    refused((TypeError, ValueError), "token", "api_key", token="another-secret")
    refused((TypeError, ValueError), "token", "api_key", token=lambda: "x", api_key=lambda: "y")


@pytest.mark.parametrize("name", ["token", "api_key"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "\n",
        f"{SECRET}\n",
        f"{SECRET}\r\nX-Evil: 1",
        f"{SECRET}\n{SECRET}",
        f" {SECRET}",
        f"{SECRET}\t",
        f"{SECRET}\0",
        f"{SECRET}\x7f",
        f"{SECRET}é",
        f"{SECRET}\u2028x",
    ],
    ids=ascii,
)
def test_a_credential_that_is_no_line_of_text(name: str, value: str) -> None:
    refused(ValueError, name, **{"api_key": ..., name: value})


@pytest.mark.parametrize("name", ["token", "api_key"])
@pytest.mark.parametrize("value", [SECRET.encode(), 5, True, [SECRET], {"key": SECRET}])
def test_a_credential_of_a_wrong_type(name: str, value: Any) -> None:
    refused(TypeError, name, **{"api_key": ..., name: value})


def test_a_callable_is_not_called_yet() -> None:
    calls: list[int] = []
    stream_with(api_key=lambda: calls.append(1))
    assert calls == []


# --- one argument after the other -----------------------------------------------------------------


def test_the_broker_is_needed() -> None:
    refused(TypeError, "broker", broker=...)


@pytest.mark.parametrize("value", [None, "1003", 1003.0, True, Decimal(1003), [1003]])
def test_broker(value: Any) -> None:
    refused(TypeError, "broker", broker=value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "exchange.example",
        "exchange.example:443/ws",
        "http://exchange.example/",
        "https://exchange.example/",
        "wsss://exchange.example/",
        "//exchange.example/",
        "ws:",
        "ws://",
        "wss:///path",
        "ws://:80/",
        "ws://exchange.example:port/",
        "ws://exchange.example:65536/",
        "ws://exchange.example:-1/",
        "ws://[::1/",
        "ws://::1]/",
        "ws://[nonsense]/",
        "ws://exchange\u2100example/",
        "ws://exchange.example/a b",
        "ws://exchange.example/\r\nX: 1",
        "ws://exchange.example/#fragment",
        f"ws://user:{SECRET}@exchange.example/",
        f"ws://{SECRET}@exchange.example/",
        f"ws://user:{SECRET}@exchange.example:port/",
        f"ws://user:{SECRET}@exchange\u2100example/",
        f"ws://user:{SECRET}@[::1/",
    ],
    ids=ascii,
)
def test_url(value: str) -> None:
    refused(ValueError, "url", url=value)


@pytest.mark.parametrize("value", [None, b"ws://x/", 5, ["ws://x/"]])
def test_url_of_a_wrong_type(value: Any) -> None:
    refused(TypeError, "url", url=value)


INTERVALS = [
    "ping_interval",
    "pong_timeout",
    "connect_timeout",
    "subscribe_timeout",
    "slow_callback_s",
]


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("value", [-1, -0.001, 0, 0.0, float("nan"), float("inf"), float("-inf")])
def test_intervals(name: str, value: float) -> None:
    refused(ValueError, name, **{name: value})


@pytest.mark.parametrize("name", INTERVALS)
@pytest.mark.parametrize("value", [None, "10", True, [10], Decimal(10)])
def test_intervals_of_a_wrong_type(name: str, value: Any) -> None:
    refused(TypeError, name, **{name: value})


@pytest.mark.parametrize("value", [int, str, None, "float", 1.0, complex, "Decimal"])
def test_number(value: Any) -> None:
    refused((TypeError, ValueError), "number", number=value)


@pytest.mark.parametrize("value", [True, 5, "never", ReconnectPolicy, {"initial": 1}])
def test_reconnect(value: Any) -> None:
    refused(TypeError, "reconnect", reconnect=value)


@pytest.mark.parametrize(
    "value",
    [
        ["X-A: 1"],
        "X-A: 1",
        [("X-A", "1")],
        5,
        True,
        {"X-A": 1},
        {"X-A": None},
        {1: "X-A"},
        {"X-A": b"1"},
    ],
    ids=repr,
)
def test_headers_of_a_wrong_type(value: Any) -> None:
    refused(TypeError, "headers", headers=value)


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "é", " ", "a\0"])
def test_names_of_headers(name: str) -> None:
    refused(ValueError, "headers", headers={name: "1"})


@pytest.mark.parametrize("value", [f"{SECRET}\n", f"{SECRET}\r\nX: 1", f"{SECRET}\0", "é"])
def test_values_of_headers(value: str) -> None:
    refused(ValueError, "headers", headers={"X-A": value})


@pytest.mark.parametrize(
    "name", ["api-key", "API-KEY", "Host", "upgrade", "Connection", "Sec-WebSocket-Key"]
)
def test_headers_that_are_not_the_users(name: str) -> None:
    refused(ValueError, "headers", headers={name: "1"})


@pytest.mark.parametrize("value", [True, "cert.pem", 5, ssl, ssl.CERT_NONE, {}])
def test_ssl_context(value: Any) -> None:
    refused(TypeError, "ssl_context", ssl_context=value)


@pytest.mark.parametrize(
    "value",
    [
        "localhost:8080",
        "ftp://localhost/",
        "https://localhost/",
        "http://",
        "http://localhost:port",
        "http://local host",
        f"http://user:{SECRET}@",
        f"user:{SECRET}@localhost:8080",
        f"ftp://user:{SECRET}@localhost",
        f"http://user:{SECRET}@localhost:port",
        f"http://user:{SECRET}@[::1",
        f"http://user:{SECRET}@local\u2100host",
        f"http://user:{SECRET}\n@localhost",
    ],
    ids=ascii,
)
def test_proxy(value: str) -> None:
    refused(ValueError, "proxy", proxy=value)


@pytest.mark.parametrize("value", [5, 0, True, False, b"http://localhost", [], {}, ["http://x"]])
def test_proxy_of_a_wrong_type(value: Any) -> None:
    refused(TypeError, "proxy", proxy=value)


SIZES = ["max_message_size", "queue_size"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [None, "1000", 1e6, True])
def test_sizes_of_a_wrong_type(name: str, value: Any) -> None:
    refused(TypeError, name, **{name: value})


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("value", [0, -1, 2**63, 2**70])
def test_sizes(name: str, value: int) -> None:
    """No buffer has a size that does not fit a machine word."""
    refused(ValueError, name, **{name: value})


@pytest.mark.parametrize("value", ["", "threads", "Reader", "process"])
def test_dispatch(value: str) -> None:
    refused(ValueError, "dispatch", "'reader'", "'thread'", dispatch=value)


@pytest.mark.parametrize("value", [None, 1, True, b"thread", ["thread"], threading.Thread])
def test_dispatch_of_a_wrong_type(value: Any) -> None:
    refused(TypeError, "dispatch", dispatch=value)


def test_unknown_and_positional_arguments() -> None:
    refused(TypeError, "on_trade", on_trade=print)
    constructor: Any = PositionStream
    with pytest.raises(TypeError) as caught:
        constructor(URL, SECRET, 1003)
    assert SECRET not in str(caught.value)


# --- what is fine ---------------------------------------------------------------------------------


FINE: list[dict[str, Any]] = [
    {"url": ...},
    {"url": "wss://exchange.example"},
    {"url": "ws://[::1]:8080/position_order/ws?x=1"},
    {"api_key": ..., "token": SECRET},
    {"api_key": lambda: SECRET},
    {"broker": 0},
    {"number": Decimal},
    {"ping_interval": 1, "pong_timeout": 0.001, "connect_timeout": 5, "subscribe_timeout": 86400},
    {"reconnect": None},
    {"headers": {}},
    {"headers": {"apiKey": SECRET, "User-Agent": "bot/1.0 (x; y)", "X_1": ""}},
    {"proxy": ""},
    {"proxy": f"http://user:{SECRET}@localhost:3128"},
    {"proxy": f"socks5h://user:{SECRET}@[::1]"},
    {"max_message_size": 1},
    {"dispatch": "reader", "queue_size": 1, "slow_callback_s": 0.001},
    {"dispatch": "thread", "queue_size": 1_000_000, "slow_callback_s": 86400},
]


@pytest.mark.parametrize("arguments", FINE, ids=[", ".join(each) for each in FINE])
def test_fine(arguments: dict[str, Any]) -> None:
    threads = threading.active_count()
    stream = stream_with(**arguments)
    for text in (repr(stream), str(stream), repr(stream._settings), repr(stream.stats)):
        assert SECRET not in text
    assert SECRET not in repr(vars(stream))
    assert threading.active_count() == threads


def test_the_repr_says_where_to() -> None:
    assert "exchange.example" in repr(stream_with(url="wss://exchange.example/ws"))


def test_the_users_headers_are_not_kept() -> None:
    headers = {"X-A": "1"}
    stream = stream_with(headers=headers)
    headers["X-A"] = "a\r\nb"
    assert stream._settings.headers == {"X-A": "1"}


# --- anything at all ------------------------------------------------------------------------------


def complaint(**arguments: Any) -> ValueError | None:
    try:
        stream_with(**arguments)
    except ValueError as error:
        return error
    return None


hosts = st.text(st.sampled_from("ab.:[]@/?#\\%0189-_ \u2100\u0661é"), max_size=12)


@given(st.sampled_from(["ws://", "wss:", "WS://", "http://", ""]), hosts)
@example("ws://", "[")
@settings(max_examples=150, deadline=None)
def test_any_url_is_taken_or_named(scheme: str, rest: str) -> None:
    error = complaint(url=scheme + rest)
    assert error is None or "url" in str(error)


@given(st.sampled_from(["http://", "socks5://", "socks5h:", "x://", ""]), hosts)
@settings(max_examples=150, deadline=None)
def test_any_proxy_is_taken_or_named(scheme: str, rest: str) -> None:
    error = complaint(proxy=f"{scheme}u:{SECRET}@{rest}")
    assert error is None or ("proxy" in str(error) and SECRET not in shown(error))


@given(st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_any_credential_is_one_visible_line_or_refused(text: str) -> None:
    error = complaint(api_key=text)
    visible = text != "" and text.isascii() and text.isprintable() and text == text.strip()
    assert (error is None) == visible
    assert error is None or "api_key" in str(error)
