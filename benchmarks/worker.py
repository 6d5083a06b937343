"""Processes that do what they are told: JSON lines to their stdin, JSON lines back.

`Worker` is the harness's end, `Control` the process's own. Every answer is awaited with a
time limit: a process that does not answer is killed, and the run ends instead of hanging.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.spec import Unavailable

try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None  # type: ignore[assignment]

__all__ = ["Control", "Worker", "allow_descriptors", "resident"]

_ROOT = Path(__file__).parent.parent
_MANY = 65536  # descriptors; more are never needed, and some systems refuse more


class Worker:
    """`python -m module arguments…`, with `environment` added to this one's; ready to be asked.

    Raises `Unavailable` if the process says that it misses something.
    """

    def __init__(self, module: str, *arguments: str, **environment: str) -> None:
        self._name = " ".join((module, *arguments))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env={**os.environ, **environment},
        )
        try:
            self.hello = self.hear()
            if "missing" in self.hello:
                raise Unavailable(self.hello["missing"])
        except BaseException:
            self.close()
            raise

    def ask(self, **command: Any) -> dict[str, Any]:
        self.tell(**command)
        return self.hear()

    def tell(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, limit: float = 60.0) -> dict[str, Any]:
        """The next answer. Raises `RuntimeError` if there is none within `limit` seconds."""
        assert self._process.stdout is not None
        watchdog = threading.Timer(limit, self._process.kill)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise RuntimeError(f"{self._name} ended, or gave no answer for {limit:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{self._name}: {answer['error']}")
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class Control:
    """The worker's end. Iterating gives the commands, until the harness hangs up."""

    def __init__(self) -> None:
        # What a library prints must not end up among the answers.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in sys.stdin:
            yield json.loads(line)

    def say(self, **answer: Any) -> None:
        self._out.write(json.dumps(answer) + "\n")
        self._out.flush()


def allow_descriptors() -> int:
    """Raises the limit of open files and connections as far as it may be; gives it."""
    if resource is None:
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MANY if hard == resource.RLIM_INFINITY else min(_MANY, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def resident() -> int:
    """Resident bytes now; 0 where the system has no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
