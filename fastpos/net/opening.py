"""From a URL to an upgraded connection: TCP, a proxy if there is one, TLS, the HTTP upgrade.

The upgrade itself is websocket-client's, SOCKS is python-socks's. Neither limits how long the
whole may take or how much a peer may send, so both see the socket through `Guarded`, which does:
one deadline and one limit for everything from the first byte to the last of the HTTP answer.
"""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import AuthenticationError, ConnectionFailed
from .tls import TlsTransport
from .transport import Transport

__all__ = [
    "Address",
    "Guarded",
    "connect_tcp",
    "open_transport",
    "open_tunnel",
    "parse_proxy",
    "parse_url",
    "start_tls",
]

# All that a server (or proxy) may send before the connection is up, bytes.
MAX_HANDSHAKE = 64 * 1024
# How much of what a server says is put into a message, characters.
SHOWN = 200
# A server may ask for so much time until the next attempt, seconds; not every platform's waits
# can be longer than some weeks.
MAX_RETRY_AFTER = 24 * 3600.0

_DEFAULT_PORTS = {"ws": 80, "wss": 443, "http": 80, "socks5": 1080, "socks5h": 1080}


class Address(NamedTuple):
    """Where to connect to. The user and password of a proxy are not shown by repr()."""

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{self.scheme}://{self.host_port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine, so that nobody can listen in."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def host_port(self) -> str:
        """Host and port as in an HTTP Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """Give the address of a WebSocket URL (RFC 6455, section 3); raises TypeError, ValueError."""
    parts = _split(url, "url", ("ws", "wss"))
    if parts.username is not None or parts.password is not None:
        raise ValueError("url must not hold a user or password")
    if parts.fragment:
        raise ValueError("url must not have a fragment (#...)")
    return _address(parts, "url")


def parse_proxy(url: str) -> Address:
    """Give the address of a proxy's URL; raises TypeError, ValueError."""
    return _address(_split(url, "proxy", ("http", "socks5", "socks5h")), "proxy")


def _split(url: object, name: str, schemes: tuple[str, ...]) -> SplitResult:
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a str, not {type(url).__name__}")
    if not url.isprintable() or " " in url:
        raise ValueError(f"{name} must not contain white space or control characters")
    try:
        parts = urlsplit(url)
    except ValueError:  # whose message may hold a password
        raise ValueError(f"{name} is no URL: its host is malformed") from None
    if parts.scheme not in schemes:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"{name} must begin with {wanted}, not {parts.scheme or 'nothing'!r}")
    return parts


def _address(parts: SplitResult, name: str) -> Address:
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{name} has a port that is no port number") from None
    if not parts.hostname:
        raise ValueError(f"{name} has no host")
    return Address(
        parts.scheme,
        parts.hostname,
        _DEFAULT_PORTS[parts.scheme] if port is None else port,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )


def open_transport(
    url: str,
    headers: Mapping[str, str],
    *,
    timeout: float,
    context: ssl.SSLContext | None,
    proxy: Address | None,
    adopt: Callable[[Transport], None],
    hide: Callable[[str], str],
) -> Transport:
    """Open a connection up to and including the HTTP upgrade.

    Args:
        url: a WebSocket URL.
        headers: to be sent with the upgrade.
        timeout: seconds for everything together.
        context: TLS settings for wss.
        proxy: to go through, or None.
        adopt: is shown each transport before it waits for anything, so that another thread can
            shut it down; raises if it is too late already.
        hide: takes credentials out of what a server said.

    Raises:
        AuthenticationError: the upgrade was answered with HTTP 401 or 403.
        ConnectionFailed: it did not work out; the message says where it ended.
    """
    deadline = monotonic() + timeout
    target = parse_url(url)
    if proxy is not None:
        hide = _hiding_login(proxy, hide)
    transport = connect_tcp(proxy or target, deadline, adopt)
    try:
        if proxy is not None:
            open_tunnel(Guarded(transport, deadline, f"proxy {proxy}"), proxy, target, hide)
        if target.scheme == "wss":
            assert context is not None
            transport = start_tls(transport, context, target, deadline, adopt)
        _upgrade(_Answer(transport, deadline, str(target)), url, headers, hide)
    except OSError as error:
        transport.close()
        raise ConnectionFailed(f"{target}: {error}") from error
    except BaseException:
        transport.close()
        raise
    return transport


# --- TCP ----------------------------------------------------------------------------------------


