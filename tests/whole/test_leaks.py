"""A thousand starts and stops leave no thread, no socket, no descriptor and no memory."""

from __future__ import annotations

import gc
import logging
import os
import ssl
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest

from fastpos import PositionStream
from fastpos.simulator import Exchange
from tests.support.certificates import Certificates
from tests.support.recording import SOON, until

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc shows"),
]

WARM_UP = 50
# What all the runs together may add, bytes; one object kept by each would make over 10,000.
ALLOWED = 8192


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    """Records that pytest keeps would count."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def serve(pipe: Connection, certificates: Certificates | None) -> None:
    with Exchange(ssl_context=certificates and certificates.good.context()) as exchange:
        pipe.send((exchange.url, exchange.api_key, exchange.broker))
        pipe.recv()
        pipe.send((dict(exchange.counts), exchange.violations))


@contextmanager
def exchange_elsewhere(certificates: Certificates | None) -> Iterator[Any]:
    """A pipe to an exchange whose threads and memory are another process's."""
    spawning = get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=serve, args=(theirs, certificates))
    process.start()
    theirs.close()
    with ours:
        yield ours
    process.join(SOON)


def descriptors() -> list[str]:
    """What is open, by kind and number."""
    names = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing itself
            names.append(os.readlink(f"/proc/self/fd/{number}"))
    return sorted(names)


@pytest.mark.parametrize("new_each_time", [False, True], ids=["one stream", "a stream each"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_starts_and_stops(certificates: Certificates, tls: bool, new_each_time: bool) -> None:
    runs = 300 if tls else 1000
    context: ssl.SSLContext | None = certificates.client_context() if tls else None
    with exchange_elsewhere(certificates if tls else None) as pipe:
        url, key, broker = pipe.recv()
        new = partial(
            PositionStream, url, api_key=key, broker=broker, proxy="", ssl_context=context
        )
        stream = new()

        def run(times: int) -> None:
            nonlocal stream
            for _ in range(times):
                if new_each_time:
                    stream = new()
                stream.start()
                assert stream.wait_ready(SOON)
                stream.stop()
                assert len(threading.enumerate()) == threads

        threads, tasks = len(threading.enumerate()), len(os.listdir("/proc/self/task"))
        run(WARM_UP)
        gc.collect()  # what tests before this one have left
        open_before = descriptors()
        tracemalloc.start()
        try:
            run(WARM_UP)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            run(runs)
            gc.collect()
            assert descriptors() == open_before
            # The kernel takes a moment longer to end one.
            until(
                lambda: len(os.listdir("/proc/self/task")) == tasks, what="that no thread is left"
            )
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        pipe.send(None)
        counts, violations = pipe.recv()
    assert violations == []
    assert counts["unsub"] == counts["close"] == runs + 2 * WARM_UP
    print(f"{runs} runs: {after - before:+} bytes")
    assert after - before < ALLOWED
