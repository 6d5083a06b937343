"""Both sides of a TLS connection (RFC 8446): a server in memory, whose every record is seen."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fastpos.net.tls import TlsTransport
from tests.support.certificates import Certificates
from tests.support.connections import concurrently
from tests.support.recording import until

RECORD = 16 * 1024  # the most that one holds


class Server:
    """The server's side in memory: says what it sends when, byte for byte."""

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def handshake(self) -> None:
        done = False
        while not done:
            with suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                done = True
            self.sock.sendall(self._outgoing.read())
            if not done:
                self._incoming.write(self.sock.recv(65536))

    def seal(self, data: bytes) -> bytes:
        """One record, if `data` is not larger than that."""
        self.tls.write(data)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    def hear(self) -> bytes:
        """What the client sends next."""
        while True:
            try:
                return self.tls.read(RECORD)
            except ssl.SSLWantReadError:
                data = self.sock.recv(65536)
                assert data, "an end without close_notify"
                self._incoming.write(data)


Pair = tuple[TlsTransport, Server]


@contextmanager
def shaken_hands(
    context: ssl.SSLContext, certificates: Certificates, clients: ssl.SSLContext | None = None
) -> Iterator[Pair]:
    ours, its = socket.socketpair()
    with ours, its:
        its.settimeout(10)
        server = Server(context, its)
        client = TlsTransport(ours, clients or certificates.client_context(), "localhost")
        with concurrently(server.handshake):
            client.handshake(time.monotonic() + 10)
        assert read_all(client) == b""  # session tickets
        yield client, server
        client.close()


def read(client: TlsTransport, size: int = 64 * 1024) -> bytes:
    """One read; a bytearray of its own, so that it can't write anywhere else unnoticed."""
    buffer = bytearray(b"\xee" * (size + 64))
    count = client.read_into(memoryview(buffer)[:size])
    assert buffer[count:] == b"\xee" * (size + 64 - count)
    return bytes(buffer[:count])


def read_all(client: TlsTransport, size: int = 64 * 1024) -> bytes:
    """All that there is without waiting for more."""
    data = b""
    while client.wait(0):
        data += read(client, size)
    return data


def reads_of(client: TlsTransport, server: Server, wire: bytes) -> bytes:
    """What a single read gives once all of `wire` is there."""
    server.sock.sendall(wire)
    until(lambda: len(client._sock.recv(1 << 20, socket.MSG_PEEK)) == len(wire))
    return read(client)