def connect_tcp(address: Address, deadline: float, adopt: Callable[[Transport], None]) -> Transport:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectionFailed(f"{address}: the host name cannot be resolved: {error}") from error
    failure: OSError = TimeoutError("timed out")
    for number, (family, kind, protocol, _, place) in enumerate(found):
        # An address that does not answer must leave time for the ones after it.
        share = (deadline - monotonic()) / (len(found) - number)
        try:
            transport = Transport(socket.socket(family, kind, protocol))
        except OSError as error:
            failure = error
            continue
        try:
            adopt(transport)
            transport.connect(place, monotonic() + share)
        except OSError as error:
            transport.close()
            failure = error
        except BaseException:
            transport.close()
            raise
        else:
            return transport
    raise ConnectionFailed(f"{address}: cannot connect: {failure}") from failure


# --- TLS ----------------------------------------------------------------------------------------


def start_tls(
    transport: Transport,
    context: ssl.SSLContext,
    target: Address,
    deadline: float,
    adopt: Callable[[Transport], None],
) -> Transport:
    try:
        tls = TlsTransport(transport.detach(), context, target.host)
    except ValueError as error:  # the name can't be in a certificate
        raise ConnectionFailed(f"{target}: the TLS handshake failed: {error}") from error
    try:
        adopt(tls)
        tls.handshake(deadline)
    except ssl.SSLCertVerificationError as error:
        tls.close()
        raise ConnectionFailed(
            f"{target}: the server's certificate is not accepted: {error.verify_message}"
        ) from error
    except (OSError, EOFError) as error:
        tls.close()
        raise ConnectionFailed(f"{target}: the TLS handshake failed: {error}") from error
    except BaseException:
        tls.close()
        raise
    return tls


# --- what others see of the socket meanwhile ----------------------------------------------------


class Guarded:
    """A transport as a socket, with a deadline and a limit on what is received."""

    def __init__(self, transport: Transport, deadline: float, peer: str) -> None:
        self._transport = transport
        self._deadline = deadline
        self.peer = peer
        self._left = MAX_HANDSHAKE

    def recv(self, size: int) -> bytes:
        buffer = bytearray(min(size, self._left))
        if not buffer:
            raise ConnectionFailed(
                f"{self.peer}: an answer of over {MAX_HANDSHAKE // 1024} KiB to the handshake"
            )
        count = 0
        while not count:
            remaining = self._deadline - monotonic()
            if remaining <= 0 or not self._transport.wait(remaining):
                raise ConnectionFailed(f"{self.peer}: no whole answer to the handshake in time")
            try:
                count = self._transport.read_into(memoryview(buffer))
            except EOFError:
                raise ConnectionFailed(
                    f"{self.peer}: closed the connection during the handshake"
                ) from None
        self._left -= count
        return bytes(buffer[:count])

    def send(self, data: bytes) -> int:
        self._transport.send(data, max(self._deadline - monotonic(), 0.001))
        return len(data)

    sendall = send

    def gettimeout(self) -> float:
        return max(self._deadline - monotonic(), 0.001)

    def settimeout(self, timeout: float | None) -> None:
        """The deadline is what counts."""

    def close(self) -> None:
        """The transport is closed by whoever opened it."""


# --- proxies ------------------------------------------------------------------------------------


def open_tunnel(
    guarded: Guarded, proxy: Address, target: Address, hide: Callable[[str], str] = str
) -> None:
    if proxy.scheme == "http":
        _http_tunnel(guarded, proxy, target, _hiding_login(proxy, hide))
    else:
        _socks_tunnel(guarded, proxy, target)


def _login(proxy: Address) -> str:
    """User and password as HTTP sends them (RFC 7617)."""
    return base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()


def _hiding_login(proxy: Address, hide: Callable[[str], str]) -> Callable[[str], str]:
    """Have `hide` take the proxy's login out too: a proxy may repeat what it was sent."""
    if not proxy.password:
        return hide
    secrets = (_login(proxy), proxy.password)

    def hide_both(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, "***")
        return hide(text)

    return hide_both


