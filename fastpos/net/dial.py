"""A TCP connection to a host that may have many addresses, of which some may not answer.

The addresses are tried in the order of the system's resolver, IPv6 and IPv4 by turns. The next is
begun when the one before has failed or has not answered for `ATTEMPT_DELAY`, and those before are
still waited for: the first to connect wins and the others are closed (RFC 8305, section 5). All of
it is one thread, which waits for many sockets at once, and is ended by any `shutdown` of a
transport that it gave to `adopt`.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 -- getaddrinfo needs it, and is called by a thread
import ipaddress
import selectors
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from ..clock import monotonic
from ..errors import ConnectionFailed
from .address import Address, Source
from .transport import Transport, new_selector

__all__ = ["connect_tcp"]

# How long an address may take until the next is tried as well, seconds (RFC 8305, section 8).
ATTEMPT_DELAY = 0.25
# How often it is looked whether the connection is still wanted, seconds: not every platform wakes
# a connect that is shut down.
SHUTDOWN_CHECK = 0.1


_Place = tuple[int, int, int, Any]
"""One of the addresses: its family, kind, protocol and name, as the socket module has them."""


def connect_tcp(
    address: Address,
    deadline: float,
    adopt: Callable[[Transport], None],
    source: Source | None = None,
) -> Transport:
    """Connect to `address`.

    Args:
        address: host and port.
        deadline: until when, `clock.monotonic()`.
        adopt: is given each transport before it connects, and the one that has, so that another
            thread can `shutdown` it; raises an OSError when that has happened already.
        source: where to connect from; None: the system chooses.

    Raises:
        ConnectionFailed: no address could be connected to in time, or it was stopped.
    """
    waiting = deque(_by_turns(_resolve(address, source)))
    try:
        return _race(waiting, deadline, adopt, source)
    except OSError as error:
        raise ConnectionFailed(f"{address}: cannot connect: {error}") from error


def _resolve(address: Address, source: Source | None) -> list[_Place]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectionFailed(f"{address}: the host name cannot be resolved: {error}") from error
    places: list[_Place] = [
        (family, kind, protocol, name) for family, kind, protocol, _, name in found
    ]
    if source is not None:
        family = _family(source)
        places = [place for place in places if place[0] == family]
        if not places:
            raise ConnectionFailed(
                f"{address}: has no address of the kind of source_address, {source.host}"
            ).advising("Give a source_address of the other kind (IPv4 or IPv6), or none.")
    return places


def _family(source: Source) -> int:
    version = ipaddress.ip_address(source.host.partition("%")[0]).version
    return socket.AF_INET6 if version == 6 else socket.AF_INET


def _by_turns(places: list[_Place]) -> list[_Place]:
    """Take one of each family by turns, the first one's first (RFC 8305, section 4)."""
    families: dict[int, deque[_Place]] = {}
    for place in places:
        families.setdefault(place[0], deque()).append(place)
    ordered: list[_Place] = []
    while any(families.values()):
        ordered += [family.popleft() for family in families.values() if family]
    return ordered


def _race(
    waiting: deque[_Place],
    deadline: float,
    adopt: Callable[[Transport], None],
    source: Source | None,
) -> Transport:
    failure = OSError("timed out")
    racing: list[Transport] = []
    next_begin = 0.0
    try:
        while (waiting or racing) and (now := monotonic()) < deadline:
            if racing:  # the one that was shown last may have failed, and been shut down since
                adopt(racing[-1])
            if any(transport.is_shut for transport in racing):
                raise ConnectionAbortedError("stopped")
            if waiting and (not racing or now >= next_begin):
                next_begin = now + ATTEMPT_DELAY
                family, kind, protocol, name = waiting.popleft()
                try:
                    transport = Transport(_new_socket(family, kind, protocol, source))
                except OSError as error:
                    failure, next_begin = error.with_traceback(None), 0.0
                    continue
                racing.append(transport)
                adopt(transport)
                try:
                    transport.begin_connect(name)
                except OSError as error:
                    failure, next_begin = error.with_traceback(None), 0.0
                    racing.remove(transport)
                    transport.close()
                    continue
            until = min(next_begin, deadline) if waiting else deadline
            for transport in _ready(racing, min(max(until - now, 0.0), SHUTDOWN_CHECK)):
                if transport.is_shut:
                    raise ConnectionAbortedError("stopped")
                try:
                    transport.end_connect()
                except OSError as error:
                    failure, next_begin = error.with_traceback(None), 0.0
                    racing.remove(transport)
                    transport.close()
                else:
                    adopt(transport)
                    racing.remove(transport)
                    return transport
        raise TimeoutError("timed out") if racing or waiting else failure
    finally:
        for transport in racing:
            transport.close()


def _new_socket(family: int, kind: int, protocol: int, source: Source | None) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    if source is not None:
        try:
            # Several sockets may be bound to one port, and an earlier connection's is kept by the
            # system for a while. Windows has another meaning for this.
            if source.port and sys.platform != "win32":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((source.host, source.port))
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"source_address {source.host}: {error.strerror}") from None
    return sock


def _ready(racing: list[Transport], timeout: float) -> list[Transport]:
    """Those that have connected or failed; waits for one, at most `timeout` seconds."""
    with new_selector() as selector:
        for transport in racing:
            selector.register(transport, selectors.EVENT_WRITE)
        ready = {key.fileobj for key, _ in selector.select(timeout)}
    return [transport for transport in racing if transport in ready]
