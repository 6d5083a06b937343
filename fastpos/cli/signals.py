"""Signals that a program takes while it runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

__all__ = ["heard"]


@contextmanager
def heard(requests: Mapping[str, Callable[[int], object]]) -> Iterator[None]:
    """Have functions called when signals come, meanwhile.

    They are called on the main thread, between any two steps of what it does: they may only ask, or
    raise KeyboardInterrupt as a Ctrl-C does.

    Args:
        requests: the functions by the signals' names; each is given its signal's number.
    """
    before = {}
    for name, request in requests.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # What a shell runs in its background is not to hear of a Ctrl-C.
        if number is None or (name == "SIGINT" and signal.getsignal(number) is signal.SIG_IGN):
            continue
        before[number] = signal.signal(number, partial(_told, request))
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _told(request: Callable[[int], object], number: int, _: object) -> None:
    request(number)
