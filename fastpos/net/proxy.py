"""Through a proxy: which one the environment names, and the tunnel that it opens.

An HTTP proxy is asked with CONNECT. SOCKS is python-socks's.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable

from ..errors import ConnectionFailed
from ..printable import printable
from .address import Address, parse_proxy
from .upgrade import Guarded

__all__ = ["hiding_login", "open_tunnel", "proxy_from_environment"]


def proxy_from_environment(target: Address) -> Address | None:
    """Give the proxy that the usual environment variables name for `target`, None for none.

    For wss the first of ``wss_proxy``, ``https_proxy`` and ``all_proxy``, for ws of
    ``ws_proxy``, ``http_proxy`` and ``all_proxy`` that is set, in lower or upper case, unless
    ``no_proxy`` lists the host.

    Raises:
        ValueError: what is set there is no usable URL.
    """
    if not any(value and name.lower().endswith("_proxy") for name, value in os.environ.items()):
        return None
    from urllib import request  # noqa: PLC0415 -- larger than all of this package

    named = request.getproxies_environment()
    if request.proxy_bypass_environment(target.host_port, named):  # type: ignore[attr-defined]
        return None
    for name in ("wss", "https", "all") if target.scheme == "wss" else ("ws", "http", "all"):
        url = named.get(name)
        if url:
            try:
                return parse_proxy(url if "://" in url else f"http://{url}")
            except ValueError as error:
                raise ValueError(f"{name}_proxy in the environment: {error}") from None
    return None


def open_tunnel(
    guarded: Guarded, proxy: Address, target: Address, hide: Callable[[str], str] = str
) -> None:
    if proxy.scheme == "http":
        _http_tunnel(guarded, proxy, target, hiding_login(proxy, hide))
    else:
        _socks_tunnel(guarded, proxy, target)


def _login(proxy: Address) -> str:
    """User and password as HTTP sends them (RFC 7617)."""
    return base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()


def hiding_login(proxy: Address, hide: Callable[[str], str]) -> Callable[[str], str]:
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
        said = printable(hide(b" ".join(status).decode("utf-8", "replace")))
        raise ConnectionFailed(f"proxy {proxy}: refuses to connect to {target.host_port}: '{said}'")


def _socks_tunnel(guarded: Guarded, proxy: Address, target: Address) -> None:
    """SOCKS5 (RFC 1928)."""
    try:
        from python_socks import ProxyError, ProxyType  # noqa: PLC0415
        from python_socks.sync import Proxy  # noqa: PLC0415
    except ImportError:
        raise ConnectionFailed(
            f"proxy {proxy}: a SOCKS proxy needs the package python-socks"
        ).advising(
            'Install it (pip install "fastpos[socks]") and start the program again.'
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
            f"proxy {proxy}: cannot connect to {target.host_port}: {printable(str(error))}"
        ) from error
