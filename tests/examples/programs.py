"""The programs of examples/ as processes of their own, on a simulated exchange."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fastpos.simulator import Exchange
from tests.support.programs import ROOT, read_until, started


def example(
    name: str, exchange: Exchange, where: Path | None = None, **environment: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    """A program while it runs, told by its environment where the exchange is."""
    return started(
        str(ROOT / "examples" / name),
        where=where,
        FASTPOS_URL=exchange.url,
        FASTPOS_BROKER=str(exchange.broker),
        FASTPOS_API_KEY=exchange.api_key,
        **environment,
    )


def end(process: subprocess.Popen[str], exchange: Exchange) -> str:
    """Send a Ctrl-C: the program takes leave of the exchange, complains of nothing, and ends.

    Returns what it still printed.
    """
    if sys.platform == "win32":
        pytest.skip("all went well so far; a Ctrl-C can't be sent there")
    process.send_signal(signal.SIGINT)
    output = read_until(process, "stopped")
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, ""), (process.returncode, errors)
    assert exchange.wait_for("unsub", 5)
    assert exchange.violations == [], exchange.violations
    return output
