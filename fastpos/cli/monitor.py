"""`Monitor`: what ``fastpos serve`` says of itself over HTTP: metrics, health, readiness.

It answers GET and HEAD of

* ``/metrics``: the fleet's and the process' metrics, for Prometheus;
* ``/healthz``: 200 while the process turns, else 503, after which a supervisor may kill it;
* ``/readyz``: 200 once all that is to be served here is subscribed or has ended for good, else 503.

The latter two say in a line what is wrong. Nothing here has an account's name, unless the metrics
are to.

Threads: one accepts connections, and each request is answered on a thread of its own, so a client
that hangs is nobody else's trouble. Nothing of a stream waits for these threads. `_lock` guards
which requests are under way. Where there are too many the oldest is cut off that has not come
whole; one that is being answered never is, or nobody would get an answer while many ask.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from time import sleep
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from ..fleet import Fleet
from ..logs import fields, log
from ..metrics import Collector

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["Monitor"]

# The fleet's loop turns twice a second. One that has not for so long is held up, seconds.
STUCK = 10.0
# A client that neither sends nor takes anything for so long is cut off, seconds.
PATIENCE = 10.0
# So many requests may be under way.
MOST = 128
# How soon it is noticed that there is an end, seconds.
POLL = 0.1

_TEXT = "text/plain; charset=utf-8"


class Monitor:
    """A small HTTP server. It listens from the beginning, and answers from `start` to `close`.

    Args:
        host: on which of this machine's addresses, as an address or a name.
        port: on which port; 0: a free one.

    Raises:
        OSError: it can't listen there; the message says where.
    """

    def __init__(self, host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        try:
            family, _, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._server = _Server(family, address[:2])
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(f"--metrics can't listen on {shown}:{port}: {reason}") from None
        self.url: str = f"http://{shown}:{self._server.server_port}"
        """Where it is."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL,), name="fastpos-monitor", daemon=True
        )

    def start(self, fleet: Fleet, per_stream: bool, unready: Callable[[], str | None]) -> None:
        """Begin to answer.

        Args:
            fleet: whose metrics, and whose loop is to turn.
            per_stream: have each stream's name as a label.
            unready: says what is not ready yet; None: all is. Called on any thread.
        """
        registry = CollectorRegistry()
        registry.register(Collector(fleet, per_stream=per_stream))
        ProcessCollector(registry=registry)
        metrics = make_wsgi_app(registry)
        self._server.set_app(
            _App(metrics, {"/healthz": lambda: _unhealthy(fleet), "/readyz": unready})
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; what is being answered is left to itself."""
        if self._thread.ident is not None:
            self._server.shutdown()
        self._server.server_close()


def _unhealthy(fleet: Fleet) -> str | None:
    age = fleet.last_turn_s
    if age is None:
        return "the fleet does not run"
    return None if age <= STUCK else f"the fleet's loop has not turned for {age:.1f} s"


class _App:
    """What is answered (PEP 3333).

    Args:
        metrics: answers ``/metrics``.
        probes: by path, each gives what is wrong, None where nothing is.
    """

    def __init__(self, metrics: Any, probes: dict[str, Callable[[], str | None]]) -> None:
        self._metrics = metrics
        self._probes = probes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answered: list[Any] = []

        def keep(status: str, headers: list[tuple[str, str]], *_: Any) -> Any:
            answered[:] = status, headers

        wants_body = environ["REQUEST_METHOD"] != "HEAD"
        try:
            body = b"".join(self._answer(environ, keep))
        except Exception:
            log.exception("a request can't be answered", extra=fields("monitor_failed"))
            body = self._say(keep, HTTPStatus.INTERNAL_SERVER_ERROR, "see the log")
        status, headers = answered
        headers = [*headers, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        start_response(status, headers)
        return [body if wants_body else b""]

    def _answer(self, environ: WSGIEnvironment, keep: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            more = [("Allow", "GET, HEAD")]
            return [self._say(keep, HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD", more)]
        path = environ["PATH_INFO"]
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics({**environ, "REQUEST_METHOD": "GET"}, keep)
            return answer
        probe = self._probes.get(path)
        if probe is None:
            known = " ".join(["/metrics", *self._probes])
            return [self._say(keep, HTTPStatus.NOT_FOUND, f"there is {known}")]
        wrong = probe()
        status = HTTPStatus.OK if wrong is None else HTTPStatus.SERVICE_UNAVAILABLE
        return [self._say(keep, status, wrong or "ok")]

    @staticmethod
    def _say(
        keep: Any, status: HTTPStatus, text: str, more: Iterable[tuple[str, str]] = ()
    ) -> bytes:
        keep(f"{status.value} {status.phrase}", [("Content-Type", _TEXT), *more])
        return f"{text}\n".encode()


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE  # for the socket

    def get_environ(self) -> dict[str, Any]:
        """The request has come."""
        server = self.server
        assert isinstance(server, _Server)
        server.answers(self.connection)
        return super().get_environ()

    def log_message(self, format: str, *_: Any) -> None:
        """Nobody wants a line for each scrape."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MOST  # or the system has some wait a second
    allow_reuse_address = os.name == "posix"  # elsewhere two could listen on one port

    def __init__(self, family: int, address: Any) -> None:
        self.address_family = family
        self._lock = threading.Lock()
        self._under_way: dict[socket.socket, bool] = {}  # whether it is being answered
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks for the host's name, and so perhaps a name server.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # No descriptor is free, and who asks still waits: without this it is a busy loop.
            sleep(POLL)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._under_way[request] = False
            if len(self._under_way) > MOST:
                oldest = next(each for each, answered in self._under_way.items() if not answered)
                del self._under_way[oldest]
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def answers(self, request: socket.socket) -> None:
        """A request has come whole, and is being answered."""
        with self._lock:
            if request in self._under_way:  # else it has been cut off
                self._under_way[request] = True

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._under_way.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client has gone, or hung: its own trouble."""
