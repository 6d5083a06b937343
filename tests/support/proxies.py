"""Real proxies: tinyproxy for HTTP, microsocks for SOCKS."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.recording import until
from tests.support.rig import (
    LOOPBACK,
    TIMEOUT,
    Rig,
    end_process,
    free_port,
    listening_program,
    program,
)


class _ProgramProxy(Rig):
    """A proxy program on a free port, up when it accepts connections."""

    scheme: str
    port: int

    def __init__(self, user: str | None = None, password: str | None = None) -> None:
        super().__init__()
        self.user = user
        self.password = password

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """With the user and the password in it, if there are any."""
        user = "" if self.user is None else f"{self.user}:{self.password}@"
        return f"{self.scheme}://{user}{self.address}"

    def wait_logged(self, text: str, timeout: float = TIMEOUT) -> None:
        """Until the proxy has logged `text`: how a test knows that it was not passed by."""
        until(lambda: text in self.log, timeout, f"{text!r} in the proxy's log")

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def _command(self, directory: Path) -> list[str]:
        raise NotImplementedError

    def _start(self) -> None:
        directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self._log_path = directory / "log"
        self.port = free_port()
        process = listening_program(self._command(directory), self._log_path, self.port)
        self._cleanup.callback(end_process, process)


class HttpProxy(_ProgramProxy):
    """tinyproxy, which lets CONNECT through to any port of this machine."""

    scheme = "http"

    def _command(self, directory: Path) -> list[str]:
        lines = [f"Port {self.port}", f"Listen {LOOPBACK}", f"Allow {LOOPBACK}", "Timeout 60"]
        lines += ["LogLevel Connect"]
        if self.user is not None:
            lines.append(f"BasicAuth {self.user} {self.password}")
        configuration = directory / "tinyproxy.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return [program("tinyproxy"), "-d", "-c", str(configuration)]


class SocksProxy(_ProgramProxy):
    """microsocks: SOCKS5, which resolves names itself if asked to."""

    scheme = "socks5h"

    def _command(self, directory: Path) -> list[str]:
        user = [] if self.user is None else ["-u", self.user, "-P", str(self.password)]
        return [program("microsocks"), "-i", LOOPBACK, "-p", str(self.port), *user]
