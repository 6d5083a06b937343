"""What `import fastpos` costs beside its dependencies: `python -m tests.import_time [PAIRS]`.

Two fresh interpreters by turns: one imports what fastpos needs of its three dependencies, the other
fastpos. What counts is the CPU time of the import alone, and the median over the pairs of the one
divided by the other. Exit status 1 if that is over 1.10.

Nothing else is there to make the dependencies look expensive: no site-packages hook has imported
anything before, and python-socks, which websocket-client imports where it is installed, is hidden.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 1.10
PAIRS = 100

DEPENDENCIES = "import websocket, isal.isal_zlib, orjson"
LIBRARY = "import fastpos"

_PROGRAM = """
import sys
sys.path += {path}
sys.modules["python_socks"] = None
from time import process_time_ns
began = process_time_ns()
{statement}
print(process_time_ns() - began)
"""


def cpu_ms(statement: str, cache: str) -> float:
    """The CPU time of `statement` in a fresh interpreter, ms; byte code is kept in `cache`."""
    path = [str(Path(__file__).resolve().parent.parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _PROGRAM.format(path=path, statement=statement)],
        env={**os.environ, "PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout) / 1e6


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    measured = []
    with tempfile.TemporaryDirectory() as cache:
        for statement in (DEPENDENCIES, LIBRARY):  # compiles everything
            cpu_ms(statement, cache)
        for number in range(pairs):
            # Each goes first in every other pair.
            order = (DEPENDENCIES, LIBRARY) if number % 2 else (LIBRARY, DEPENDENCIES)
            took = {statement: cpu_ms(statement, cache) for statement in order}
            measured.append((took[DEPENDENCIES], took[LIBRARY]))
    ratio = statistics.median(library / alone for alone, library in measured)
    alone, library = (statistics.median(times) for times in zip(*measured, strict=True))
    print(f"{DEPENDENCIES}: {alone:.1f} ms of CPU time")
    print(f"{LIBRARY}: {library:.1f} ms, {ratio:.2f} times as much (median of {pairs} pairs)")
    return int(ratio > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