def _http_tunnel(
    guarded: Guarded, proxy: Address, target: Address, hide: Callable[[str], str]
) -> None:
    """CONNECT (RFC 9110, section 9.3.6). websocket-client's own reads on without a limit."""
    lines = [f"CONNECT {target.host_port} HTTP/1.1", f"Host: {target.host_port}"]
    if proxy.user is not None:
        lines.append(f"Proxy-Authorization: Basic {_login(proxy)}")
    guarded.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):
        answer += guarded.recv(1)  # what follows belongs to the next layer
    status = bytes(answer).split(b"\r\n", 1)[0].split(b" ", 2)[1:]
    if not status or not status[0].startswith(b"2"):
        said = hide(b" ".join(status).decode("ascii", "replace"))
        raise ConnectionFailed(
            f"proxy {proxy}: refuses to connect to {target.host_port}: {said[:SHOWN]!r}"
        )


def _socks_tunnel(guarded: Guarded, proxy: Address, target: Address) -> None:
    """SOCKS5 (RFC 1928)."""
    try:
        from python_socks import ProxyError, ProxyType  # noqa: PLC0415
        from python_socks.sync import Proxy  # noqa: PLC0415
    except ImportError:
        raise ConnectionFailed(
            'a SOCKS proxy needs the package python-socks: pip install "fastpos[socks]"'
        ) from None

    class Connected:  # python-socks connects to the proxy through this instead of by itself
        def connect(self, **_: object) -> Guarded:
            return guarded

    socks = Proxy(
        ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        proxy.user,
        proxy.password,
        rdns=proxy.scheme == "socks5h",
        forward=Connected(),  # type: ignore[arg-type]
    )
    try:
        socks.connect(target.host, target.port, timeout=guarded.gettimeout())
    except (ProxyError, OSError, ValueError) as error:
        raise ConnectionFailed(
            f"proxy {proxy}: cannot connect to {target.host_port}: {error}"
        ) from error


# --- the upgrade --------------------------------------------------------------------------------


class _Answer(Guarded):
    """The HTTP answer, without two of its headers on which websocket-client acts.

    For a Content-Length it reads the body of a refusal, whatever length is announced, and cookies
    it keeps for all connections of the process.
    """

    _line = b""

    def recv(self, size: int) -> bytes:
        while not self._line:
            line = b""
            while not line.endswith(b"\n"):
                line += super().recv(1)  # what follows the answer is no longer HTTP
            name = line.partition(b":")[0].strip().lower()
            if name not in (b"content-length", b"set-cookie"):
                self._line = line
        data, self._line = self._line[:size], self._line[size:]
        return data


def _upgrade(
    answered: _Answer, url: str, headers: Mapping[str, str], hide: Callable[[str], str]
) -> None:
    # Imported with the first start, as it takes longer than all of this package.
    import websocket  # noqa: PLC0415

    peer = answered.peer
    client: Any = websocket.WebSocket(enable_multithread=False)
    try:
        client.connect(
            url,
            socket=answered,
            header=[f"{name}: {value}" for name, value in headers.items()],
            redirect_limit=0,
        )
    except websocket.WebSocketBadStatusException as error:
        raise _refusal(peer, error.status_code, error.resp_headers or {}, hide) from None
    except (websocket.WebSocketException, ValueError) as error:
        if client.handshake_response is None:
            said = hide(str(error))[:SHOWN]
            raise ConnectionFailed(f"{peer}: not a WebSocket server's answer: {said}") from None
    answer = client.handshake_response
    assert answer is not None
    if answer.status != 101:
        raise _refusal(peer, answer.status, answer.headers, hide)
    for header in ("sec-websocket-extensions", "sec-websocket-protocol"):
        if answer.headers.get(header):
            raise ConnectionFailed(f"{peer}: answers with {header}, of which nothing was offered")


def _refusal(
    peer: str, status: int | None, headers: Mapping[str, str], hide: Callable[[str], str]
) -> Exception:
    if status is None:
        return ConnectionFailed(f"{peer}: not a WebSocket server's answer: no status")
    if status in (401, 403):
        return AuthenticationError(f"{peer}: the credential is refused: HTTP {status}")
    if 300 <= status < 400:
        where = hide(headers.get("location", "nowhere"))[:SHOWN]
        return ConnectionFailed(
            f"{peer}: redirects to {where!r}, which is not followed: "
            "the credential is for this host only",
            status,
        )
    return ConnectionFailed(
        f"{peer}: the upgrade is refused: HTTP {status}",
        status,
        _seconds(headers.get("retry-after")),
    )


def _seconds(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, section 10.2.3), None if unclear."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        seconds = float(retry_after)
    else:
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 -- large, and rarely needed

        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
