"""Ten million frames through the C extensions: no memory, no reference and no object may be left.

python tests/leakcheck.py [FRAMES]
"""

from __future__ import annotations

import gc
import gzip
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastpos import DecodeError, decode
from fastpos._c._inflate import Inflater
from fastpos._c._tls import Reader
from fastpos.account.book import Book
from fastpos.runtime.callbacks import Callbacks
from fastpos.runtime.delivery import Delivery
from fastpos.runtime.stats import Counters
from fastpos.runtime.timing import CallbackTimes
from tests.support.certificates import make_certificates
from tests.support.frames import BINARY, frame
from tests.support.pushes import MEMBERS
from tests.test_inflate import NOT_TAKEN

MAX_SIZE = 1 << 20
WARM_UP = 5_000
BATCH = 100
FRAMES = [frame(BINARY, data) for data in MEMBERS]
REFUSED = [MEMBERS[0][:-1], b"sub success", MEMBERS[0] + b"\0", MEMBERS[0][:-4] + bytes(4)]
ODD = [
    gzip.compress(text)
    for text in (
        b'{"channel":"order","order":[]}',
        b'{"channel":"order","order":{"orderId":123456789012345678901234567890}}',
        b'{"channel":"new"}',
        b'{"pong":1}',
        b'{"channel":',
    )
]
LARGE = gzip.compress(bytes(range(256)) * 500, 0)  # the path that releases the GIL


