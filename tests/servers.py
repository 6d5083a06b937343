"""Servers and proxies on real loopback sockets, whose every byte and fault a test decides.

- `ScriptedServer` runs a function of the test for each connection; `accept_upgrade`, `frame` and
  `read_frame` are what such a function needs to be a WebSocket server of any manners.
- `OpensslServer` puts OpenSSL's own `s_server` behind the same functions.
- `TcpProxy` forwards bytes and has the faults of a network.
- `HttpProxy` and `SocksProxy` run tinyproxy and microsocks.

All are context managers; what they started has ended when the `with` block is left. A program that
is not on this machine skips the test that wanted it.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import selectors
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeVar

import pytest

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "ClientFrame",
    "HttpProxy",
    "OpensslServer",
    "Peer",
    "ProxiedConnection",
    "ScriptedServer",
    "SocksProxy",
    "TcpProxy",
    "accept_upgrade",
    "close_frame",
    "frame",
    "frames",
    "read_exactly",
    "read_frame",
    "read_request",
    "upgrade_response",
]

TIMEOUT = 10.0
"""Seconds after which any wait of a rig gives up, so that a broken test fails and never hangs."""

LOOPBACK = "127.0.0.1"

T = TypeVar("T")
Self = TypeVar("Self", bound="_Rig")


class _Rig:
    """Entering starts it, leaving undoes in reverse order what `_cleanup` was told."""

    def __init__(self) -> None:
        self._cleanup = contextlib.ExitStack()

    def __enter__(self: Self) -> Self:
        with self._cleanup:
            self._start()
            # Only a start that went well is undone later than here.
            self._cleanup = self._cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        raise NotImplementedError


# --- WebSocket, by hand ---------------------------------------------------------------------------

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class Peer(Protocol):
    """The two methods of a socket that the helpers use."""

    def recv(self, size: int, /) -> bytes: ...

    def sendall(self, data: bytes, /) -> None: ...


def read_exactly(peer: Peer, size: int) -> bytes:
    """Raises ConnectionError if the client ends first."""
    data = bytearray()
    while len(data) < size:
        piece = peer.recv(size - len(data))
        if not piece:
            raise ConnectionError(f"the client left {size - len(data)} bytes before the end")
        data += piece
    return bytes(data)


def read_request(peer: Peer) -> tuple[str, dict[str, str]]:
    """The request line and the headers, their names in lower case; no byte after them is read."""
    data = bytearray()
    while not data.endswith(b"\r\n\r\n"):
        data += read_exactly(peer, 1)
    request_line, *lines = data[:-4].decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return request_line, {name.strip().lower(): value.strip() for name, _, value in pairs}


def upgrade_response(key: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The 101 that accepts a `Sec-WebSocket-Key`."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    answer = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": base64.b64encode(digest).decode(),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in answer.items())
    return f"HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n".encode("latin-1")


def accept_upgrade(peer: Peer, first_data: bytes = b"") -> dict[str, str]:
    """Reads the upgrade and accepts it; `first_data` leaves in the same write as the 101."""
    _, headers = read_request(peer)
    peer.sendall(upgrade_response(headers["sec-websocket-key"]) + first_data)
    return headers


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool | bytes = False,
    length_form: Literal[7, 16, 64] | None = None,
    announce: int | None = None,
) -> bytes:
    """One frame, valid or not.

    `rsv` holds the three bits as a number from 0 to 7. `masked` may be the masking key itself.
    `length_form` is the width of the length field, by default the shortest that fits. `announce`
    is the length that the header claims instead of the true one.
    """
    length = len(payload) if announce is None else announce
    if length_form is None:
        length_form = 7 if length < 126 else 16 if length < 1 << 16 else 64
    mask_bit = 0x80 if masked else 0
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    if length_form == 7:
        header = bytes([first, mask_bit | length])
    elif length_form == 16:
        header = struct.pack("!BBH", first, mask_bit | 126, length)
    else:
        header = struct.pack("!BBQ", first, mask_bit | 127, length)
    if masked:
        key = masked if isinstance(masked, bytes) else b"\x12\x34\x56\x78"
        return header + key + _mask(payload, key)
    return header + payload


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def _mask(payload: bytes, key: bytes) -> bytes:
    if not payload:
        return b""
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(
        len(payload), "big"
    )


@dataclass(frozen=True)
class ClientFrame:
    """A frame as the client sent it, its payload unmasked."""

    opcode: int
    payload: bytes
    fin: bool
    rsv: int
    mask: bytes | None
    """The masking key; None is against the protocol for a client."""

    @property
    def close_code(self) -> int | None:
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


def read_frame(peer: Peer) -> ClientFrame:
    """The client's next frame; raises ConnectionError when there is none to come."""
    first, second = read_exactly(peer, 2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", read_exactly(peer, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", read_exactly(peer, 8))
    key = read_exactly(peer, 4) if second & 0x80 else None
    payload = read_exactly(peer, length)
    return ClientFrame(
        opcode=first & 0xF,
        payload=_mask(payload, key) if key else payload,
        fin=bool(first & 0x80),
        rsv=first >> 4 & 0x7,
        mask=key,
    )


