"""The process of a user: one peer, and whatever else such a program does.

    python -m benchmarks.client PEER URL [AUTHORITY.pem]

Commands, one JSON object a line (see `worker`):

* `{"do": "open", "key": …}` opens one more stream with that API key, `{"do": "close"}` all;
* `{"do": "expect", "calls": n}` answers twice: at once, and when `on_push` was called n times,
  with the time of every call. The n-th call belongs to the n-th frame, for TCP keeps the
  order: no frame needs a number, and all can be the exchange's own;
* `{"do": "open_many", "keys": [key, …]}` opens one with each key, all at once, and answers the
  seconds until the last was subscribed; those are not heard of in `expect`, but
  `{"do": "called", "calls": n}` answers when each of them was called n times, with the times of
  each, and with the CPU seconds that the process had used by then;
* `{"do": "busy", "on": bool}` starts or ends a thread that computes in plain Python;
* `{"do": "cpu"}` answers the CPU seconds that the process has used, `{"do": "memory"}` its
  resident bytes, and those that Python allocated if PYTHONTRACEMALLOC is set, `{"do": "threads"}`
  how many there are.
"""

import faulthandler
import gc
import os
import ssl
import sys
import threading
import time
import tracemalloc
from typing import Any, cast

from benchmarks import worker
from benchmarks.peers import PEERS, Factory, OneOfMany, Peer, Target
from benchmarks.spec import Unavailable

__all__: list[str] = []

_TIME_LIMIT = 45.0
_LOOK_AGAIN = 0.01  # seconds between two looks at whether all were called


class _Recorder:
    """Stamps every call."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.expected = 0
        self.done = threading.Event()

    def on_push(self, _push: object) -> None:
        times = self.times
        times.append(time.monotonic_ns())
        if len(times) == self.expected:
            self.done.set()

    def expect(self, calls: int) -> None:
        self.times = []
        self.expected = calls
        self.done.clear()


class _Stamps:
    """Stamps the calls of one of many."""

    __slots__ = ("times",)

    def __init__(self) -> None:
        self.times: list[int] = []

    def on_push(self, _push: object) -> None:
        self.times.append(time.monotonic_ns())


class _Busy(threading.Thread):
    """A host that computes: it holds the GIL for as long as the interpreter lets it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = False

    def run(self) -> None:
        while not self.ended:
            sum(number * number for number in range(1000))


class _Program:
    def __init__(self, control: worker.Control, peer: Factory, url: str, authority: str | None):
        self._control = control
        self._factory = peer
        self._url = url
        self._context = ssl.create_default_context(cafile=authority) if authority else None
        self._recorder = _Recorder()
        self._open: list[Peer] = []
        self._stamps: list[_Stamps] = []  # of the many, in the order in which they were opened
        self._busy: _Busy | None = None

    def run(self) -> None:
        for command in self._control:
            try:
                answer = getattr(self, "_do_" + command.pop("do"))(**command)
            except Exception as error:
                answer = {"error": repr(error)}
            self._control.say(**answer)

    def _do_open(self, key: str) -> dict[str, Any]:
        peer = self._factory(Target(self._url, key, self._context), self._recorder.on_push)
        self._open.append(peer)
        peer.start()
        return {}

    def _do_open_many(self, keys: list[str]) -> dict[str, Any]:
        stamps = [_Stamps() for _ in keys]
        began = time.monotonic()
        peers = [
            cast(OneOfMany, self._factory(Target(self._url, key, self._context), each.on_push))
            for key, each in zip(keys, stamps, strict=True)
        ]
        self._open += peers
        self._stamps += stamps
        for peer in peers:
            peer.begin()
        for peer in peers:
            peer.wait_ready(max(began + _TIME_LIMIT - time.monotonic(), 0.0))
        return {"seconds": time.monotonic() - began}

    def _do_called(self, calls: int) -> dict[str, Any]:
        deadline = time.monotonic() + _TIME_LIMIT
        while any(len(each.times) < calls for each in self._stamps):
            if time.monotonic() > deadline:
                arrived = sum(len(each.times) for each in self._stamps)
                return {"error": f"{arrived} of {calls * len(self._stamps)} pushes arrived"}
            time.sleep(_LOOK_AGAIN)
        cpu = time.process_time()
        called = []
        for each in self._stamps:
            called.append(each.times)
            each.times = []
        return {"called": called, "cpu": cpu}

    def _do_close(self) -> dict[str, Any]:
        while self._open:
            self._open.pop().stop()
        return {}

    def _do_expect(self, calls: int, ends_only: bool = False) -> dict[str, Any]:
        recorder = self._recorder
        recorder.expect(calls)
        self._control.say(ready=True)
        if not recorder.done.wait(_TIME_LIMIT):
            faulthandler.dump_traceback()  # where each thread stands
            return {"error": f"{len(recorder.times)} of {calls} pushes arrived"}
        times = recorder.times
        return {"called": [times[0], times[-1]] if ends_only else times}

    def _do_busy(self, on: bool) -> dict[str, Any]:
        if self._busy is not None:
            self._busy.ended = True
            self._busy.join()
            self._busy = None
        if on:
            self._busy = _Busy()
            self._busy.start()
        return {}

    def _do_cpu(self) -> dict[str, Any]:
        return {"seconds": time.process_time()}

    def _do_threads(self) -> dict[str, Any]:
        return {"threads": _threads()}

    def _do_memory(self) -> dict[str, Any]:
        gc.collect()
        return {"resident": worker.resident(), "traced": tracemalloc.get_traced_memory()[0]}


def _threads() -> int:
    """How many the system sees; those of Python where it has no /proc."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def main(name: str, url: str, authority: str | None = None) -> None:
    control = worker.Control()
    try:
        factory = PEERS[name].load()
    except Unavailable as reason:
        control.say(missing=str(reason))
        return
    control.say(ready=True, descriptors=worker.allow_descriptors())
    _Program(control, factory, url, authority).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
