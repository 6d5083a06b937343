"""The HTTP side: a small server that asks a function for every answer, and stops at once."""

import contextlib
import selectors
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, cast

from ._faults import Answer

Respond = Callable[[str, str, Callable[[str], str | None]], Answer]
"""(method, path with query, a header's value by its name) to the answer."""

_IDLE_TIMEOUT = 60.0  # seconds that a client may keep a connection open and say nothing


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT
    disable_nagle_algorithm = True  # headers and body are two writes

    def do_GET(self) -> None:
        answer = cast(_HTTPServer, self.server).respond("GET", self.path, self.headers.get)
        self.send_response(answer.status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(answer.body))}
        for name, value in (headers | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: it would go to stderr."""


class _HTTPServer(ThreadingHTTPServer):
    request_queue_size = 128
    timeout = 1.0  # a client that vanished before it was accepted does not hold up the end

    def __init__(self, family: int, address: Any, respond: Respond, tls: ssl.SSLContext | None):
        self.address_family = family
        super().__init__(address, _Handler)
        self.respond = respond
        self._tls = tls
        self._clients: dict[Any, threading.Thread] = {}
        self._clients_lock = threading.Lock()  # guards _clients

    def server_bind(self) -> None:
        """As in the base class, without its look-up of the host's name."""
        TCPServer.server_bind(self)

    def get_request(self) -> tuple[Any, Any]:
        raw, address = super().get_request()
        if self._tls is not None:  # the handshake waits until the client's own thread reads
            raw = self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        return raw, address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self.process_request_thread,
            args=(request, client_address),
            name="fastpos-exchange-rest-client",
            daemon=True,
        )
        with self._clients_lock:
            self._clients[request] = thread
        thread.start()

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._clients_lock:
            self._clients.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that hangs up is no error here."""

    def end_clients(self) -> None:
        """Cut all connections off and wait for their threads."""
        with self._clients_lock:
            clients = dict(self._clients)
        for request, thread in clients.items():
            with contextlib.suppress(OSError):
                # Not the method of an SSLSocket, which would drop the TLS object in use.
                socket.socket.shutdown(request, socket.SHUT_RDWR)
            thread.join(1.0)


class RestServer:
    """Serves `respond` on `port` (0: a free one) from construction until `stop`."""

    def __init__(
        self,
        host: str,
        port: int,
        family: int,
        respond: Respond,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._http = _HTTPServer(family, (host, port), respond, tls)
        self.port: int = self._http.server_address[1]
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="fastpos-exchange-rest", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # `serve_forever` would look for its end twice a second; this one is told.
        with selectors.DefaultSelector() as selector:
            selector.register(self._http, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while all(key.fileobj is self._http for key, _ in selector.select()):
                self._http.handle_request()

    def stop(self) -> None:
        """Stop listening, cut clients off, leave no thread."""
        self._wake.send(b"x")
        self._thread.join()
        self._http.server_close()
        self._http.end_clients()
        self._wake.close()
        self._woken.close()
