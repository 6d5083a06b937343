"""Programs run as a user runs them: fastpos's own command line, and scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fastpos.simulator import Exchange
from tests.support.recording import KEY
from tests.support.servers import ScriptedServer

ROOT = Path(__file__).parent.parent.parent


def _started(
    words: tuple[str, ...], more: dict[str, str], where: Path | None = None
) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTPOS_T")}
    kept.pop("FASTPOS_API_KEY", None)
    script = words and (words[0] in ("-c", "-m") or words[0].endswith(".py"))
    return subprocess.Popen(
        [sys.executable, "-u", *(() if script else ("-m", "fastpos")), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=where,
        env={**kept, "PYTHONPATH": str(ROOT), **more},
    )


def run(
    *words: str, where: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `fastpos` with these words, the script that the first is, or what is after -c or -m."""
    with _started(words, environment, where) as process:
        output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, output, errors)


def said(program: str, *words: str, where: Path | None = None, **environment: str) -> str:
    """What a program prints that has nothing to complain of."""
    done = run("-c", program, *words, where=where, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@contextmanager
def started(
    *words: str, where: Path | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """The same, while it runs; it is killed in the end."""
    process = _started(words, environment, where)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], wanted: str) -> str:
    """Read the output until `wanted` is in it; give what was read."""
    assert process.stdout is not None
    killer = threading.Timer(20.0, process.kill)
    killer.start()
    output = ""
    try:
        for text in process.stdout:
            output += text
            if wanted in text:
                return output
    finally:
        killer.cancel()
    raise AssertionError(f"{wanted!r} did not come; the output was:\n{output}")


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Send a Ctrl-C; give the exit status and what was written to standard error."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


STREAM = """
import atexit, contextlib, faulthandler, os, signal, ssl, sys, threading, time
from fastpos import PositionStream, ReconnectPolicy, Snapshot

url, key, *words = sys.argv[1:]

def new(at=url, **options):
    return PositionStream(at, **{"api_key": key, "broker": 1003, "proxy": "", **options})

def own():
    return [t.name for t in threading.enumerate() if t.name.startswith("fastpos")]
"""


def streaming(
    server: Exchange | ScriptedServer, body: str, *words: str, first: str = ""
) -> AbstractContextManager[subprocess.Popen[str]]:
    """A script while it runs, in which `new` makes streams of `server`; `first` goes before all."""
    key = server.api_key if isinstance(server, Exchange) else KEY
    return started("-c", first + STREAM + textwrap.dedent(body), server.url, key, *words)


def finish(process: subprocess.Popen[str], status: int = 0, timeout: float = 30) -> str:
    """What it still prints until it ends by itself, without complaint."""
    killer = threading.Timer(timeout, process.kill)
    killer.start()
    assert process.stdout is not None
    out = process.stdout.read()  # what was read ahead is there, where communicate() does not look
    _, err = process.communicate()
    killer.cancel()
    assert (process.returncode, err) == (status, "")
    return out
