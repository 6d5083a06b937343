"""TLS records as they come: whole, cut, empty, corrupted, many at once, read in both ways."""

from __future__ import annotations

import ctypes
import importlib
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from fastpos.net import tls
from fastpos.net.tls import TlsTransport
from tests.certificates import Certificates
from tests.connections import concurrently
from tests.recording import until

try:
    from fastpos._c import _tls
    from fastpos._c._tls import Reader

    READER_MISSING = ""
except ImportError as error:
    READER_MISSING = f"fastpos._c._tls is not built: {error}"

needs_reader = pytest.mark.skipif(bool(READER_MISSING), reason=READER_MISSING)

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

RECORD = 16 * 1024  # the most that one holds
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
BATCH = [b"%3d:" % number + b"x" * (number * 7 % 300) for number in range(50)]


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

    def alert(self) -> bytes:
        """What it says to a record that can't be decrypted."""
        self._incoming.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError):
            self.tls.read(1)
        return self._outgoing.read()

    def hear(self) -> bytes:
        """What the client sends next."""
        while True:
            try:
                return self.tls.read(RECORD)
            except ssl.SSLWantReadError:
                self._incoming.write(self.sock.recv(65536))


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


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def pair(
    request: pytest.FixtureRequest, certificates: Certificates, decrypting: str
) -> Iterator[Pair]:
    with shaken_hands(certificates.good.context(request.param), certificates) as pair:
        assert (pair[0]._reader is not None) == (decrypting == "direct")
        yield pair


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


# --- what is read ---------------------------------------------------------------------------------


def test_a_batch_is_read_at_once(pair: Pair) -> None:
    client, server = pair
    for _ in range(20):
        wire = b"".join(map(server.seal, BATCH))
        assert reads_of(client, server, wire) == b"".join(BATCH)
        assert not client.wait(0)


def test_records_of_the_largest_size(pair: Pair) -> None:
    client, server = pair
    data = random.Random(3).randbytes(20 * RECORD)
    with concurrently(lambda: server.sock.sendall(server.seal(data))):
        got = b""
        while len(got) < len(data):
            assert client.wait(5)
            got += read(client)
    assert got == data


@pytest.mark.parametrize("size", [1, 100, RECORD - 1, RECORD, RECORD + 1])
def test_a_buffer_that_is_smaller_than_what_came(pair: Pair, size: int) -> None:
    client, server = pair
    data = random.Random(size).randbytes(RECORD if size > 1 else 50)
    server.sock.sendall(server.seal(data) + server.seal(b"after"))
    assert client.wait(5)
    first = read(client, size)
    assert len(first) == min(size, len(data) + len(b"after"))
    assert first + read_all(client, size) == data + b"after"


def test_a_record_that_comes_in_pieces(pair: Pair) -> None:
    client, server = pair
    wire = server.seal(b"before") + server.seal(b"whole")
    chance = random.Random(5)
    got = b""
    while wire:
        size = chance.randrange(1, 20)
        server.sock.sendall(wire[:size])
        wire = wire[size:]
        assert client.wait(5)
        got += read_all(client)
        assert got in (b"", b"before", b"beforewhole")
    assert got == b"beforewhole"


def test_pieces_and_buffers_of_all_sizes(pair: Pair) -> None:
    client, server = pair
    chance = random.Random(7)
    sent = got = b""
    wire = b""
    for _ in range(400):
        data = chance.randbytes(chance.choice((1, 20, 300, 3000)))
        sent += data
        wire += server.seal(data)
        cut = chance.randrange(len(wire) + 1)
        server.sock.sendall(wire[:cut])
        wire = wire[cut:]
        if client.wait(0):
            got += read(client, chance.choice((1, 7, 500, 40_000)))
    server.sock.sendall(wire)
    while len(got) < len(sent):
        assert client.wait(5)
        got += read(client)
    assert got == sent


def test_what_is_sent_meanwhile_arrives(pair: Pair) -> None:
    client, server = pair
    for number in range(50):
        server.sock.sendall(server.seal(b"down %d" % number))
        client.send(b"up %d" % number, 1.0)
        assert read(client) == b"down %d" % number
        assert server.hear() == b"up %d" % number


class Sealer:
    """Makes TLS 1.3 records by itself (RFC 8446, section 5.2), of the kinds OpenSSL never sends."""

    def __init__(self, secret: bytes) -> None:
        self._key = AESGCM(self._expand(secret, b"key", 32))
        self._iv = int.from_bytes(self._expand(secret, b"iv", 12), "big")
        self._number = 0

    @staticmethod
    def _expand(secret: bytes, label: bytes, size: int) -> bytes:
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(secret)

    def seal(self, data: bytes, padding: int = 0) -> bytes:
        inner = data + b"\x17" + bytes(padding)
        header = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return header + self._key.encrypt(nonce, inner, header)


