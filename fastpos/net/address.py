"""Where to connect to: URLs of WebSocket servers and of proxies, taken apart and checked."""

# Annotations are evaluated here: NamedTuple would compile each of them from its text.

import ipaddress
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Address", "Source", "SourceAddress", "parse_proxy", "parse_source", "parse_url"]

SourceAddress = str | tuple[str, int]

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


class Source(NamedTuple):
    """Where to connect from."""

    host: str
    """An IP address."""
    port: int
    """0: the system chooses one."""


def parse_source(value: object) -> Source:
    """Take an IP address, or that and a port; raises TypeError, ValueError."""
    pair = (value, 0) if isinstance(value, str) else value
    if not isinstance(pair, tuple) or [type(each) for each in pair] != [str, int]:
        raise TypeError(
            "source_address must be an IP address as a str, or a tuple of that and a port"
        )
    host, port = pair
    try:
        ipaddress.ip_address(host.partition("%")[0])  # which may be followed by an interface
    except ValueError:
        raise ValueError(f"source_address must be an IP address, not {host!r}") from None
    if not 0 <= port <= 65535:
        raise ValueError(f"source_address has a port that is no port number: {port}")
    return Source(host, port)


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
    parts = None
    with suppress(ValueError):  # whose message may hold a password: it must be no context either
        parts = urlsplit(url)
    if parts is None:
        raise ValueError(f"{name} is no URL: its host is malformed")
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
    if "[" in parts.netloc and not _is_ipv6(parts.hostname):  # CPython 3.10 lets anything pass
        raise ValueError(f"{name} is no URL: its host is malformed")
    return Address(
        parts.scheme,
        parts.hostname,
        _DEFAULT_PORTS[parts.scheme] if port is None else port,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True
