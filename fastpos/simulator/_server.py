"""The WebSocket side: who may connect, what is said to whom, in which order, and what was heard.

One lock, `Server._lock`, guards everything an exchange holds: the truth, the records, the faults. A
push is made and queued for every client while it is held, so all clients get all pushes in one
order, which is the order in which the truth changed; queueing never waits for a client. `_changed`
is the condition on that lock; whatever is recorded notifies it.

Threads, all daemonic and named `fastpos-exchange-…`: `accept`; for each client `client` (its
dialogue), `reader` and `writer`; `ticker`, `closer`, `rest` when asked for.
"""

import http
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar, cast

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server as WebSocketServer
from websockets.sync.server import ServerConnection, serve

from ._faults import Answer, Faults
from ._link import Connection, Link, Listener, Transport
from ._wire import (
    BINARY,
    JSON_FORMATS,
    PING,
    REPLY_FORMATS,
    TEXT,
    close_frame,
    frame,
    gzip_member,
    reply_frame,
    to_json,
)

PATH = "/position_order/ws"
CLOSE_TIMEOUT = 1.0  # seconds that a client has to answer a close frame

# websockets logs each header at DEBUG, and with it the credential.
_log = logging.getLogger("fastpos.simulator")
_log.setLevel(logging.ERROR)

_Self = TypeVar("_Self", bound="Server")