@pytest.fixture
def odd_pair(
    certificates: Certificates, tmp_path: Path, decrypting: str
) -> Iterator[tuple[TlsTransport, Server, Sealer]]:
    context = certificates.good.context(ssl.TLSVersion.TLSv1_3)
    context.num_tickets = 0  # so that the first record is ours
    context.keylog_filename = str(tmp_path / "keys")
    with shaken_hands(context, certificates) as (client, server):
        assert server.tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        lines = Path(context.keylog_filename).read_text().splitlines()
        (secret,) = (line.split()[2] for line in lines if line.startswith("SERVER_TRAFFIC_SECRET"))
        yield client, server, Sealer(bytes.fromhex(secret))


def test_empty_records_are_no_end(odd_pair: tuple[TlsTransport, Server, Sealer]) -> None:
    client, server, sealer = odd_pair
    empty = sealer.seal(b"")
    assert reads_of(client, server, empty) == b""
    wire = b"".join(sealer.seal(data, 5) for data in (b"", b"one", b"", b"", b"two", b""))
    assert reads_of(client, server, wire) == b"onetwo"
    assert reads_of(client, server, sealer.seal(b"three")) == b"three"


def test_nothing_but_empty_records_is_an_error(
    odd_pair: tuple[TlsTransport, Server, Sealer],
) -> None:
    client, server, sealer = odd_pair
    wire = sealer.seal(b"good") + b"".join(sealer.seal(b"") for _ in range(100))
    assert reads_of(client, server, wire) == b"good"
    with pytest.raises(ssl.SSLError) as failed:
        read(client)
    assert failed.value.reason == "RECORD_TOO_SMALL"


@pytest.mark.usefixtures("decrypting")
def test_callbacks_during_a_read(certificates: Certificates) -> None:
    seen: list[str] = []

    def note(_connection: object, direction: str, *_: object) -> None:
        seen.append(direction)
        time.sleep(0)  # another thread may run

    clients = certificates.client_context()
    clients._msg_callback = note  # type: ignore[attr-defined]
    with shaken_hands(certificates.good.context(), certificates, clients) as (client, server):
        del seen[:]
        assert reads_of(client, server, server.seal(b"one") + server.seal(b"two")) == b"onetwo"
        assert "read" in seen


@pytest.mark.usefixtures("decrypting")
def test_connections_that_are_read_on_threads_of_their_own(certificates: Certificates) -> None:
    def serve(name: bytes) -> None:
        with shaken_hands(certificates.good.context(), certificates) as (client, server):
            for number in range(200):
                data = name * (number + 1)
                server.sock.sendall(server.seal(data))
                assert read(client) == data

    with concurrently(lambda: serve(b"a")), concurrently(lambda: serve(b"b")):
        serve(b"c")


# --- how it ends ----------------------------------------------------------------------------------


def raised(client: TlsTransport) -> Exception:
    """What the next reads raise: each the same, and none waits."""
    with pytest.raises((EOFError, OSError)) as first:
        read(client)
    assert client.wait(0)
    with pytest.raises((EOFError, OSError)) as second:
        read(client)
    assert second.value is first.value
    return first.value


def test_close_notify_amid_a_batch(pair: Pair) -> None:
    client, server = pair
    wire = server.seal(b"one") + server.seal(b"two") + server.close_notify()
    assert reads_of(client, server, wire + b"\x17\x03\x03\x00\x20" + bytes(32)) == b"onetwo"
    assert str(raised(client)) == "the peer ended the TLS connection"


def test_close_notify_alone(pair: Pair) -> None:
    client, server = pair
    server.sock.sendall(server.close_notify())
    assert str(raised(client)) == "the peer ended the TLS connection"


@pytest.mark.parametrize("cut", [0, 3, 5, 20])
def test_an_end_without_close_notify(pair: Pair, cut: int) -> None:
    client, server = pair
    last = server.seal(b"one")
    wire = last + server.seal(b"two")[:cut]
    assert reads_of(client, server, wire) == b"one"
    server.sock.shutdown(socket.SHUT_WR)
    assert "without TLS's close_notify" in str(raised(client))