def frames(peer: Peer) -> Iterator[ClientFrame]:
    """The client's frames up to its close frame, which is the last of them, or to its end."""
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while True:
            read = read_frame(peer)
            yield read
            if read.opcode == CLOSE:
                return


# --- A server whose behaviour is a function -------------------------------------------------------


class ScriptedServer(_Rig):
    """Runs `handler(socket)` in a thread for each connection, and closes the socket after it.

    With `ssl_context` the handler gets the `ssl.SSLSocket` after the TLS handshake. Its time-out is
    `timeout`. A handler that fails fails the test: its exception is raised when the `with` block
    ends, except those that a vanished client causes (OSError), which are only kept in `errors`.
    """

    port: int

    def __init__(
        self,
        handler: Callable[[socket.socket], object],
        ssl_context: ssl.SSLContext | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self._handler = handler
        self._ssl_context = ssl_context
        self._timeout = timeout
        self._threads: list[threading.Thread] = []
        self._sockets: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._closing = False
        self.accepted = 0
        self.finished = 0

    @property
    def url(self) -> str:
        return f"{'wss' if self._ssl_context else 'ws'}://{LOOPBACK}:{self.port}/"

    def wait_accepted(self, count: int, timeout: float = TIMEOUT) -> None:
        """Until so many connections have come, over all."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.accepted >= count, timeout):
                raise AssertionError(f"{self.accepted} connections, not {count}")

    def wait_finished(self, count: int, timeout: float = TIMEOUT) -> None:
        """Until the handlers of so many connections have returned, over all."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.finished >= count, timeout):
                raise AssertionError(f"{self.finished} connections ended, not {count}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if error is None:
            for failure in self.errors:
                if not isinstance(failure, OSError):
                    raise failure

    def _start(self) -> None:
        listener = self._cleanup.enter_context(socket.create_server((LOOPBACK, 0), backlog=128))
        self.port = listener.getsockname()[1]
        acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        acceptor.start()
        self._cleanup.callback(self._stop, acceptor)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            with self._changed:
                if self._closing:
                    connection.close()
                    return
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                self._sockets.add(connection)
                self.accepted += 1
                self._changed.notify_all()
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        connection: socket.socket | ssl.SSLSocket = raw
        try:
            raw.settimeout(self._timeout)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._ssl_context is not None:
                # Known before its handshake, so that the end of the test cuts that short too.
                with self._changed:
                    connection = self._ssl_context.wrap_socket(
                        raw,
                        server_side=True,
                        do_handshake_on_connect=False,
                        suppress_ragged_eofs=False,
                    )
                    self._sockets.discard(raw)
                    self._sockets.add(connection)
                    if self._closing:
                        return
                connection.do_handshake()
            self._handler(connection)
        except Exception as error:
            self.errors.append(error)
        finally:
            with self._changed:
                self._sockets.discard(raw)
                self._sockets.discard(connection)
                connection.close()
                self.finished += 1
                self._changed.notify_all()

    def _stop(self, acceptor: threading.Thread) -> None:
        with self._changed:
            self._closing = True
            for connection in self._sockets:
                # Wakes a handler that waits; the plain socket's method, for no TLS object is to be
                # used by two threads.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        # Not every system wakes an accept() whose socket is closed; a connection always does.
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, self.port), TIMEOUT):
            pass
        for thread in (acceptor, *self._threads):
            thread.join(TIMEOUT)
            if thread.is_alive():
                raise AssertionError("a handler of ScriptedServer does not return")