class Server:
    """See `Exchange`, the class to use; this is the part of it that clients talk to."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        api_key: str,
        api_secret: str,
        token: str,
        broker: int,
        uid: int,
        ssl_context: ssl.SSLContext | None,
        ping_timeout: float,
        ping_tolerance: float,
        reply_format: str,
        pong_format: str,
        api_key_header: str,
    ) -> None:
        if reply_format not in REPLY_FORMATS:
            raise ValueError(f"reply_format: {reply_format!r} is none of {REPLY_FORMATS}")
        if pong_format not in ("text", "gzip"):
            raise ValueError(f"pong_format: {pong_format!r} is neither 'text' nor 'gzip'")
        self.host = host
        self.api_key = api_key
        """The right API key."""
        self.api_secret = api_secret
        """The secret that signs REST requests."""
        self.token = token
        """The right token. Assign another, and the old one has expired."""
        self.broker = broker
        """The right broker ID."""
        self.uid = uid
        """The user ID in pushes."""
        self.ping_timeout = ping_timeout
        """Seconds without a ping after which a client is disconnected."""
        self.ping_tolerance = ping_tolerance
        """Seconds that a ping's value may be off the clock before it counts as a violation."""
        self.clock_offset_ms = 0
        """What the exchange's clock (pongs, `t`, REST) shows beyond this machine's, in ms."""
        self.connections: list[Connection] = []
        """A record for each client that was let in, ended ones too, in order of arrival."""
        self.rejections: list[int] = []
        """The HTTP status of each upgrade that was turned down."""
        self.violations: list[str] = []
        """What clients said that the protocol does not allow; credentials are hidden."""
        self.counts: Counter[str] = Counter()
        """How often each thing happened; `wait_for` lists them."""
        self.faults: Faults = Faults()

        self._port = port
        self._ssl_context = ssl_context
        self._reply_format = reply_format
        self._pong_format = pong_format
        self._api_key_header = api_key_header
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._running = False
        self._live: list[Connection] = []
        self._transports: dict[Transport, Link | None] = {}
        self._client_threads: set[threading.Thread] = set()
        self._server: WebSocketServer | None = None
        self._accepting: threading.Thread | None = None

    # Life cycle.

    def start(self: _Self) -> _Self:
        """Listen and serve, on the same port as before if there was one; returns itself.

        Raises `OSError` when the port is taken. Does nothing while running.
        """
        with self._lock:
            if self._running:
                return self
            raw = socket.create_server((self.host, self._port), family=self._family())
            self._port = raw.getsockname()[1]
            self._server = serve(
                self._client,
                sock=cast(socket.socket, Listener(raw, self._adopt)),
                compression=None,
                process_request=self._upgrade,
                server_header=None,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT,
                max_size=65536,
                logger=_log,
                create_connection=Link,
            )
            self._running = True
            self._accepting = threading.Thread(
                target=self._accept,
                args=(self._server,),
                name="fastpos-exchange-accept",
                daemon=True,
            )
            self._accepting.start()
        return self

    def _accept(self, server: WebSocketServer) -> None:
        try:
            server.serve_forever()
        except (OSError, ValueError):  # the socket was closed before this had begun to look at it
            if self._running and self._server is server:
                raise

    def stop(self) -> None:
        """Close every connection with 1001 and stop listening; may be started again.

        Clients have a moment to answer the close frame, then their connection is reset. Faults
        and the truth stay as they are. Does nothing while stopped.
        """
        with self._lock:
            if not self._running:
                return
            self._running = False
            server, accepting = self._server, self._accepting
            assert server is not None
            assert accepting is not None
            server.socket.close()
            transports = dict(self._transports)
            for transport, link in transports.items():
                if link is not None and link.record.alive:
                    self._close(link.record, 1001, "")
                else:
                    transport.abort()
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not self._transports, 0.3):
                for transport in list(self._transports):
                    transport.abort()
                self._changed.wait_for(lambda: not self._transports, 1.0)
            threads = list(self._client_threads)
        for transport in transports:
            transport.join(1.0)
        # The readers come last: their clients' threads join them too, and two at once may fail.
        readers = [link.recv_events_thread for link in transports.values() if link is not None]
        for thread in threads + readers:
            thread.join(1.0)
        server.shutdown()
        accepting.join(1.0)
        for name in ("shutdown_watcher", "shutdown_notifier"):
            descriptor = getattr(server, name, None)
            if isinstance(descriptor, int):  # websockets before 17 leaves its pipe open
                os.close(descriptor)

    def __enter__(self: _Self) -> _Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "serving" if self._running else "stopped"
        return f"<{type(self).__name__} {state} on {self.host}:{self._port}, {len(self._live)} up>"

    @property
    def port(self) -> int:
        """The WebSocket's TCP port; 0 before the first start, unless one was given."""
        return self._port

    @property
    def url(self) -> str:
        """The WebSocket's URL."""
        return f"{'wss' if self._ssl_context else 'ws'}://{self._authority(self._port)}{PATH}"

    def _authority(self, port: int) -> str:
        if port == 0:
            raise RuntimeError("the exchange was not started yet: it has no address")
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def _family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def now_ms(self) -> int:
        """The exchange's clock, in ms since the epoch."""
        return int(time.time() * 1000) + self.clock_offset_ms

    # Pushes.

    def push(self, message: Any) -> int:
        """Push one message to every subscribed client; returns to how many.

        `message` is any JSON-able object (a `Decimal` keeps its digits), or JSON text as `str` or
        `bytes`, which goes out as it is. Raises `TypeError` or `ValueError` for what JSON can't
        hold.
        """
        return self._push_frame(self._push_of(message))

    def push_bytes(self, data: bytes | str, text: bool = False) -> int:
        """Push one message of these very bytes, binary or `text`; returns to how many clients."""
        payload = data.encode() if isinstance(data, str) else bytes(data)
        return self._push_frame(frame(TEXT if text else BINARY, payload))

    def ws_ping(self, data: bytes = b"") -> int:
        """Send a WebSocket ping frame to every client; answers are in `Connection.pongs`."""
        return self.send_raw(frame(PING, data))

    def json_ping(self, value: int | None = None, form: str = "gzip") -> int:
        """Send `{"ping": value}` (None: the time in seconds) to every client; returns to how many.

        `form`: "text", "binary" or "gzip". A client is to answer `{"pong": value}`; what it has
        not answered yet is in `Connection.unanswered_pings`. Raises `ValueError`.
        """
        if form not in JSON_FORMATS:
            raise ValueError(f"form: {form!r} is none of {JSON_FORMATS}")
        with self._lock:
            number = self.now_ms() // 1000 if value is None else value
            for record in self._live:
                record.unanswered_pings.append(number)
            return self.send_raw(reply_frame(f'{{"ping":{number}}}', form))

    def send_raw(self, data: bytes) -> int:
        """Write bytes into every client's stream, after what is queued; returns to how many.

        They go through TLS where there is TLS, and are framed in nothing.
        """
        with self._lock:
            return sum(self._put(record, data) for record in self._live)

    def _push_frame(self, data: bytes) -> int:
        with self._lock:
            if not self.faults.pushes:
                return 0
            return sum(self._put(record, data) for record in self._live if record.subscribed)

    @staticmethod
    def _push_of(message: Any) -> bytes:
        """The frame that carries `message`."""
        if isinstance(message, str):
            message = message.encode()
        elif not isinstance(message, bytes):
            message = to_json(message)
        return frame(BINARY, gzip_member(message))

    @staticmethod
    def _put(record: Connection, data: bytes) -> bool:
        return record.link is not None and record.link.transport.put(data)

    # What was heard.

    def wait_for(
        self, what: str | Callable[[], object], timeout: float = 5.0, count: int = 1
    ) -> bool:
        """Wait until something is so; False when `timeout` seconds pass before.

        `what` is a function, asked each time when something happened; or the name of a thing that
        must have happened `count` times since the exchange was made: `connect`, `disconnect`,
        `rejection` (an upgrade), `sub`, `refusal` (a subscription), `unsub`, `ping`, `ws_pong`,
        `close` (a client's close frame), `timeout` (no ping), `violation`, `rest` (a request),
        `pong` (the answer to a `json_ping`).
        """
        with self._lock:
            if callable(what):
                return bool(self._changed.wait_for(what, timeout))
            return self._changed.wait_for(lambda: self.counts[what] >= count, timeout)

    def wait_for_clients(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until exactly `count` clients are connected; False on time-out."""
        return self.wait_for(lambda: len(self._live) == count, timeout)

    def wait_for_subscribers(self, count: int, timeout: float = 5.0) -> bool:
        """Wait until exactly `count` clients are subscribed; False on time-out."""
        return self.wait_for(lambda: sum(r.subscribed for r in self._live) == count, timeout)

    def _note(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1
            self._changed.notify_all()

    def _violation(self, text: str) -> None:
        for secret in (self.api_key, self.api_secret, self.token):
            text = text.replace(secret, "…")
        with self._lock:
            self.violations.append(text[:200])
            self._note("violation")

    # The opening handshake.

    def _adopt(self, raw: socket.socket) -> Transport:
        transport = Transport(raw, self, self._ssl_context)
        with self._lock:
            self._transports[transport] = None
            running = self._running
        if not running:
            transport.abort()
        return transport

    def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        link = cast(Link, connection)
        thread = threading.current_thread()
        thread.name = "fastpos-exchange-client"
        with self._lock:
            self._client_threads = {t for t in self._client_threads if t.is_alive()} | {thread}
            if link.transport in self._transports:
                self._transports[link.transport] = link
            self._changed.wait_for(
                lambda: (
                    self.faults.handshakes or link.transport.finished.is_set() or not self._running
                )
            )
            if link.transport.finished.is_set() or not self._running:
                return http_response(Answer(503, {}, b""))  # nobody is there to read it
            answer = self._judge_upgrade(link, request)
            if answer is None:
                return None
            self.rejections.append(answer.status)
            self._note("rejection")
        return http_response(answer)

    def _judge_upgrade(self, link: Link, request: Request) -> Answer | None:
        fault = self.faults.upgrade
        if fault is not None and fault.answer is not None and fault.take():
            return fault.answer
        if request.path != PATH:
            return Answer(404, {}, b"not found\n")
        secrets = {"token": self.token, self._api_key_header: self.api_key}
        given = [name for name in secrets if request.headers.get_all(name)]
        if len(given) != 1 or request.headers.get_all(given[0]) != [secrets[given[0]]]:
            return Answer(401, {}, b"unauthorized\n")
        link.record.kind = "token" if given == ["token"] else "api-key"
        link.record.headers = {
            name: "…" if name.lower() in (n.lower() for n in secrets) else value
            for name, value in request.headers.raw_items()
        }
        return None

    # The dialogue.

    def _client(self, connection: ServerConnection) -> None:
        link = cast(Link, connection)
        record, transport = link.record, link.transport
        with self._lock:
            if transport.finished.is_set():
                return  # it has gone already
            record.alive = True
            self._live.append(record)
            record.connected_at = time.monotonic()
            record.number = len(self.connections) + 1
            self.connections.append(record)
            self._note("connect")
            greet = self.faults.no_greeting is None or not self.faults.no_greeting.take()
            if greet and self.faults.handshakes:
                self._reply(link, "connect success")
        try:
            self._converse(link)
        finally:
            if not transport.finished.wait(CLOSE_TIMEOUT):
                transport.abort()  # it does not read what is still queued for it

    def _converse(self, link: Link) -> None:
        deadline = time.monotonic() + self.ping_timeout
        while True:
            try:
                message = link.recv(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                deadline = time.monotonic() + self.ping_timeout
                if not self.faults.quiet and link.record.alive:
                    with self._lock:
                        link.record.timed_out = True
                        self._close(link.record, 1001, "no ping")
                        self._note("timeout")
                continue
            except ConnectionClosed:
                break
            if self._message(link, message):
                deadline = time.monotonic() + self.ping_timeout
        error = link.protocol.parser_exc
        if error is not None and not isinstance(error, EOFError):
            self._violation(f"WebSocket protocol: {error}")

    def _message(self, link: Link, text: str | bytes) -> bool:
        """Act on a client's message; whether it was a ping."""
        if isinstance(text, bytes):
            self._violation("a binary message")
            return False
        try:
            message = json.loads(text)
        except ValueError:
            self._violation(f"not JSON: {text}")
            return False
        if isinstance(message, dict) and set(message) == {"ping"}:
            return self._ping(link, message["ping"])
        if isinstance(message, dict) and set(message) == {"pong"}:
            self._pong(link, message["pong"])
        elif isinstance(message, dict) and message.get("event") in ("sub", "unsub"):
            self._subscription(link, message)
        else:
            self._violation(f"not a message of this protocol: {text}")
        return False

    def _ping(self, link: Link, value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            self._violation(f"ping: {value!r} is not an integer")
            return False
        with self._lock:
            if abs(value - self.now_ms()) > self.ping_tolerance * 1000:
                self._violation(f"ping: {value} is not the time in ms")
            link.record.pings.append((time.monotonic(), value))
            self._note("ping")
            if self.faults.pongs:
                self._reply(link, f'{{"pong":{self.now_ms()}}}', pong=True)
        return True

    def _pong(self, link: Link, value: object) -> None:
        """The answer to a ping of ours: the same number, once."""
        with self._lock:
            if type(value) is not int or value not in link.record.unanswered_pings:
                self._violation(f"pong: {value!r} answers no ping")
                return
            link.record.unanswered_pings.remove(value)
            self._note("pong")

    def _subscription(self, link: Link, message: dict[str, Any]) -> None:
        with self._lock:
            event, problem = message["event"], self._problem(link.record, message)
            if event == "unsub":
                if problem:
                    self._violation(f"unsub: {problem}")
                    return
                link.record.subscribed = False
                link.record.unsubscribed_at = time.monotonic()
                self._note("unsub")
                return
            faults = self.faults
            if not faults.handshakes or (faults.no_sub_answer and faults.no_sub_answer.take()):
                return
            refusal = f"sub fail: {problem}" if problem else ""
            if faults.refuse_sub and faults.refuse_sub.take():
                refusal = faults.refuse_sub.text
            if refusal:
                link.record.refusals.append(refusal)
                self._note("refusal")
                self._reply(link, refusal)
                return
            if link.record.alive:
                link.record.subscribed = True
                link.record.subscriptions.append(time.monotonic())
            self._note("sub")
            for early in faults.early_pushes:
                link.transport.put(early)
            faults.early_pushes.clear()
            self._reply(link, "sub success")

    def _problem(self, record: Connection, message: dict[str, Any]) -> str:
        """What is wrong with a sub or unsub message: a word that names it; "" when nothing is.

        Wrong values are only refused; what is wrong in kind is a violation as well.
        """
        name, right = ("token", self.token) if record.kind == "token" else ("apiKey", self.api_key)
        if set(message) != {"event", name, "broker"}:
            self._violation(f"{message['event']}: keys {sorted(message)}")
            return name if name not in message else "parameters"
        if type(message["broker"]) is not int:
            self._violation(f"{message['event']}: broker is not an integer")
            return "broker"
        if message[name] != right:
            return name
        return "" if message["broker"] == self.broker else "broker"

    def _reply(self, link: Link, text: str, *, pong: bool = False) -> None:
        if pong:  # the format of the other replies may be JSON text, which a pong is already
            gzipped = self._pong_format == "gzip" or self._reply_format.startswith("gzip")
            bare = "binary" if self._reply_format == "binary" else "text"
            link.transport.put(reply_frame(text, "gzip" if gzipped else bare))
        else:
            link.transport.put(reply_frame(text, self._reply_format))

    # Ends.

    def _close(self, record: Connection, code: int | None, reason: str) -> None:
        """Start to end a connection, with a close frame or (None) with the stream's end."""
        link = record.link
        self._retire(record)
        if link is not None and code is None:
            link.transport.hang_up()
        elif link is not None and code is not None:
            link.transport.put(close_frame(code, reason), last=True)
            link.transport.finish(CLOSE_TIMEOUT)

    def _retire(self, record: Connection) -> None:
        with self._lock:
            if record.alive:
                record.alive = record.subscribed = False
                self._live.remove(record)
                self._changed.notify_all()

    def pong_received(self, link: Link, data: bytes) -> None:
        """For the link: a pong frame came."""
        with self._lock:
            link.record.pongs.append(data)
            self._note("ws_pong")

    def close_received(self, link: Link) -> None:
        """For the link: a close frame came, and was not answered yet."""
        close = link.protocol.close_rcvd
        with self._lock:
            if close is not None:
                link.record.close_code, link.record.close_reason = close.code, close.reason
            self._retire(link.record)
            self._note("close")

    def link_closed(self, transport: Transport) -> None:
        """For the link: its socket is closed."""
        with self._lock:
            link = self._transports.pop(transport, None)
            if link is not None:
                self._retire(link.record)
                link.record.link = None
                if link.record.number:
                    link.record.ended_at = time.monotonic()
                    self.counts["disconnect"] += 1
            self._changed.notify_all()


def http_response(answer: Answer) -> Response:
    """`answer` as `websockets` sends it; the connection ends after it."""
    try:
        reason = http.HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Unknown"
    headers = {"Content-Length": str(len(answer.body)), "Connection": "close"} | answer.headers
    return Response(answer.status, reason, Headers(headers), answer.body)
