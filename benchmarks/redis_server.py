"""A Redis or Valkey for a measurement, which keeps an append-only file as in earnest."""

import atexit
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress

__all__ = ["WHY_NOT", "Server"]

_PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
_LIMIT = 20.0  # seconds until it must answer

WHY_NOT = "" if _PROGRAM else "no redis-server or valkey-server is installed"
"""Why there is none; nothing if there is one."""


class Server:
    """A server on a free port, until `close`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        words = ["--port", str(port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        words += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        self._process = subprocess.Popen([_PROGRAM or "", *words], stdout=subprocess.DEVNULL)
        atexit.register(self.close)  # a peer's process ends without a stop
        self.url = f"redis://127.0.0.1:{port}/0"
        deadline = time.monotonic() + _LIMIT
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            time.sleep(0.01)
        self.close()
        raise RuntimeError("the server does not answer")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def pause(self) -> None:
        """Have it answer nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it, and remove what it kept."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()