def test_a_corrupted_record(pair: Pair) -> None:
    client, server = pair
    good, bad, after = (server.seal(data) for data in (b"good", b"bad", b"after"))
    wire = good + bad[:-1] + bytes([bad[-1] ^ 1]) + after
    assert reads_of(client, server, wire) == b"good"
    error = raised(client)
    assert type(error) is ssl.SSLError
    assert error.errno == ssl.SSL_ERROR_SSL
    assert (error.library, error.reason) == ("SSL", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC")
    assert "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed" in str(error)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):  # the peer is told
        server.hear()


def test_what_is_no_tls(pair: Pair) -> None:
    client, server = pair
    assert reads_of(client, server, server.seal(b"good") + b"HTTP/1.1 400 Bad\r\n") == b"good"
    error = raised(client)
    assert type(error) is ssl.SSLError
    assert isinstance(error.reason, str)
    assert "WRONG_VERSION_NUMBER" in error.reason


def test_an_alert(pair: Pair) -> None:
    client, server = pair
    wire = server.seal(b"good") + server.alert()
    assert reads_of(client, server, wire) == b"good"
    error = raised(client)
    assert type(error) is ssl.SSLError
    assert error.reason == "SSLV3_ALERT_BAD_RECORD_MAC"


def test_a_failure_says_nothing_of_another_connection(
    pair: Pair, certificates: Certificates
) -> None:
    client, server = pair
    with shaken_hands(certificates.good.context(), certificates) as (other, its):
        server.sock.sendall(b"HTTP/1.1 400 Bad\r\n")
        with pytest.raises(ssl.SSLError):
            read(client)
        its.sock.sendall(its.seal(b"well")[:9])
        assert read(other) == b""  # OpenSSL's queue of errors belongs to the thread
        with pytest.raises(ssl.SSLWantReadError):
            other._tls.read(1)


# --- the direct way -------------------------------------------------------------------------------


@pytest.fixture
def direct(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(tls, "_Reader", Reader)
    with shaken_hands(certificates.good.context(), certificates) as pair:
        assert pair[0]._reader is not None
        yield pair


@pytest.fixture
def no_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(30)
    yield
    sys.setswitchinterval(before)


@needs_reader
def test_the_gil_is_kept(direct: Pair, no_switches: None) -> None:
    client, server = direct
    assert client._reader is not None
    view = memoryview(bytearray(65536))
    turns, stopping = 0, False

    def take_turns() -> None:
        nonlocal turns
        while not stopping:
            turns += 1
            time.sleep(0)

    def turns_during(work: Callable[[], Any]) -> int:
        before = turns
        work()
        return turns - before

    with concurrently(take_turns):
        try:
            until(lambda: turns > 10)
            for _ in range(50):
                client._incoming.write(b"".join(map(server.seal, BATCH)))
                until(lambda so_far=turns: turns > so_far)  # type: ignore[misc]
                assert turns_during(lambda: client._reader.read(view)) == 0  # type: ignore[union-attr]
            assert any(turns_during(lambda: time.sleep(0.001)) for _ in range(50))
        finally:
            stopping = True


@needs_reader
def test_errors_that_others_left_in_the_threads_queue(direct: Pair) -> None:
    client, server = direct
    _ssl: Any = sys.modules["_ssl"]
    if not hasattr(_ssl, "__file__"):
        pytest.skip("_ssl is built in")
    openssl = ctypes.CDLL(_ssl.__file__)
    openssl.ERR_peek_error.restype = ctypes.c_ulong
    assert not openssl.BIO_new_file(b"/nowhere", b"r")
    assert openssl.ERR_peek_error()
    server.sock.sendall(server.seal(b"well"))
    assert read(client) == b"well"
    assert not client.wait(0)


@needs_reader
def test_what_is_no_finished_handshake_in_memory_is_refused(
    certificates: Certificates, direct: Pair
) -> None:
    client, _ = direct
    context = certificates.client_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    early = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ValueError, match="handshake is not over"):
        Reader(early, incoming)
    with pytest.raises(ValueError, match="reads from elsewhere"):
        Reader(client._tls, incoming)
    with socket.socket() as sock:
        wrapped = context.wrap_socket(sock, server_hostname="x", do_handshake_on_connect=False)
        with wrapped, pytest.raises(ValueError, match="not a"):
            Reader(wrapped, incoming)  # type: ignore[arg-type]
    for nonsense in (None, object(), incoming):
        with pytest.raises(ValueError, match="not an SSLObject"):
            Reader(nonsense, incoming)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="over memory"):
        Reader(client._tls, client._tls)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Reader(client._tls)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Reader(tls=client._tls, incoming=client._incoming)  # type: ignore[call-arg]


