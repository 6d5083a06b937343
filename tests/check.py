"""The checks of a commit, in two minutes: `python -m tests.check [PYTEST'S ARGUMENTS]`.

The linters, the types, and what a plain `pytest` runs, all at once. Arguments are for pytest:
`python -m tests.check tests/wire`.
`.ci/run` runs everything there is. Exit status 1 if something failed, and then its output is shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINTERS = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy", "--strict"]]


def run(command: list[str]) -> tuple[bool, str]:
    """Run a module; whether it went well, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        errors="backslashreplace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode in (0, 5), done.stdout  # 5: pytest found nothing that it should run


def main() -> int:
    began = time.monotonic()
    commands = [*LINTERS, ["pytest", "-q", *sys.argv[1:]]]
    failed = 0
    with ThreadPoolExecutor(len(commands)) as pool:
        for command, (well, output) in zip(commands, pool.map(run, commands), strict=True):
            last = output.strip().rpartition("\n")[2]
            print(f"{' '.join(command[:2]):<13} {last if well else 'FAILED'}", flush=True)
            if not well:
                print(output)
                failed += 1
    print(f"{failed} of {len(commands)} failed, {time.monotonic() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
