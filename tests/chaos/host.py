"""The host that a stream runs on: its name service and wall clock, which can go wrong, and sleep.

They are this process's own, replaced while a `Host` is entered.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import fastpos.net.upgrade
import fastpos.runtime.driver
import fastpos.runtime.loop  # noqa: F401 -- imported later, these would keep this host's clock
from fastpos import clock
from tests.support.rig import Rig

LOOKED_UP = "localhost"


class Host(Rig):
    """Looks `localhost` up, which a stream does at the start of every attempt to connect.

    One trial at a time enters one. `_lock` guards `_lookups`; what goes wrong is told by single
    attributes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.resolves = True
        """False: the name service answers nothing."""
        self.clock_offset_s: Callable[[], float] = lambda: 0.0
        """How far the wall clock is off, seconds."""
        self.slept_s = 0.0
        """For how long the machine has slept, seconds."""
        self._lock = threading.Lock()
        self._lookups: list[float] = []

    @property
    def lookups(self) -> list[float]:
        """When the name was looked up, well or not (`time.monotonic`)."""
        with self._lock:
            return list(self._lookups)

    def _start(self) -> None:
        look_up, seconds, nanoseconds = socket.getaddrinfo, time.time, time.time_ns
        counting = clock.monotonic

        def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
            if host != LOOKED_UP:
                return look_up(host, *args, **options)
            with self._lock:
                self._lookups.append(time.monotonic())
            if not self.resolves:
                # As getaddrinfo(3) says it when no name server can be reached.
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return look_up("127.0.0.1", *args, **options)

        wrong = {
            seconds: lambda: seconds() + self.clock_offset_s(),
            nanoseconds: lambda: nanoseconds() + int(self.clock_offset_s() * 1e9),
            counting: lambda: counting() + self.slept_s,
        }
        replace = self._cleanup.enter_context
        replace(mock.patch.object(socket, "getaddrinfo", getaddrinfo))
        # Also where a module has it by a name of its own, as the library's have. Python's monotonic
        # clock is not touched, as a host's is not when somebody sets the time, nor by sleep.
        for module in [m for name, m in sys.modules.items() if _is_affected(name)]:
            for name, value in list(vars(module).items()):
                for right, other in wrong.items():
                    if value is right:
                        replace(mock.patch.object(module, name, other))


def _is_affected(module: str) -> bool:
    return module == "time" or module.partition(".")[0] in ("fastpos", "websocket")
