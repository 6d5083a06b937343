"""A snapshot source: the account as the exchange's REST interface tells it.

Needs the extra `rest`: ``pip install "fastpos[rest]"``.

HTTP is httpx's. Its time-outs are each for one read or write, so a server that trickles could
hold a call up for ever; the sockets under it are therefore this library's own, opened as the
stream opens its (see net/), with one deadline for everything.

Threads: any may call or close an `AccountSnapshot`. `_lock` is held for the length of a call and
guards all that calls change. What `close` needs in order to end a call that is under way takes no
lock that a call holds, as a signal handler may have interrupted that call: who finds its own thread
in `_inside` leaves the rest of closing to what runs there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import ssl
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from decimal import Context, Decimal
from email.utils import parsedate_to_datetime
from math import isinf
from time import time, time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .clock import monotonic
from .errors import FastposError, SnapshotError
from .logs import fields, log
from .model.events import Balance, Order, Position
from .model.fields import NumberType, as_integer, as_number, as_text
from .model.snapshot import Snapshot
from .net.address import Address, Source, SourceAddress, parse_proxy, parse_source
from .net.connection import start_tls
from .net.dial import connect_tcp
from .net.proxy import open_tunnel, proxy_from_environment
from .net.transport import Transport
from .net.upgrade import Guarded
from .printable import printable
from .settings import check_seconds
from .tracebacks import clears_locals

try:
    import httpcore
    import httpx
except ImportError:
    raise ImportError('fastpos.rest needs the package httpx: pip install "fastpos[rest]"') from None

if TYPE_CHECKING:
    from typing import TypeGuard

    from typing_extensions import Self

__all__ = ["AccountSnapshot"]

_J = TypeVar("_J", dict[str, Any], list[Any])  # what an answer is in JSON
_JSON_NAMES: dict[type, str] = {dict: "object", list: "list"}

_TIME = "/fapi/v1/time"
_ACCOUNT = "/fapi/v1/account"
_OPEN_ORDERS = "/fapi/v1/openOrders"

# The largest answer taken, bytes, as it comes and unpacked.
MAX_ANSWER = 4 * 1024 * 1024
# The longest pause that an exchange may ask for, seconds.
MAX_RETRY_AFTER = 24 * 3600.0

# "Slow down", and "you did not": an exchange that says so is left alone for as long as it says.
_SLOW_DOWN = (429, 418)
# The exchange's code for a timestamp that is too far from its own clock.
_BAD_TIMESTAMP = -1021

# The largest power of ten taken in a number: more than a double has, and not so much that a few
# bytes make an int of a million digits.
MAX_EXPONENT = 400
# For sums of the exchange's numbers, to the last digit.
_exact = Context(prec=1000, traps=[])

# What a signature looks like, wherever it turns up.
_SIGNATURE = re.compile(r"[0-9a-fA-F]{64}")


class AccountSnapshot:
    """Asks the exchange for all positions and balances of the account; call it to do so.

    Each call sends a signed ``GET /fapi/v1/account`` and a signed ``GET /fapi/v1/openOrders``, and
    gives a `Snapshot`. Where the second is refused, the snapshot has no orders (None), which is
    logged once. Before the first, and when the exchange says that a timestamp is off (code -1021),
    the exchange's clock is asked for with ``GET /fapi/v1/time``: the host's may be wrong, and may
    be set while this runs.

    In what a call gives, `raw` is the JSON object it came in, and an attribute that the exchange
    left out is None. A position's `open_price` is the exchange's ``avgPrice`` where it is sent.

        stream = PositionStream(..., snapshot=AccountSnapshot(base_url, api_key, api_secret))

    Args:
        base_url: where the REST interface is, like ``https://futuresopenapi.exchange1.com``.
        api_key: the API key.
        api_secret: the API secret; it only signs, and never travels.
        timeout: seconds for a whole call. Only the look-up of the host's name is not bound by it,
            for the system does not let itself be interrupted in that.
        ssl_context: TLS settings instead of the default ones, which verify the server.
        proxy: as for a stream: a URL, None for the environment's, "" for none.
        number: `float`, or `decimal.Decimal` for numbers exactly as the exchange wrote them; give
            the stream the same.
        source_address: where to connect from, as for a stream.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
    """

    @clears_locals
    def __init__(
        self,
        base_url: str,
        api_key: str,
        api_secret: str,
        timeout: float = 10.0,
        *,
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        number: NumberType = float,
        source_address: SourceAddress | None = None,
    ) -> None:
        target = _target(base_url)
        _check_text("api_key", api_key)
        # It travels in an HTTP header: visible ASCII, one line (RFC 9110, section 5.5).
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise ValueError("api_key must be visible ASCII without white space")
        _check_text("api_secret", api_secret)
        if ssl_context is not None and not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError("ssl_context must be an ssl.SSLContext or None")
        if number is not float and number is not Decimal:
            raise ValueError(f"number must be float or decimal.Decimal, not {number!r}")
        self._number: NumberType = number
        self._orders_refused = False  # and that was logged
        self._base = base_url.rstrip("/")
        self._key = api_key
        self._secret = api_secret
        self._timeout = check_seconds("timeout", timeout)
        source = None if source_address is None else parse_source(source_address)
        self._network = _Network(target, ssl_context, proxy, source)
        self._lock = threading.Lock()
        self._inside: list[int] = []  # the threads that hold it, or are about to
        self._client: httpx.Client | None = None
        self._warned = target.scheme == "https" or target.is_loopback
        self._offset_ms: float | None = None  # the exchange's clock less our monotonic one
        self._pause_ends = float("-inf")  # `monotonic` until which the exchange is left alone
        self._paused_by: tuple[int | None, int | None] = (None, None)  # with this code and status

    @clears_locals
    def __call__(self) -> Snapshot:
        """Ask the exchange.

        Positions of volume 0 are left out: they are closed, or were never opened.

        Raises:
            SnapshotError: it did not work out. When the exchange asked for a pause (HTTP 429 or
                418 with ``Retry-After``), calls fail at once until that is over, and ask nothing.
        """
        me = threading.get_ident()
        self._inside.append(me)
        try:
            return self._call()
        finally:
            self._inside.remove(me)
            if self._network.stopped:  # by a signal handler, in the last steps of this
                self.close()

    def _call(self) -> Snapshot:
        deadline = monotonic() + self._timeout
        if not self._lock.acquire(timeout=self._timeout):
            raise self._failure(f"another call has not ended in {self._timeout:g} s")
        try:
            left = self._pause_ends - monotonic()
            if left > 0:
                code, status = self._paused_by
                text = f"the exchange asked for a pause, {left:.3g} s are left"
                raise self._failure(text, code, status, left)
            if not self._warned:
                self._warned = True
                log.warning(
                    "%s: the API key travels in clear; use https://",
                    self._base,
                    extra=fields("credential_in_clear", url=self._base),
                )
            self._network.deadline = deadline
            snapshot = self._account()
            return snapshot._replace(orders=self._open_orders())
        finally:
            self._let_go()

    def close(self) -> None:
        """Close the connection, and end a call that is under way; it raises `SnapshotError`.

        A later call opens a new one. It may be called in a signal handler, too.
        """
        self._network.stop()
        me = threading.get_ident()
        if me in self._inside:
            return  # in a signal handler: what it interrupted closes
        self._inside.append(me)
        try:
            # A call ends soon now, but for a look-up of the name, which can't be interrupted.
            acquired = self._lock.acquire(timeout=self._timeout)
            if acquired:
                self._let_go()
        finally:
            self._inside.remove(me)
        if acquired and self._network.stopped:
            self.close()

    def _let_go(self) -> None:
        """Give the lock back; before that, close what is to be closed."""
        try:
            if self._network.stopped:
                client, self._client = self._client, None
                if client is not None:
                    client.close()
                self._network.restart()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"AccountSnapshot({getattr(self, '_base', None)!r})"

    # --- what the exchange is asked -----------------------------------------------------------

    def _account(self) -> Snapshot:
        answer = self._signed(_ACCOUNT, dict)
        try:
            return _snapshot(answer, time_ns(), self._number)
        except _WrongShape as error:
            failure = self._failure(f"{_ACCOUNT}: {error}", status=200)
        raise failure

    def _open_orders(self) -> list[Order] | None:
        """Give the open orders, None where the exchange does not tell them."""
        try:
            return _orders(self._signed(_OPEN_ORDERS, list), time_ns(), self._number)
        except (SnapshotError, _WrongShape) as error:
            if self._network.stopped:
                raise self._failure(f"{_OPEN_ORDERS}: close() was called") from None
            if not self._orders_refused:
                self._orders_refused = True
                log.warning(
                    "snapshots come without the open orders: %s",
                    error,
                    extra=fields("no_open_orders", url=self._base, reason=str(error)),
                )
            return None

    def _signed(self, path: str, kind: type[_J]) -> _J:
        try:
            return self._ask(path, kind, signed=True)
        except SnapshotError as error:
            if error.code != _BAD_TIMESTAMP:
                raise
        self._offset_ms = None
        return self._ask(path, kind, signed=True)

    def _timestamp(self) -> int:
        """Give the exchange's time, milliseconds since the epoch."""
        if self._offset_ms is None:
            told = as_integer(self._ask(_TIME, dict).get("serverTime"))
            if type(told) is not int:
                raise self._failure(f"{_TIME}: no serverTime in milliseconds", status=200)
            # It was so many o'clock somewhere between sending and receiving.
            self._offset_ms = told - self._network.middle() * 1000
        return int(monotonic() * 1000 + self._offset_ms)

    def _ask(self, path: str, kind: type[_J], signed: bool = False) -> _J:
        """Give what the exchange answers a GET of `path` with: an object or a list, as `kind`."""
        status, headers, body = self._exchange(self._request(path, signed))
        if 300 <= status < 400:
            where = self._shown(headers.get("location", "nowhere"))
            raise self._failure(
                f"{path}: redirects to {where}, which is not followed: "
                "the API key is for this host only",
                status=status,
            )
        answer, wrong = _answer(headers.get("content-encoding", ""), body, self._number)
        said = answer if isinstance(answer, dict) else {}
        code = as_integer(said.get("code"))
        code = code if type(code) is int else None
        # Some say {"code": 0} when all is well.
        if status == 200 and isinstance(answer, kind) and (not code or "account" in said):
            return answer
        retry_after = _retry_after(headers)
        if status in _SLOW_DOWN and retry_after is not None:
            self._pause_ends = monotonic() + retry_after
            self._paused_by = (code, status)
        text = f"{path}: HTTP {status}"
        if code is not None:
            text += f", code {printable(str(code), 20)}: {self._shown(said.get('msg') or '')}"
        elif status == 200:
            text += f", {wrong or f'the answer is not a JSON {_JSON_NAMES[kind]}'}"
        raise self._failure(text, code, status, retry_after)

    def _request(self, path: str, signed: bool) -> httpx.Request:
        stamp = self._timestamp() if signed else 0
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if signed:
            headers["X-CH-APIKEY"] = self._key
            headers["X-CH-TS"] = str(stamp)
            headers["X-CH-SIGN"] = _signature(self._secret, stamp, "GET", path)
        return httpx.Request("GET", self._base + path, headers=headers)

    def _exchange(self, request: httpx.Request) -> tuple[int, httpx.Headers, bytes]:
        """Give status, headers and body of the answer."""
        path = request.url.path
        try:
            with closing(self._opened().send(request, stream=True)) as response:
                body = bytearray()
                for piece in response.iter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        raise _TooLarge
                return response.status_code, response.headers, bytes(body)
        # All that there is: what the HTTP libraries raise can hold the request, headers and all.
        except Exception as error:
            if self._network.stopped:
                failure = self._failure(f"{path}: close() was called")
            elif isinstance(error, _TimedOut):
                failure = self._failure(f"{path}: no whole answer in {self._timeout:g} s")
            elif isinstance(error, FastposError):  # from opening the connection: it says where
                failure = SnapshotError(self._hidden(str(error)))
            else:
                failure = self._failure(
                    f"{path}: {self._shown(str(error) or type(error).__name__)}"
                )
        # Not above, where it would keep the other as its context.
        raise failure

    def _opened(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(
                transport=_HttpTransport(self._network),
                timeout=None,
                follow_redirects=False,
                trust_env=False,
            )
        return self._client

    # --- what is told of failures -------------------------------------------------------------

    def _failure(
        self,
        text: str,
        code: int | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> SnapshotError:
        return SnapshotError(f"{self._base}: {text}", code, status, retry_after)

    def _shown(self, said: object) -> str:
        """A text that came from elsewhere, fit for a message."""
        return f"'{printable(self._hidden(str(said)))}'"

    def _hidden(self, text: str) -> str:
        """`text` without credentials."""
        for secret in (self._secret, self._key):
            text = text.replace(secret, "***")
        return _SIGNATURE.sub("***", text)


# --- arguments ----------------------------------------------------------------------------------


def _target(base_url: object) -> Address:
    if not isinstance(base_url, str):
        raise TypeError(f"base_url must be a str, not {type(base_url).__name__}")
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:  # whose message may hold a password
        url = None
    if url is None or url.scheme not in ("http", "https") or not url.host or "%" in url.host:
        raise ValueError("base_url must be like https://host or https://host:port")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("base_url has a port that is no port number")
    if url.userinfo:
        raise ValueError("base_url must not hold a user or password")
    if url.path != "/" or url.query or url.fragment or base_url.rstrip("/")[-1:] in "?#":
        raise ValueError("base_url must end with the host or port: the paths are the library's")
    default = 443 if url.scheme == "https" else 80
    return Address(url.scheme, url.raw_host.decode("ascii"), url.port or default)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{name} must not be empty")
    if not value.isprintable():  # among others what can't be written in UTF-8
        raise ValueError(f"{name} must be one line of printable characters")


# --- HTTP ---------------------------------------------------------------------------------------


def _signature(secret: str, timestamp_ms: int, method: str, path: str, body: str = "") -> str:
    """Sign a request: HMAC-SHA256 over time, method, path with query and body, in hex."""
    signed = f"{timestamp_ms}{method}{path}{body}"
    return hmac.new(secret.encode(), signed.encode(), hashlib.sha256).hexdigest()


def _answer(encoding: str, body: bytes, number: NumberType) -> tuple[Any, str]:
    """Give the JSON in an answer's body; None and the reason where there is none."""
    if encoding.lower() in ("gzip", "x-gzip"):  # not asked for, but then pushes come so too
        try:
            body = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(body, MAX_ANSWER + 1)
        except zlib.error:
            return None, "the answer is not the gzip that it says it is"
        if len(body) > MAX_ANSWER:
            return None, str(_TooLarge())
    try:
        return json.loads(
            body,
            parse_float=_decimal if number is Decimal else _float,
            parse_constant=_no_constant,
        ), ""
    except (ValueError, ArithmeticError, RecursionError):
        return None, "the answer is not JSON"


def _decimal(text: str) -> Decimal:
    value = Decimal(text)
    if abs(value.adjusted()) > MAX_EXPONENT:
        raise ValueError("a number out of all proportion")
    return value


def _float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError("a number out of all proportion")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _retry_after(headers: httpx.Headers) -> float | None:
    """Give the seconds that ``Retry-After`` asks for (RFC 9110, section 10.2.3), None if unclear.

    A date is compared with the answer's own ``Date``, for the host's clock may be wrong.
    """
    asked = headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdigit():
        seconds = float(asked)
    else:
        try:
            until = parsedate_to_datetime(asked).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        try:
            seconds = until - parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            seconds = until - time()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


class _TimedOut(Exception):
    """The deadline has passed."""


class _TooLarge(Exception):
    """The answer is larger than any account's."""

    def __str__(self) -> str:
        return f"the answer is larger than {MAX_ANSWER // 1024 // 1024} MiB"


class _HttpTransport(httpx.BaseTransport):
    """httpx's way to httpcore, which takes the sockets from `network`."""

    def __init__(self, network: _Network) -> None:
        self._pool = httpcore.ConnectionPool(
            # httpcore would change the context that it is given, and it may be the user's: this
            # one is for nothing else (see `_Stream.start_tls`).
            ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            max_connections=1,
            keepalive_expiry=5.0,
            network_backend=network,
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
                ),
                headers=request.headers.raw,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """An answer's body, as httpx wants it."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore.NetworkBackend):
    """Opens connections to one host, each and all of what is done on them until `deadline`.

    No lock: `stop` sets `stopped` and looks at `_transport`; who opens one sets that and looks at
    `stopped`. One of the two sees the other.
    """

    def __init__(
        self,
        target: Address,
        context: ssl.SSLContext | None,
        proxy: str | None,
        source: Source | None,
    ) -> None:
        self._target = target
        self._source = source
        self._context = context
        self._proxy = parse_proxy(proxy) if proxy else None
        self._proxy_from_environment = proxy is None
        self._transport: Transport | None = None  # the last that was made
        self.stopped = False
        """True from `stop` to `restart`: nothing new is opened."""
        self.deadline = 0.0
        """When to give up, `clock.monotonic()`."""
        self.sent = 0.0
        """When something was last sent, `clock.monotonic()`."""
        self.answered: float | None = None
        """When something was first received after that."""

    def middle(self) -> float:
        """Give the time between sending and receiving, `clock.monotonic()`."""
        return (self.sent + (self.answered or self.sent)) / 2

    def remaining(self) -> float:
        """Give the seconds until the deadline; raises `_TimedOut` when there are none."""
        remaining = self.deadline - monotonic()
        if remaining <= 0:
            raise _TimedOut
        return remaining

    def stop(self) -> None:
        """End the connection, whatever is under way on it."""
        self.stopped = True
        transport = self._transport
        if transport is not None:
            transport.shutdown()

    def restart(self) -> None:
        """Allow connections again."""
        self._transport = None
        self.stopped = False

    def _adopt(self, transport: Transport) -> None:
        self._transport = transport
        if self.stopped:
            raise ConnectionAbortedError("stopped")

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """Connect to the host, through the proxy if there is one (httpcore's interface)."""
        target, proxy = self._target, self._proxy
        if self._proxy_from_environment:
            scheme = "wss" if target.scheme == "https" else "ws"  # the names that it goes by there
            proxy = proxy_from_environment(target._replace(scheme=scheme))
        transport = connect_tcp(proxy or target, self.deadline, self._adopt, self._source)
        if proxy is not None:
            try:
                open_tunnel(Guarded(transport, self.deadline, f"proxy {proxy}"), proxy, target)
            except BaseException:
                transport.close()
                raise
        return _Stream(self, transport)

    def encrypted(self, transport: Transport) -> Transport:
        """Start TLS; `transport` is of no use any more."""
        if self._context is None:  # reading the authorities takes a while: do it once
            self._context = ssl.create_default_context()
        try:
            return start_tls(transport, self._context, self._target, self.deadline, self._adopt)
        except BaseException:
            transport.close()
            raise


class _Stream(httpcore.NetworkStream):
    """A connection as httpcore wants it. The time-outs that it gives do not matter."""

    def __init__(self, network: _Network, transport: Transport) -> None:
        self._network = network
        self._transport = transport

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        buffer = bytearray(max_bytes)
        count = 0
        while not count:
            if not self._transport.wait(self._network.remaining()):
                raise _TimedOut
            try:
                count = self._transport.read_into(memoryview(buffer))
            except EOFError:
                return b""
        if self._network.answered is None:
            self._network.answered = monotonic()
        return bytes(buffer[:count])

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            self._network.sent, self._network.answered = monotonic(), None
            try:
                self._transport.send(buffer, self._network.remaining())
            except TimeoutError:
                raise _TimedOut from None

    def close(self) -> None:
        self._transport.close()

    def start_tls(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        return _Stream(self._network, self._network.encrypted(self._transport))

    def get_extra_info(self, info: str) -> Any:
        # Bytes on an idle connection: the server has ended it.
        return self._transport.unread() if info == "is_readable" else None


# --- from the answer to a snapshot --------------------------------------------------------------

# attribute -> key in the answer
_NUMBERS = {
    "volume": "volume",
    "open_price": "openPrice",
    "liquidation_price": "reducePrice",
    "isolated_margin": "holdAmount",
    "realized_pnl": "realizedAmount",
    "margin_rate": "marginRate",
    "open_margin": "openAmount",
}
_ORDER_AMOUNTS = {
    "price": "price",
    "volume": "origQty",
    "filled_volume": "executedQty",
    "avg_price": "avgPrice",
}
# What the stream's codes of an order's type are called here.
_ORDER_TYPES = {"LIMIT": 1, "MARKET": 2, "IOC": 3, "FOK": 4, "POST_ONLY": 5}
# Of an order that is open no more.
_ENDED = ("FILLED", "CANCELED", "REJECTED")
_AMOUNTS = {
    "available": "accountNormal",
    "frozen": "accountLock",
    "isolated_margin": "partPositionNormal",
}


class _WrongShape(Exception):
    """The answer is not what the protocol says."""


def _snapshot(answer: dict[str, Any], received_ns: int, number: NumberType) -> Snapshot:
    """Make a snapshot of the answer to ``GET /fapi/v1/account``; raises `_WrongShape`.

    What is not understood as a whole is refused: a position that went unseen would count as
    closed. Single values that are missing or odd are not minded.
    """
    positions: list[Position] = []
    balances: list[Balance] = []
    coins = _objects(answer, "account")
    if not coins:
        raise _WrongShape("'account' is empty")
    for coin in coins:
        balances.append(_balance(coin, number))
        for contract in _objects(coin, "positionVos"):
            for raw in _objects(contract, "positions"):
                position = _position(contract, raw, received_ns, number)
                # A closed one, or what is kept of a contract that was never traded. `status`
                # would say so too, but its values are not documented.
                if position.volume != 0:
                    positions.append(position)
    return Snapshot(positions, balances)


def _objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Give the list of objects under `key`. Missing is not empty: it is not understood."""
    found = holder.get(key)
    if not _is_objects(found):
        raise _WrongShape(f"{key!r} is not a list of objects")
    return found


def _is_objects(found: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(found, list) and all(isinstance(item, dict) for item in found)


def _orders(answer: list[Any], received_ns: int, number: NumberType) -> list[Order]:
    """Make the orders of the answer to ``GET /fapi/v1/openOrders``; raises `_WrongShape`."""
    if not _is_objects(answer):
        raise _WrongShape(f"{_OPEN_ORDERS}: not a list of objects")
    orders = []
    for raw in answer:
        id = as_text(raw.get("orderId"))
        if type(id) is not str:
            raise _WrongShape(f"{_OPEN_ORDERS}: an order without orderId")
        kind = raw.get("type")
        values = {
            "order_id": id,
            "contract_name": as_text(raw.get("contractName")),
            "side": raw.get("side"),
            "open_close": raw.get("action"),
            "type": _ORDER_TYPES.get(kind.upper(), kind) if isinstance(kind, str) else kind,
            "action": "CHANGE" if raw.get("status") == "PARTIALLY_FILLED" else "NEW",
            **_numbers(raw, _ORDER_AMOUNTS, number),
        }
        if raw.get("status") not in _ENDED:
            known = {name: value for name, value in values.items() if value is not None}
            orders.append(Order(raw=raw, received_ns=received_ns, **known))
    return orders


def _balance(raw: dict[str, Any], number: NumberType) -> Balance:
    coin = as_text(raw.get("marginCoin"))
    if type(coin) is not str:
        raise _WrongShape("a balance without marginCoin")
    return Balance(**{"raw": raw, "coin": coin, **_numbers(raw, _AMOUNTS, number)})


def _position(
    contract: dict[str, Any], raw: dict[str, Any], received_ns: int, number: NumberType
) -> Position:
    id = as_integer(raw.get("id"))
    if type(id) is not int:
        raise _WrongShape("a position without id")
    contract_id = raw.get("contractId")
    values = {
        "raw": raw,
        "received_ns": received_ns,
        "complete": True,
        "id": id,
        "contract_id": as_integer(
            contract.get("contractId") if contract_id is None else contract_id
        ),
        "contract_name": as_text(contract.get("contractName")),
        "contract_alias": as_text(contract.get("contractOtherName")),
        "margin_mode": as_integer(raw.get("positionType")),
        "leverage": as_integer(raw.get("leverageLevel")),
        "side": raw.get("side"),
        "closable_volume": _closable(raw, number),
        **_numbers(raw, _NUMBERS, number),
    }
    # What the stream's `op` is described as; `openPrice` is the price it was opened at.
    average = as_number(raw.get("avgPrice"), number)
    if average is not None:
        values["open_price"] = average
    return Position(**{name: value for name, value in values.items() if value is not None})


def _numbers(raw: dict[str, Any], keys: dict[str, str], number: NumberType) -> dict[str, Any]:
    found = {name: as_number(raw.get(key), number) for name, key in keys.items()}
    return {name: value for name, value in found.items() if value is not None}


def _closable(raw: dict[str, Any], number: NumberType) -> float | Decimal | None:
    """What is held without what closing orders wait for; `closeVolume` is closed already."""
    held = as_number(raw.get("volume"), Decimal)
    pending = as_number(raw.get("pendingCloseVolume"), Decimal)
    held, pending = (Decimal(repr(x)) if isinstance(x, float) else x for x in (held, pending))
    if not isinstance(held, Decimal) or not isinstance(pending, Decimal):
        return None
    return number(_exact.subtract(held, pending))