@needs_reader
def test_a_reader_needs_a_buffer_to_write_to(direct: Pair) -> None:
    client, server = direct
    reader = Reader(client._tls, client._incoming)
    client._incoming.write(server.seal(b"data"))
    for wrong in (b"bytes", memoryview(b"bytes"), None, 5):
        with pytest.raises((TypeError, BufferError)):
            reader.read(wrong)  # type: ignore[arg-type]
    assert reader.read(bytearray()) == (0, 0, None)
    buffer = bytearray(8)
    assert reader.read(buffer) == (4, ssl.SSL_ERROR_WANT_READ, None)
    assert buffer == b"data\0\0\0\0"


@needs_reader
def test_a_reader_keeps_the_connection(direct: Pair) -> None:
    client, server = direct
    reader, incoming = Reader(client._tls, client._incoming), client._incoming
    wire = server.seal(b"data")

    def references() -> int:
        return sys.getrefcount(client._tls._sslobj)  # type: ignore[attr-defined]

    before = references()
    another = Reader(client._tls, incoming)
    assert references() == before + 1
    del another
    assert references() == before
    client._tls = client._reader = None  # type: ignore[assignment]
    incoming.write(wire)
    assert reader.read(bytearray(4)) == (4, 0, None)
    client._tls = ssl.create_default_context().wrap_bio(incoming, incoming, server_hostname="x")


def test_where_the_direct_way_is_refused_records_are_read_one_by_one(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("_SSLSocket has another layout")

    monkeypatch.setattr(tls, "_Reader", refuse)
    with shaken_hands(certificates.good.context(), certificates) as (client, server):
        assert client._reader is None
        wire = b"".join(map(server.seal, BATCH))
        assert reads_of(client, server, wire) == b"".join(BATCH)


def direct_error(pure: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from fastpos.net import tls; print(tls.direct_error)"],
        env={**os.environ, "FASTPOS_PURE": pure},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(tls.__file__).parent.parent.parent,
    )
    return done.stdout.strip()


@needs_reader
def test_the_direct_way_is_used_where_it_was_built() -> None:
    assert direct_error("") == direct_error("0") == "None"


def test_the_direct_way_can_be_forgone() -> None:
    assert direct_error("1") == "FASTPOS_PURE is set"


# In a process of its own: `_ssl` looks as if it were built into the interpreter, and what is found
# among the process's libraries is another OpenSSL, the copy given.
ANOTHER_OPENSSL = """
import ctypes, pathlib, sys, _ssl
del _ssl.__file__
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import pytest
from fastpos.net import tls
from fastpos._c._tls import Reader
from tests.certificates import make_certificates
from tests.test_records import shaken_hands
certificates = make_certificates(pathlib.Path(sys.argv[2]))
with shaken_hands(certificates.good.context(), certificates) as (client, server):
    assert tls.direct_error is None
    assert client._reader is None
    with pytest.raises(ValueError, match="not this OpenSSL's"):
        Reader(client._tls, client._incoming)
"""


@needs_reader
@pytest.mark.skipif(sys.platform != "linux", reason="libraries are looked up in /proc")
def test_another_openssl_is_never_used(tmp_path: Path) -> None:
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    libraries = [Path(name) for name in mapped if Path(name).name.startswith("libssl")]
    if not libraries:
        pytest.skip("OpenSSL is linked statically")
    copy = shutil.copy(libraries[0], tmp_path)
    subprocess.run(
        [sys.executable, "-c", ANOTHER_OPENSSL, copy, str(tmp_path)],
        env={**os.environ, "FASTPOS_PURE": ""},
        check=True,
        cwd=Path(tls.__file__).parent.parent.parent,
    )


@needs_reader
def test_no_reader_outside_the_main_interpreter() -> None:
    load = (
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        f"spec = spec_from_file_location('fastpos._c._tls', {_tls.__file__!r})\n"
        "try: spec.loader.exec_module(module_from_spec(spec))\n"
        "except ImportError as error: assert 'main interpreter' in str(error), error\n"
        "else: raise AssertionError('there is one')\n"
    )
    if sys.version_info >= (3, 13):
        interpreters = importlib.import_module("_interpreters")
        own = interpreters.create("legacy")
    else:
        interpreters = importlib.import_module("_xxsubinterpreters")
        own = interpreters.create(isolated=False)
    try:
        assert interpreters.run_string(own, load) is None
    finally:
        interpreters.destroy(own)
