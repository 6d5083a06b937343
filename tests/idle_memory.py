"""What an idle stream takes: `python tests/idle_memory.py [STREAMS]`.

Streams are subscribed to a simulator in another process, and so is one before the counting begins:
what the process needs once is not a stream's. For each stream, in KiB:

- traced: what tracemalloc sees, which is all that Python allocates;
- resident: what the kernel gave the process;
- bare: the same for two threads one of which waits on a socket, connected to the same server by
  Python's own means: the stacks, and over TLS OpenSSL's objects and the stack its handshake needed.

Exit status 1 unless traced, and resident less bare, are under 100 KiB.
"""

from __future__ import annotations

import gc
import socket
import ssl
import sys
import tempfile
import threading
import tracemalloc
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fastpos import PositionStream
from fastpos.wire.inflate import inflater
from tests.support.certificates import make_certificates
from tests.support.elsewhere import exchange_elsewhere, spawning

LIMIT = 100  # KiB
PAGE = 4096


def measure(
    pipe: Pipe, count: int, what: str, server: tuple[str, str, int], authority: Path | None
) -> None:
    """Runs in a process of its own; sends the bytes that each of `count` takes."""
    url, key, broker = server
    context = None if authority is None else ssl.create_default_context(cafile=str(authority))

    def new_stream() -> None:
        stream = PositionStream(url, api_key=key, broker=broker, proxy="", ssl_context=context)
        assert stream.start().wait_ready(10)
        kept.append(stream)

    def new_bare() -> None:
        connected = threading.Event()

        def wait_for_data() -> None:
            parts = urlsplit(url)
            sock = socket.create_connection((parts.hostname, parts.port))
            if context is not None:
                sock = context.wrap_socket(sock, server_hostname=parts.hostname)
            connected.set()
            sock.recv(1)

        for target in (wait_for_data, threading.Event().wait):
            threading.Thread(target=target, daemon=True).start()
        assert connected.wait(10)

    def taken() -> int:
        gc.collect()
        if what == "traced":
            return tracemalloc.get_traced_memory()[0]
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    kept: list[PositionStream] = []
    new = new_bare if what == "bare" else new_stream
    if what == "traced":
        tracemalloc.start()
    new()
    before = taken()
    for _ in range(count):
        new()
    pipe.send((taken() - before) / count)
    for stream in kept:
        stream.stop()


def measured(count: int, what: str, server: tuple[str, str, int], authority: Path | None) -> float:
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=measure, args=(theirs, count, what, server, authority))
    process.start()
    theirs.close()
    figure: float = ours.recv() / 1024
    process.join()
    return figure


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    worst = 0.0
    print(f"{count} streams, inflater {inflater!r}")
    with tempfile.TemporaryDirectory() as directory:
        certificates = make_certificates(Path(directory))
        for name in ("TCP", "TLS"):
            tls = name == "TLS"
            authority = certificates.authority if tls else None
            with exchange_elsewhere(certificates if tls else None) as exchange:
                server = exchange.url, exchange.api_key, exchange.broker
                traced, resident, bare = (
                    measured(count, what, server, authority)
                    for what in ("traced", "resident", "bare")
                )
            print(f"{name}: traced {traced:5.1f}, resident {resident:5.1f}, bare {bare:5.1f}")
            worst = max(worst, traced, resident - bare)
    return int(worst >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
