"""OpenSSL's own TLS server, for what Python's `ssl` can't do."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from tests.support.rig import LOOPBACK, TIMEOUT, Rig, end_process, program


class OpensslServer(Rig):
    """OpenSSL's `s_server`: other TLS code than Python's, which does what `ssl` can't.

    `sendall` and `recv` are the server's side of the connection, so `accept_upgrade(server)` and
    `read_frame(server)` work as they do on a socket. One connection at a time; `recv` starts afresh
    with each.

    `s_server` takes a read from its standard input for a command if it begins with a certain
    letter, and writes remarks between the client's data. Packet sockets (Linux has them) in place
    of pipes keep each write apart from the next: so commands never swallow data, each `sendall` is
    one TLS record (of up to 16 KiB), and remarks are told from data. Data must not begin with one
    of the letters, which no server's frame and no HTTP answer does.
    """

    port: int

    _READ_SIZE = 16 * 1024
    _COMMANDS = b"BKPQRSbckqrst"
    _REMARK = re.compile(
        rb"(?:(?:SSL_do_handshake -> -?\d+|Read BLOCK|Write BLOCK|KEYUPDATE|DONE|ACCEPT.*|ERROR"
        rb"|shutting down SSL|shutdown accept socket|CONNECTION CLOSED|.*error:.*"
        rb"|LOOKUP .*|Using default temp DH parameters| +\d+ .*)\n)+"
    )
    _SESSION_ENDS = re.compile(rb"enegotiation[^\n]*\n(?:Renegotiation is DISABLED\n)?$")

    def __init__(self, certificate: Path, version: Literal["1.2", "1.3"] = "1.3") -> None:
        super().__init__()
        self._command = ["-cert", str(certificate), f"-tls{version.replace('.', '_')}"]
        self._changed = threading.Condition()
        self._received = bytearray()
        self._log = bytearray()
        self._ended = False
        self.handshakes = 0

    @property
    def url(self) -> str:
        return f"wss://{LOOPBACK}:{self.port}/"

    @property
    def log(self) -> str:
        """Everything `s_server` remarked so far."""
        with self._changed:
            return self._log.decode(errors="replace")

    def recv(self, size: int, /) -> bytes:
        """What the client sent; `b""` once the connection has ended."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._received or self._ended, TIMEOUT):
                raise TimeoutError(f"no data from the client in {TIMEOUT} s")
            data = bytes(self._received[:size])
            del self._received[:size]
            return data

    def sendall(self, data: bytes, /) -> None:
        while data:
            size = min(len(data), self._READ_SIZE)
            while size < len(data) and data[size] in self._COMMANDS:
                size -= 1
            if size <= 0 or data[0] in self._COMMANDS:
                raise ValueError("s_server would take this for a command")
            self._write(data[:size])
            data = data[size:]

    def update_keys(self, answer: bool = False) -> None:
        """A TLS 1.3 KeyUpdate; with `answer` the client must update its keys too."""
        self._write(b"K\n" if answer else b"k\n")

    def renegotiate(self) -> None:
        """A HelloRequest, which TLS 1.2 has: the client may shake hands again."""
        self._write(b"r\n")

    def wait_handshakes(self, count: int) -> None:
        """Until so many TLS handshakes have been completed, over all."""
        self._wait_for(lambda: self.handshakes >= count, f"{count} handshakes")

    def _write(self, packet: bytes) -> None:
        # Commands are understood only after the handshake.
        self.wait_handshakes(1)
        self._input.send(packet)

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, TIMEOUT):
                raise AssertionError(f"{what} did not come; s_server said:\n{self._log.decode()}")

    def _start(self) -> None:
        openssl = program("openssl")
        try:
            pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        except (AttributeError, OSError) as error:
            pytest.skip(f"no packet sockets between processes on this system: {error}")
        (self._input, childs_input), (self._output, childs_output) = pairs
        for ours in (self._input, self._output):
            self._cleanup.enter_context(ours)
        self._input.settimeout(TIMEOUT)
        with childs_input, childs_output:
            self._process = subprocess.Popen(
                [openssl, "s_server", "-accept", f"{LOOPBACK}:0", *self._command],
                stdin=childs_input.fileno(),
                stdout=childs_output.fileno(),
                stderr=childs_output.fileno(),
            )
        reader = threading.Thread(target=self._read_output, daemon=True)
        reader.start()
        self._cleanup.callback(reader.join, TIMEOUT)
        self._cleanup.callback(end_process, self._process)
        self._wait_for(lambda: b"ACCEPT " in self._log or self._ended, "the start")
        listening = re.search(r"ACCEPT .*:(\d+)", self.log)
        if listening is None:
            raise AssertionError(f"s_server did not start:\n{self.log}")
        self.port = int(listening[1])

    def _read_output(self) -> None:
        in_session = False
        while True:
            try:
                packet = self._output.recv(1 << 17)
            except OSError:
                packet = b""
            with self._changed:
                if b"-----BEGIN SSL SESSION PARAMETERS-----\n" in packet:
                    # More than one packet if it is long: all up to its last line.
                    in_session = True
                    self._received.clear()
                    self._ended = False
                if in_session:
                    self._log += packet
                    if self._SESSION_ENDS.search(packet):
                        in_session = False
                        self.handshakes += 1
                elif self._REMARK.fullmatch(packet):
                    self._log += packet
                    if packet.startswith((b"DONE", b"ERROR", b"CONNECTION CLOSED")):
                        self._ended = True
                else:
                    self._received += packet
                if not packet:
                    self._ended = True
                self._changed.notify_all()
            if not packet:
                return
