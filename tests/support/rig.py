"""What runs beside a test and has ended when its `with` block is left."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

TIMEOUT = 10.0
"""Seconds after which any wait of a rig gives up, so that a broken test fails and never hangs."""

LOOPBACK = "127.0.0.1"

Self = TypeVar("Self", bound="Rig")


class Rig:
    """Entering starts it, leaving undoes in reverse order what `_cleanup` was told."""

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()

    def __enter__(self: Self) -> Self:
        with self._cleanup:
            self._start()
            # Only a start that went well is undone later than here.
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        raise NotImplementedError


def listening_program(
    command: Sequence[str | Path], log: Path, port: int, where: Path | None = None
) -> subprocess.Popen[bytes]:
    """A program that accepts connections on `port`, or AssertionError with what it printed."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=where, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1.0):
            return process
        time.sleep(0.01)
    end_process(process)
    raise AssertionError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def program(name: str) -> str:
    """Where it is; the test is skipped if this machine has no such program."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """One that nobody else is given, and that a server may listen on with SO_REUSEADDR, as servers
    do; also after one that was there has gone. Where nobody listens, connections are refused."""
    with socket.socket() as keeper:
        if sys.platform == "linux":  # elsewhere a second socket may not be bound there
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind((LOOPBACK, 0))
        port: int = keeper.getsockname()[1]
        if sys.platform != "linux":
            keeper.close()
        yield port
