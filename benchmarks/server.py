"""The exchange, as a load generator: a process that sends frames on command.

    python -m benchmarks.server [CERTIFICATE_AND_KEY.pem]

It speaks the exchange's handshake on plain TCP and, given a certificate, on TLS. Sockets are
raw, and over TLS every frame is one record, encrypted before the clock starts.

Commands, one JSON object a line (see `worker`), each answered when it is done:

* `{"do": "send", "to": key, "frames": n}`: n frames, as fast as the socket takes them;
  answers `{"began": ns}`;
* `{"do": "stamp", "to": key, "frames": n, "pauses": [s, …]}`: for each pause, waits so many
  seconds and then sends n frames, one system call each; answers `{"sent": [ns, …]}`;
* `{"do": "tick", "to": [key, …], "seconds": n}`: one frame a second for each of the clients.

`key` is the API key that the client subscribed with; nanoseconds are `time.monotonic_ns`,
which all processes of a machine share.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import selectors
import socket
import ssl
import struct
import sys
import time
from typing import Any, Protocol

from benchmarks import worker
from benchmarks.frames import FRAMES, MIXED, websocket_frame

__all__: list[str] = []

_TIME_LIMIT = 30.0
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PUSHES = [websocket_frame(FRAMES[name]) for name in MIXED]
_TICK = websocket_frame(FRAMES["adl_price"])


class _Wire(Protocol):
    """What lies between frames and the socket."""

    def seal(self, data: bytes) -> bytes: ...
    def unseal(self, data: bytes) -> bytes: ...


class _Plain:
    def seal(self, data: bytes) -> bytes:
        return data

    def unseal(self, data: bytes) -> bytes:
        return data


class _TLS:
    """Encrypts in memory, so that it can be done before the clock starts."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        done = False
        while not done:
            try:
                self._object.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            sock.sendall(self._outgoing.read())
            if not done:
                received = sock.recv(65536)
                if not received:
                    raise ConnectionError("gone during the TLS handshake")
                self._incoming.write(received)

    def seal(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._outgoing.read()

    def unseal(self, data: bytes) -> bytes:
        self._incoming.write(data)
        clear = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            while chunk := self._object.read(65536):
                clear += chunk
        return clear


class _Client:
    """One subscribed connection."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self.socket = sock
        sock.settimeout(_TIME_LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wire: _Wire = _Plain() if context is None else _TLS(context, sock)
        self._buffer = self._wire.unseal(b"")  # what came along with the end of TLS's handshake
        self._upgrade()
        self.send(_TEXT, b"connect success")
        message: dict[str, Any] = {}
        while message.get("event") != "sub":
            self._receive()
            for opcode, payload in self._frames():
                if opcode == _TEXT:
                    message = json.loads(payload)
        self.key = str(message["apiKey"])
        self.send(_TEXT, b"sub success")
        self._pushes = itertools.cycle(_PUSHES)

    def send(self, opcode: int, payload: bytes) -> None:
        self.socket.sendall(self._wire.seal(websocket_frame(payload, opcode)))

    def sealed(self, frames: int) -> list[bytes]:
        """The next `frames` pushes, each ready for the socket. They must be sent, in order."""
        return [self._wire.seal(push) for push in itertools.islice(self._pushes, frames)]

    def tick(self) -> None:
        self.socket.sendall(self._wire.seal(_TICK))

    def serve(self) -> None:
        """Answers what has come. Raises OSError when the client is gone."""
        self._receive()
        for opcode, payload in self._frames():
            if opcode == _TEXT and b'"ping"' in payload:
                self.send(_TEXT, json.dumps({"pong": int(time.time() * 1000)}).encode())
            elif opcode == _PING:
                self.send(_PONG, payload)
            elif opcode == _CLOSE:
                self.send(_CLOSE, payload)
                raise ConnectionError("closed")

    def _upgrade(self) -> None:
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        key = {name.lower(): value for name, value in headers.items()}[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key.strip() + _GUID).digest())
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.socket.sendall(self._wire.seal(answer))

    def _receive(self) -> None:
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError("gone")
        self._buffer += self._wire.unseal(received)

    def _frames(self) -> list[tuple[int, bytes]]:
        """Takes the complete frames from the buffer. Clients mask, and send nothing long."""
        frames = []
        while len(self._buffer) >= 2:
            start, length = 6, self._buffer[1] & 0x7F
            if length == 126:
                start, length = 8, struct.unpack_from("!H", self._buffer, 2)[0]
            if len(self._buffer) < start + length:
                break
            mask = self._buffer[start - 4 : start]
            masked = self._buffer[start : start + length]
            payload = bytes(a ^ b for a, b in zip(masked, itertools.cycle(mask), strict=False))
            frames.append((self._buffer[0] & 0x0F, payload))
            self._buffer = self._buffer[start + length :]
        return frames


class _Server:
    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._clients: dict[str, _Client] = {}
        self._selector = selectors.DefaultSelector()
        self.ports = {"plain": self._listen(None)}
        if context is not None:
            self.ports["tls"] = self._listen(context)

    def run(self, control: worker.Control) -> None:
        commands = iter(control)
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)
        while True:
            if self._serve(None):
                command = next(commands, None)
                if command is None:
                    return
                try:
                    control.say(**getattr(self, "_do_" + command.pop("do"))(**command))
                except (OSError, KeyError) as error:
                    control.say(error=repr(error))

    def _do_send(self, to: str, frames: int) -> dict[str, Any]:
        client = self._clients[to]
        data = b"".join(client.sealed(frames))
        began = time.monotonic_ns()
        client.socket.sendall(data)
        return {"began": began}

    def _do_stamp(self, to: str, frames: int, pauses: list[float]) -> dict[str, Any]:
        client = self._clients[to]
        now, send = time.monotonic_ns, client.socket.sendall
        sent = []
        for pause in pauses:
            self._pause(pause)
            for data in client.sealed(frames):
                sent.append(now())
                send(data)
        return {"sent": sent}

    def _do_tick(self, to: list[str], seconds: int) -> dict[str, Any]:
        for _ in range(seconds):
            for key in to:
                self._clients[key].tick()
                self._pause(1 / len(to))
        return {}

    def _pause(self, seconds: float) -> None:
        """Waits, answering what clients send meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._serve(left)

    def _serve(self, timeout: float | None) -> bool:
        """One wait on all sockets. True if a command has come as well."""
        commanded = False
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                commanded = True
                continue
            try:
                if isinstance(key.data, _Client):
                    key.data.serve()
                else:
                    self._accept(*key.data)
            except (OSError, ssl.SSLError):
                if isinstance(key.data, _Client):
                    self._forget(key.data)
        return commanded

    def _listen(self, context: ssl.SSLContext | None) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        self._selector.register(listener, selectors.EVENT_READ, (listener, context))
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        sock, _ = listener.accept()
        client = _Client(sock, context)
        self._clients[client.key] = client
        self._selector.register(sock, selectors.EVENT_READ, client)

    def _forget(self, client: _Client) -> None:
        self._selector.unregister(client.socket)
        client.socket.close()
        if self._clients.get(client.key) is client:  # and not one that came back
            del self._clients[client.key]


def main(certificate: str | None = None) -> None:
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = _Server(context)
    control = worker.Control()
    control.say(**server.ports)
    server.run(control)


if __name__ == "__main__":
    main(*sys.argv[1:])
