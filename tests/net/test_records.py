"""TLS records as they come: whole, cut, empty, corrupted, many at once, read in both ways."""

from __future__ import annotations

import ctypes
import importlib
import random
import shutil
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpos._c import mechanism, why_not
from fastpos.net import tls
from fastpos.net.tls import TlsTransport
from fastpos.net.transport import Transport
from tests.support.certificates import Certificates
from tests.support.gil import another_thread
from tests.support.programs import said
from tests.support.records import Pair, read, reads_of, shaken_hands

_tls = mechanism("_tls")
Reader: Any = None if _tls is None else _tls.Reader
needs_reader = pytest.mark.skipif(_tls is None, reason=str(why_not.get("_tls")))

pytestmark = [pytest.mark.usefixtures("tidy"), pytest.mark.timeout(60)]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
BATCH = [b"%3d:" % number + b"x" * (number * 7 % 300) for number in range(50)]


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def pair(
    request: pytest.FixtureRequest, certificates: Certificates, decrypting: str
) -> Iterator[Pair]:
    with shaken_hands(certificates.good.context(request.param), certificates) as pair:
        assert (pair[0]._reader is not None) == (decrypting == "direct")
        yield pair


# --- what is read ---------------------------------------------------------------------------------


def test_a_batch_is_read_at_once(pair: Pair) -> None:
    client, server = pair
    for _ in range(20):
        wire = b"".join(map(server.seal, BATCH))
        assert reads_of(client, server, wire) == b"".join(BATCH)
        assert not client.wait(0)


def test_pieces_and_buffers_of_all_sizes(pair: Pair) -> None:
    client, server = pair
    chance = random.Random(7)
    sent = got = wire = b""
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


@pytest.mark.parametrize("after", [b"", b"\x17\x03\x03\x00\x20" + bytes(32)])
def test_close_notify(pair: Pair, after: bytes) -> None:
    client, server = pair
    wire = server.seal(b"one") + server.seal(b"two") + server.close_notify()
    assert reads_of(client, server, wire + after) == b"onetwo"
    assert str(raised(client)) == "the peer ended the TLS connection"


def test_the_client_ends_with_close_notify(pair: Pair) -> None:
    client, server = pair
    client.close()
    assert server.hear() == b""


@pytest.mark.parametrize("cut", [0, 3, 5, 20])
def test_an_end_without_close_notify(pair: Pair, cut: int) -> None:
    client, server = pair
    last = server.seal(b"one")
    wire = last + server.seal(b"two")[:cut]
    assert reads_of(client, server, wire) == b"one"
    server.sock.shutdown(socket.SHUT_WR)
    assert "without TLS's close_notify" in str(raised(client))


@pytest.mark.parametrize("deaf", [False, True])
def test_a_corrupted_record(pair: Pair, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    """It takes nothing along of what came before, not even where the alert can't be sent."""
    client, server = pair
    good, bad, after = (server.seal(data) for data in (b"good", b"bad", b"after"))

    def fail(_: Transport) -> None:
        raise BrokenPipeError("gone")

    if deaf:
        monkeypatch.setattr(Transport, "_flush", fail)
    wire = good + bad[:-1] + bytes([bad[-1] ^ 1]) + after
    assert reads_of(client, server, wire) == b"good"
    error = raised(client)
    assert type(error) is ssl.SSLError
    assert error.errno == ssl.SSL_ERROR_SSL
    assert (error.library, error.reason) == ("SSL", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC")
    assert "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed" in str(error)
    if not deaf:  # the peer is told
        with pytest.raises(ssl.SSLError, match=r"(?i)alert bad record mac"):
            server.hear()


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
    if Reader is None:
        pytest.skip(why_not["_tls"])
    monkeypatch.setattr(tls, "_Reader", Reader)
    with shaken_hands(certificates.good.context(), certificates) as pair:
        assert pair[0]._reader is not None
        yield pair


def test_the_gil_is_kept(direct: Pair) -> None:
    client, server = direct
    assert client._reader is not None
    view = memoryview(bytearray(65536))
    batches = [b"".join(map(server.seal, BATCH)) for _ in range(50)]
    with another_thread() as turns:
        before = turns()
        for batch in batches:
            client._incoming.write(batch)
            assert client._reader.read(view)[0] == len(b"".join(BATCH))
        assert turns() == before


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


def test_what_is_no_finished_handshake_in_memory_is_refused(
    certificates: Certificates, direct: Pair
) -> None:
    client, _ = direct
    context = certificates.client_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    early = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    wrapped = context.wrap_socket(
        socket.socket(), server_hostname="x", do_handshake_on_connect=False
    )
    with wrapped:
        for of, reading, complaint in (
            (early, incoming, "handshake is not over"),
            (client._tls, incoming, "reads from elsewhere"),
            (wrapped, incoming, "not a"),
            *((nonsense, incoming, "not an SSLObject") for nonsense in (None, object(), incoming)),
            (client._tls, client._tls, "over memory"),
        ):
            with pytest.raises(ValueError, match=complaint):
                Reader(of, reading)
    with pytest.raises(TypeError):
        Reader(client._tls)
    with pytest.raises(TypeError):
        Reader(tls=client._tls, incoming=client._incoming)


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


# In a process of its own: `_ssl` looks as if it were built into the interpreter, and what is found
# among the process's libraries is another OpenSSL, the copy given.
ANOTHER_OPENSSL = """
import ctypes, pathlib, sys, _ssl
del _ssl.__file__
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
import pytest
from fastpos.net import tls
from fastpos._c._tls import Reader
from tests.support.certificates import make_certificates
from tests.support.records import shaken_hands
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
    assert said(ANOTHER_OPENSSL, str(copy), str(tmp_path), FASTPOS_PURE="") == ""


@needs_reader
def test_no_reader_outside_the_main_interpreter() -> None:
    assert _tls is not None
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
