"""Millions of frames through the C extensions: no memory, no reference and no object may be left.

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
from tests.fuzz import frames, session
from tests.runtime.outcome import Rig
from tests.support.certificates import make_certificates
from tests.support.pushes import ALTERED, MEMBERS

MAX_SIZE = 1 << 20
WARM_UP = 10_000  # so that all that the fuzzer found has passed
BATCH = 100
CORPUS = Path(__file__).parent / "fuzz" / "corpus"
REFUSED = [data for data, _ in ALTERED.values()]
LARGE = gzip.compress(bytes(range(256)) * 500, 0)  # the path that releases the GIL
TEXTS = list(map(gzip.decompress, MEMBERS))
INPUTS = {
    name: [file.read_bytes() for file in (CORPUS / name).iterdir()]
    for name in ("frames", "decoder", "session")
}
VIEW = memoryview(bytearray(64 * 1024))
INFLATER = Inflater()


def fail(_: object) -> None:
    raise ValueError


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


# --- what is done again and again, each with the number of the turn -------------------------------


def what_the_fuzzer_found(turn: int) -> None:
    """Frames, pushes and conversations, good and bad, split and inflated in every way."""
    turn_of = {name: inputs[turn % len(inputs)] for name, inputs in INPUTS.items()}
    frames.one(turn_of["frames"])
    session.one(turn_of["session"])
    with suppress(DecodeError):
        decode(turn_of["decoder"])


def refusing(turn: int) -> None:
    with suppress(ValueError):
        INFLATER.inflate(REFUSED[turn % len(REFUSED)], MAX_SIZE)
        raise AssertionError("accepted")
    with suppress(ValueError):
        INFLATER.inflate(MEMBERS[0], turn % 2)
    with suppress(ValueError):
        INFLATER.split(b"", 0, 10**6, MAX_SIZE, [])


def delivering(_: int) -> None:
    """To functions of which one raises."""
    rig = Rig()
    rig.callbacks.on_order(fail)
    rig.deliver(*TEXTS)
    rig.told.clear()


def decrypting(turn: int) -> None:
    for _ in range(BATCH):
        PAIR.server.write(MEMBERS[turn % len(MEMBERS)][:200])
    code, reason = PAIR.reader.read(VIEW[: 1 + turn % len(VIEW)])[1:]
    while code == 0:
        code, reason = PAIR.reader.read(VIEW)[1:]
    if (code, reason) != (ssl.SSL_ERROR_WANT_READ, None):
        raise AssertionError(reason)


def new_connections_that_fail(turn: int) -> None:
    pair = Pair()
    if turn % 3 == 0:
        pair.incoming.write_eof()
    elif turn % 3 == 1:
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


# What is done, and how many turns of it there are for each of the frames.
WORK: dict[str, tuple[Callable[[int], object], float]] = {
    "inflating": (lambda turn: INFLATER.inflate(MEMBERS[turn % len(MEMBERS)], MAX_SIZE), 0.4),
    "refusing": (refusing, 0.4),
    "decoding": (lambda turn: decode(MEMBERS[turn % len(MEMBERS)]), 0.4),
    "what the fuzzer found": (what_the_fuzzer_found, 0.001),
    "delivering": (delivering, 0.1 / len(TEXTS)),
    "large input": (lambda _: INFLATER.inflate(LARGE, MAX_SIZE), 0.001),
    "new inflaters": (lambda _: Inflater().inflate(MEMBERS[0], MAX_SIZE), 0.001),
    "decrypting": (decrypting, 0.4 / BATCH),
    "new connections that fail": (new_connections_that_fail, 0.001),
}


def resident() -> int:
    """The memory that this process has, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def repeat(work: Callable[[int], object], count: int) -> None:
    for turn in range(count):
        work(turn)


def check(name: str, work: Callable[[int], object], count: int) -> None:
    watched = [INFLATER, Inflater, Reader, LARGE, *vars(PAIR).values(), *MEMBERS, *REFUSED]
    repeat(work, min(count, WARM_UP))
    gc.collect()
    references = [sys.getrefcount(item) for item in watched]
    memory, blocks, started = resident(), sys.getallocatedblocks(), time.perf_counter()
    repeat(work, count)
    seconds = time.perf_counter() - started
    gc.collect()
    memory, blocks = resident() - memory, sys.getallocatedblocks() - blocks
    changed = [sys.getrefcount(item) for item in watched] != references

    print(f"{name:26} {count:>10,} times, {seconds:5.0f} s: {memory / 1024:+5.0f} KiB,", end="")
    print(f" {blocks:+d} blocks, references {'changed' if changed else 'as before'}", flush=True)
    if changed or memory > 1 << 20 or blocks > 100:
        raise SystemExit("a leak")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    for name, (work, share) in WORK.items():
        check(name, work, int(count * share))


if __name__ == "__main__":
    main()