# --- Programs -------------------------------------------------------------------------------------


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def _end_process(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


class OpensslServer(_Rig):
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

    def __init__(
        self,
        certificate: Path,
        version: Literal["1.2", "1.3"] = "1.3",
        tickets: int | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._command = ["-cert", str(certificate), f"-tls{version.replace('.', '_')}"]
        if tickets is not None:
            self._command += ["-num_tickets", str(tickets)]
        self._command += options
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

    def send_plaintext(self) -> None:
        """A line of text between the TLS records, which the client can't take for one."""
        self._write(b"P")

    def end(self) -> None:
        """Closes the TCP connection without close_notify, and listens no more.

        After the client's close_notify `s_server` sends its own by itself.
        """
        self._write(b"Q")

    def kill(self) -> None:
        """The process dies: TCP ends by FIN, or by RST if it had not read everything."""
        self._process.kill()
        self._process.wait()

    def wait_handshakes(self, count: int) -> None:
        """Until so many TLS handshakes have been completed, over all."""
        self._wait_for(lambda: self.handshakes >= count, f"{count} handshakes")

    def wait_ended(self) -> None:
        """Until the connection is over for the server."""
        self._wait_for(lambda: self._ended, "the end of the connection")

    def _write(self, packet: bytes) -> None:
        # Commands are understood only after the handshake.
        self.wait_handshakes(1)
        self._input.send(packet)

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, TIMEOUT):
                raise AssertionError(f"{what} did not come; s_server said:\n{self._log.decode()}")

    def _start(self) -> None:
        program = _program("openssl")
        if not hasattr(socket, "AF_UNIX") or not hasattr(socket, "SOCK_SEQPACKET"):
            pytest.skip("no packet sockets between processes on this system")
        with contextlib.ExitStack() as childs_ends:
            try:
                self._input, childs_input = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._output, childs_output = socket.socketpair(
                    socket.AF_UNIX, socket.SOCK_SEQPACKET
                )
            except OSError as error:
                pytest.skip(f"no packet sockets between processes on this system: {error}")
            for ours in (self._input, self._output):
                self._cleanup.enter_context(ours)
            for its in (childs_input, childs_output):
                childs_ends.enter_context(its)
            self._input.settimeout(TIMEOUT)
            self._process = subprocess.Popen(
                [program, "s_server", "-accept", f"{LOOPBACK}:0", *self._command],
                stdin=childs_input.fileno(),
                stdout=childs_output.fileno(),
                stderr=childs_output.fileno(),
            )
        reader = threading.Thread(target=self._read_output, daemon=True)
        reader.start()
        self._cleanup.callback(reader.join, TIMEOUT)
        self._cleanup.callback(_end_process, self._process)
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


class _ProgramProxy(_Rig):
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
        deadline = time.monotonic() + timeout
        while text not in self.log:
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} is not in the proxy's log:\n{self.log}")
            time.sleep(0.01)

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def _command(self, directory: Path) -> list[str]:
        raise NotImplementedError

    def _start(self) -> None:
        directory = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self._log_path = directory / "log"
        self.port = _free_port()
        command = self._command(directory)
        with self._log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._cleanup.callback(_end_process, process)
        deadline = time.monotonic() + TIMEOUT
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((LOOPBACK, self.port), 1.0).close()
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{command[0]} did not start:\n{self.log}")
            time.sleep(0.01)


class HttpProxy(_ProgramProxy):
    """tinyproxy, which lets CONNECT through to any port of this machine."""

    scheme = "http"

    def _command(self, directory: Path) -> list[str]:
        lines = [
            f"Port {self.port}",
            f"Listen {LOOPBACK}",
            f"Allow {LOOPBACK}",
            "Timeout 60",
            "LogLevel Connect",
        ]
        if self.user is not None:
            lines.append(f"BasicAuth {self.user} {self.password}")
        configuration = directory / "tinyproxy.conf"
        configuration.write_text("\n".join(lines) + "\n")
        return [_program("tinyproxy"), "-d", "-c", str(configuration)]


class SocksProxy(_ProgramProxy):
    """microsocks: SOCKS5, which resolves names itself if asked to."""

    scheme = "socks5h"

    def _command(self, directory: Path) -> list[str]:
        command = [_program("microsocks"), "-i", LOOPBACK, "-p", str(self.port)]
        if self.user is not None:
            command += ["-u", self.user, "-P", str(self.password)]
        return command


# --- A network with faults ------------------------------------------------------------------------


@dataclass(eq=False)
class ProxiedConnection:
    """One connection through a `TcpProxy`, kept after its end."""

    started: float
    """`time.monotonic()` when it was accepted."""

    up_bytes: int = 0
    """Forwarded from the client to the server."""

    down_bytes: int = 0
    """Forwarded from the server to the client."""

    ended: str | None = None
    """None while it lasts, then who or what ended it."""

    _flows: tuple[_Flow, ...] = field(default=(), repr=False)