def resident() -> int:
    """The memory that this process has, bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def inflating(inflater: Inflater, count: int) -> None:
    inflate = inflater.inflate
    for index in range(count):
        inflate(MEMBERS[index % len(MEMBERS)], MAX_SIZE)


def splitting(inflater: Inflater, count: int) -> None:
    buffer = bytearray(b"".join(FRAMES[index % len(FRAMES)] for index in range(BATCH)))
    for _ in range(count // BATCH):
        out: list[bytes] = []
        end = 0
        while end < len(buffer):
            before, end = end, inflater.split(buffer, end, len(buffer), MAX_SIZE, out)
            if end == before:
                raise AssertionError("not all frames were taken")


def refusing(inflater: Inflater, count: int) -> None:
    bad = list(NOT_TAKEN.values())
    for index in range(count // 2):
        try:
            inflater.inflate(REFUSED[index % len(REFUSED)], MAX_SIZE)
        except ValueError:
            pass
        else:
            raise AssertionError("accepted")
        stream = bad[index % len(bad)]
        if len(stream) < 1000 and inflater.split(stream, 0, len(stream), MAX_SIZE, []):
            raise AssertionError("taken")


def wrong_calls(inflater: Inflater, count: int) -> None:
    for index in range(count // 2):
        with suppress(ValueError):
            inflater.inflate(MEMBERS[0], 1 if index % 2 else 0)
        with suppress(ValueError):
            inflater.split(FRAMES[0], 0, 10**6, MAX_SIZE, [])


def large_input(inflater: Inflater, count: int) -> None:
    for _ in range(count):
        inflater.inflate(LARGE, MAX_SIZE)


def new_inflaters(_: Inflater, count: int) -> None:
    for _ in range(count):
        Inflater().inflate(MEMBERS[0], MAX_SIZE)


def decoding(_: Inflater, count: int) -> None:
    for index in range(count):
        decode(MEMBERS[index % len(MEMBERS)])


def decoding_odd_ones(_: Inflater, count: int) -> None:
    for index in range(count):
        with suppress(DecodeError):
            decode(ODD[index % len(ODD)])


def fail(_: object) -> None:
    raise ValueError


class Line:
    """Pushes to functions, one of which raises."""

    def __init__(self) -> None:
        callbacks = Callbacks()
        for slot in (callbacks.on_position, callbacks.on_order, callbacks.on_adl_price):
            slot(len_of)
        callbacks.on_order(fail)
        callbacks.on_error(len_of)
        self.delivery = Delivery(
            callbacks, Book(float), Counters(), float, CallbackTimes(1.0), None
        )
        self.texts = list(map(gzip.decompress, MEMBERS)) * 10

    def deliver(self) -> None:
        self.delivery.received(time.monotonic())
        if not self.delivery.pushes(self.texts, 10**18):  # one of them says so
            raise AssertionError("the system closes")


def len_of(event: object) -> None:
    hash(event)


LINE = Line()


def delivering(_: Inflater, count: int) -> None:
    for _number in range(count // len(LINE.texts)):
        LINE.deliver()


def new_deliveries(_: Inflater, count: int) -> None:
    for _number in range(count):
        Line().deliver()


class Pair:
    """A server and a client in memory, after the handshake."""

    def __init__(self) -> None:
        self.incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        of_server = ssl.MemoryBIO()
        self.client = CLIENTS.wrap_bio(self.incoming, outgoing, server_hostname="localhost")
        self.server = SERVERS.wrap_bio(of_server, self.incoming, server_side=True)
        for side in (self.client, self.server, self.client, self.server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
            of_server.write(outgoing.read())
        self.reader = Reader(self.client, self.incoming)


with tempfile.TemporaryDirectory() as directory:
    CERTIFICATES = make_certificates(Path(directory))
    CLIENTS, SERVERS = CERTIFICATES.client_context(), CERTIFICATES.good.context()
PAIR = Pair()
VIEW = memoryview(bytearray(64 * 1024))


def decrypting(_: Inflater, count: int) -> None:
    for index in range(count // BATCH):
        for _number in range(BATCH):
            PAIR.server.write(MEMBERS[index % len(MEMBERS)][:200])
        code, reason = PAIR.reader.read(VIEW[: 1 + index % len(VIEW)])[1:]
        while code == 0:
            code, reason = PAIR.reader.read(VIEW)[1:]
        if (code, reason) != (ssl.SSL_ERROR_WANT_READ, None):
            raise AssertionError(reason)


def new_connections_that_fail(_: Inflater, count: int) -> None:
    for index in range(count):
        pair = Pair()
        if index % 3 == 0:
            pair.incoming.write_eof()
        elif index % 3 == 1:
            pair.incoming.write(b"HTTP/1.1 400 Bad")
        else:
            with suppress(ssl.SSLWantReadError):
                pair.server.unwrap()
        with suppress(ValueError):
            Reader(pair.client, ssl.MemoryBIO())
        with suppress(TypeError, BufferError):
            pair.reader.read(b"")  # type: ignore[arg-type]
        if pair.reader.read(VIEW)[1] in (0, ssl.SSL_ERROR_WANT_READ):
            raise AssertionError("no failure")


def check(work: Callable[[Inflater, int], None], count: int) -> None:
    inflater = Inflater()
    work(inflater, WARM_UP)
    gc.collect()
    watched = [
        inflater,
        Inflater,
        Reader,
        MAX_SIZE,
        LARGE,
        *PAIR.__dict__.values(),
        *MEMBERS,
        *REFUSED,
        *FRAMES,
    ]
    references = [sys.getrefcount(item) for item in watched]
    memory, blocks, started = resident(), sys.getallocatedblocks(), time.perf_counter()
    work(inflater, count)
    seconds = time.perf_counter() - started
    gc.collect()
    memory, blocks = resident() - memory, sys.getallocatedblocks() - blocks
    changed = [sys.getrefcount(item) for item in watched] != references
    name = work.__name__.replace("_", " ")
    print(f"{name:26} {count:>10,} times, {seconds:5.0f} s: {memory / 1024:+5.0f} KiB,", end="")
    print(f" {blocks:+d} blocks, references {'changed' if changed else 'as before'}", flush=True)
    if changed or memory > 1 << 20 or blocks > 100:
        raise SystemExit("a leak")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    check(inflating, count * 4 // 10)
    check(splitting, count * 4 // 10)
    check(decoding, count * 4 // 10)
    check(decoding_odd_ones, count // 10)
    check(delivering, count // 10)
    check(new_deliveries, count // 2000)
    check(refusing, count * 2 // 10)
    check(wrong_calls, count // 10)
    check(large_input, count // 1000)
    check(new_inflaters, count // 1000)
    check(decrypting, count * 4 // 10)
    check(new_connections_that_fail, count // 1000)


if __name__ == "__main__":
    main()
