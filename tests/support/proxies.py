"""Real proxies: tinyproxy for HTTP, microsocks for SOCKS."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from tests.support.recording import until
from tests.support.rig import LOOPBACK, Rig, end_process, free_port, listening_program, program


class RealProxy(Rig):
    """A proxy program on a free port, with a user and a password if it is given any.

    tinyproxy lets CONNECT through to any port of this machine; microsocks speaks SOCKS5, and
    resolves names itself if asked to.
    """

    port: int

    def __init__(self, scheme: Literal["http", "socks5h"], *login: str) -> None:
        super().__init__()
        self.scheme = scheme
        self._login = login

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """With the user and the password in it, if there are any."""
        login = ":".join(self._login)
        return f"{self.scheme}://{login}{'@' * bool(login)}{self.address}"

    def wait_logged(self, text: str) -> None:
        """Until the proxy has logged `text`: how a test knows that it was not passed by."""
        log = self._log_path
        until(lambda: text in log.read_text(errors="replace"), 10, f"{text!r} in the proxy's log")

    def _command(self, directory: Path) -> list[str]:
        if self.scheme == "socks5h":
            login = [word for pair in zip(("-u", "-P"), self._login, strict=False) for word in pair]
            return [program("microsocks"), "-i", LOOPBACK, "-p", str(self.port), *login]
        lines = [f"Port {self.port}", f"Listen {LOOPBACK}", f"Allow {LOOPBACK}", "Timeout 60"]
        lines += ["LogLevel Connect"]
        if self._login:
            lines.append(f"BasicAuth {' '.join(self._login)}")
        configuration = directory / "tinyproxy.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return [program("tinyproxy"), "-d", "-c", str(configuration)]

    def _start(self) -> None:
        directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self._log_path = directory / "log"
        self.port = free_port()
        process = listening_program(self._command(directory), self._log_path, self.port)
        self._cleanup.callback(end_process, process)