@dataclass(eq=False)
class _Flow:
    """One direction of one connection."""

    source: socket.socket
    target: socket.socket
    connection: ProxiedConnection
    down: bool
    waiting: bytearray = field(default_factory=bytearray)
    source_ended: bool = False
    target_told: bool = False
    not_before: float = 0.0


class TcpProxy(_Rig):
    """Forwards bytes between its port and a target; its faults can be had at any time.

    Faults that last (`blackhole`, `pause_*`, `trickle`, `truncate_after`) hold for the connections
    there are and those to come, until `resume`. Each method returns when it has taken effect.
    """

    port: int

    _READ_SIZE = 64 * 1024

    def __init__(self, target_host: str, target_port: int) -> None:
        super().__init__()
        self._target = (target_host, target_port)
        self._connections: list[ProxiedConnection] = []
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._orders: list[Callable[[], None]] = []
        self._orders_lock = threading.Lock()
        self._stopping = False
        self._up_paused = self._down_paused = False
        self._step = self._READ_SIZE
        self._interval = 0.0
        self._allowance: int | None = None

    def url(self, scheme: str = "ws", path: str = "/") -> str:
        return f"{scheme}://{LOOPBACK}:{self.port}{path}"

    @property
    def connections(self) -> list[ProxiedConnection]:
        """All there were, the oldest first; what they count is exact at this moment."""
        return self._order(lambda: list(self._connections))

    @property
    def open_connections(self) -> int:
        return sum(connection.ended is None for connection in self.connections)

    @property
    def up_bytes(self) -> int:
        return sum(connection.up_bytes for connection in self.connections)

    @property
    def down_bytes(self) -> int:
        return sum(connection.down_bytes for connection in self.connections)

    def blackhole(self) -> None:
        """Nothing passes in either direction, ends of connections included; sockets stay open."""
        self._order(lambda: self._pause(up=True, down=True))

    def stop_reading_client(self) -> None:
        """What the client sends is left in its socket's buffer, then in the client's own."""
        self._order(lambda: self._pause(up=True))

    def pause_downstream(self) -> None:
        """The client gets nothing, while what it sends arrives."""
        self._order(lambda: self._pause(down=True))

    def trickle(self, bytes_per_step: int = 1, interval: float = 0.0) -> None:
        """What goes to the client goes in pieces, `interval` seconds apart."""

        def slow_down() -> None:
            self._step, self._interval = bytes_per_step, interval

        self._order(slow_down)

    def truncate_after(self, size: int) -> None:
        """After `size` more bytes to the client, over all, every connection is closed."""

        def limit() -> None:
            self._allowance = size

        self._order(limit)

    def resume(self) -> None:
        """No fault is left; what was held back goes on."""
        self._order(self._forget_faults)

    def reset(self) -> None:
        """RST to both sides of every connection."""
        self._order(lambda: self._end_all("reset", abruptly=True))

    def close(self) -> None:
        """FIN to both sides of every connection."""
        self._order(lambda: self._end_all("closed"))

    def refuse(self) -> None:
        """New connections are refused; those there are go on."""
        self._order(self._stop_listening)

    def accept_again(self) -> None:
        self._order(self._listen)

    # What follows runs on the proxy's one thread, so its state needs no lock.

    def _start(self) -> None:
        self.port = 0
        self._listen()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._cleanup.callback(self._stop)

    def _stop(self) -> None:
        def leave() -> None:
            self._stop_listening()
            self._end_all("closed")
            self._stopping = True

        self._order(leave)
        self._thread.join(TIMEOUT)
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _order(self, action: Callable[[], T]) -> T:
        if self._stopping:
            return action()
        done: Future[T] = Future()

        def act() -> None:
            try:
                done.set_result(action())
            except Exception as error:
                done.set_exception(error)

        with self._orders_lock:
            self._orders.append(act)
        # A full buffer means that it will wake anyway.
        with contextlib.suppress(BlockingIOError):
            self._wake_writer.send(b"\0")
        return done.result(TIMEOUT)

    def _forget_faults(self) -> None:
        self._up_paused = self._down_paused = False
        self._step = self._READ_SIZE
        self._interval = 0.0
        self._allowance = None

    def _pause(self, up: bool = False, down: bool = False) -> None:
        self._up_paused = self._up_paused or up
        self._down_paused = self._down_paused or down

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((LOOPBACK, self.port), backlog=128)
            self._listener.setblocking(False)
            self.port = self._listener.getsockname()[1]
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _live(self) -> list[_Flow]:
        return [flow for connection in self._connections for flow in connection._flows]

    def _run(self) -> None:
        while not self._stopping:
            ready = {key.fileobj: mask for key, mask in self._selector.select(self._arrange())}
            if self._wake_reader in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_reader.recv(4096)
                with self._orders_lock:
                    orders, self._orders = self._orders, []
                for order in orders:
                    order()
            if self._listener is not None and self._listener in ready:
                self._accept(self._listener)
            for flow in self._live():
                self._forward(
                    flow,
                    bool(ready.get(flow.source, 0) & selectors.EVENT_READ),
                    bool(ready.get(flow.target, 0) & selectors.EVENT_WRITE),
                )

    def _arrange(self) -> float | None:
        """Registers what each socket is waited for; returns the seconds to the next timed step."""
        wanted: dict[socket.socket, int] = {}
        next_step: float | None = None
        now = time.monotonic()
        for flow in self._live():
            wanted.setdefault(flow.source, 0)
            if self._down_paused if flow.down else self._up_paused:
                continue
            if not flow.waiting and not flow.source_ended:
                wanted[flow.source] |= selectors.EVENT_READ
            elif flow.waiting and flow.not_before > now:
                step = flow.not_before - now
                next_step = step if next_step is None else min(step, next_step)
            elif flow.waiting:
                wanted[flow.target] = wanted.get(flow.target, 0) | selectors.EVENT_WRITE
        for sock, mask in wanted.items():
            registered = self._selector.get_map().get(sock)
            if registered is not None and not mask:
                self._selector.unregister(sock)
            elif registered is None and mask:
                self._selector.register(sock, mask)
            elif registered is not None and registered.events != mask:
                self._selector.modify(sock, mask)
        return next_step

    def _accept(self, listener: socket.socket) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        connection = ProxiedConnection(started=time.monotonic())
        self._connections.append(connection)
        try:
            server = socket.create_connection(self._target, TIMEOUT)
        except OSError as error:
            connection.ended = f"the server can't be reached: {error}"
            _close(client, abruptly=True)
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection._flows = (
            _Flow(client, server, connection, down=False),
            _Flow(server, client, connection, down=True),
        )

    def _forward(self, flow: _Flow, readable: bool, writable: bool) -> None:
        connection = flow.connection
        # An order or another flow may have changed everything since the wait began.
        paused = self._down_paused if flow.down else self._up_paused
        if connection.ended is not None or paused:
            return
        try:
            if readable and not flow.waiting and not flow.source_ended:
                data = flow.source.recv(self._READ_SIZE)
                flow.source_ended = not data
                flow.waiting += data
                writable = True
            if writable and flow.waiting and time.monotonic() >= flow.not_before:
                self._write(flow)
        except BlockingIOError:
            return
        except OSError as error:
            side = "server" if flow.down else "client"
            self._end(connection, f"by the {side}: {error}", abruptly=True)
            return
        if flow.source_ended and not flow.waiting and not flow.target_told:
            flow.target_told = True
            with contextlib.suppress(OSError):
                flow.target.shutdown(socket.SHUT_WR)
            if all(other.target_told for other in connection._flows):
                self._end(connection, "by the client" if flow.down else "by the server")

    def _write(self, flow: _Flow) -> None:
        size = len(flow.waiting)
        if flow.down:
            size = min(size, self._step)
            if self._allowance is not None:
                size = min(size, self._allowance)
        sent = flow.target.send(flow.waiting[:size]) if size else 0
        del flow.waiting[:sent]
        if not flow.down:
            flow.connection.up_bytes += sent
            return
        flow.connection.down_bytes += sent
        if self._interval:
            flow.not_before = time.monotonic() + self._interval
        if self._allowance is not None:
            self._allowance -= sent
            if self._allowance <= 0:
                self._allowance = None
                self._end_all("truncated")

    def _end_all(self, how: str, abruptly: bool = False) -> None:
        for connection in self._connections:
            if connection.ended is None:
                self._end(connection, how, abruptly)

    def _end(self, connection: ProxiedConnection, how: str, abruptly: bool = False) -> None:
        for flow in connection._flows:
            if self._selector.get_map().get(flow.source) is not None:
                self._selector.unregister(flow.source)
            _close(flow.source, abruptly)
        connection._flows = ()
        connection.ended = how


def _close(sock: socket.socket, abruptly: bool) -> None:
    if abruptly:
        # To linger for no time is to send RST.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        # With unread data in its buffer a close would send RST, where FIN was wanted.
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
    sock.close()
