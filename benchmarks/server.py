"""The exchange, as a load generator: a process that sends frames on command.

    python -m benchmarks.server [CERTIFICATE_AND_KEY.pem]

It speaks the exchange's handshake on plain TCP and, given a certificate, on TLS. Sockets are
raw, and over TLS every frame is one record, encrypted before the clock starts.

Commands, one JSON object a line (see `worker`), each answered when it is done:

* `{"do": "send", "to": key, "frames": n}`: n frames, as fast as the socket takes them;
  answers `{"began": ns}`;
* `{"do": "stamp", "to": key, "frames": n, "pauses": [s, …]}`: for each pause, waits so many
  seconds and then sends n frames, one system call each; answers `{"sent": [ns, …]}`;
* `{"do": "tick", "to": [key, …], "seconds": n}`: one frame a second for each of the clients;
* `{"do": "spread", "to": [key, …], "seconds": n, "rate": r}`: r frames a second for each of the
  clients, one at a time to each in turn, evenly; answers `{"sent": [[ns, …], …]}`.

Nobody is waited for: a client that is slow in its handshake holds up no other, so thousands may
come at once.

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
_BACKLOG = 8192  # of connections that wait to be accepted; the system may allow less
_SERVES_A_SECOND = 500  # how often clients are answered between frames that come quickly
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
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._greeted = False

    def seal(self, data: bytes) -> bytes:
        self._object.write(data)
        return self._outgoing.read()

    def unseal(self, data: bytes) -> bytes:
        self._incoming.write(data)
        clear = b""
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            if not self._greeted:
                self._object.do_handshake()
                self._greeted = True
            while chunk := self._object.read(65536):
                clear += chunk
        if answer := self._outgoing.read():  # of the handshake
            self._socket.sendall(answer)
        return clear


class _Client:
    """One connection."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self.socket = sock
        sock.settimeout(_TIME_LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.key = ""
        """What it subscribed with; empty until it has."""
        self._wire: _Wire = _Plain() if context is None else _TLS(context, sock)
        self._upgraded = False
        self._buffer = b""
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
        received = self.socket.recv(65536)
        if not received:
            raise ConnectionError("gone")
        self._buffer += self._wire.unseal(received)
        if not self._upgraded and b"\r\n\r\n" in self._buffer:
            self._upgrade()
        if not self._upgraded:
            return
        for opcode, payload in self._frames():
            if opcode == _TEXT and b'"ping"' in payload:
                self.send(_TEXT, json.dumps({"pong": int(time.time() * 1000)}).encode())
            elif opcode == _TEXT and not self.key:
                self.key = str(json.loads(payload)["apiKey"])
                self.send(_TEXT, b"sub success")
            elif opcode == _PING:
                self.send(_PONG, payload)
            elif opcode == _CLOSE:
                self.send(_CLOSE, payload)
                raise ConnectionError("closed")

    def _upgrade(self) -> None:
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        key = {name.lower(): value for name, value in headers.items()}[b"sec-websocket-key"]
        accept = base64.b64encode(hashlib.sha1(key.strip() + _GUID).digest())
        answer = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.socket.sendall(self._wire.seal(answer))
        self._upgraded = True
        self.send(_TEXT, b"connect success")

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

    def _do_spread(self, to: list[str], seconds: float, rate: float) -> dict[str, Any]:
        clients = [self._clients[key] for key in to]
        sent: list[list[int]] = [[] for _ in clients]
        frames, a_second = round(seconds * rate) * len(clients), rate * len(clients)
        often = max(int(a_second / _SERVES_A_SECOND), 1)
        now, began = time.monotonic_ns, time.monotonic()
        for number in range(frames):
            if number % often == 0:
                self._serve(0)
            self._wait_until(began + number / a_second)
            which = number % len(clients)
            client = clients[which]
            (data,) = client.sealed(1)
            sent[which].append(now())
            client.socket.sendall(data)
        return {"sent": sent}

    def _wait_until(self, due: float) -> None:
        """Waits to a fraction of a millisecond, for which `select` is too coarse."""
        while (left := due - time.monotonic()) > 0:
            if left > 0.002:
                self._serve(left - 0.002)
            else:
                time.sleep(left)

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
                    self._answer(key.data)
                else:
                    self._accept(*key.data)
            except (OSError, ssl.SSLError):
                if isinstance(key.data, _Client):
                    self._forget(key.data)
        return commanded

    def _listen(self, context: ssl.SSLContext | None) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._selector.register(listener, selectors.EVENT_READ, (listener, context))
        return int(listener.getsockname()[1])

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        sock, _ = listener.accept()
        self._selector.register(sock, selectors.EVENT_READ, _Client(sock, context))

    def _answer(self, client: _Client) -> None:
        is_new = not client.key
        client.serve()
        if is_new and client.key:
            self._clients[client.key] = client

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
    control.say(**server.ports, descriptors=worker.allow_descriptors())
    server.run(control)


if __name__ == "__main__":
    main(*sys.argv[1:])
