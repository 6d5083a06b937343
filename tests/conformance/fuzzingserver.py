"""The Autobahn fuzzing server: installed once into a cache, started for a test, its reports read.

`wstest` runs under CPython 2.7 only, so it lives in a virtual environment of its own, made with the
last virtualenv that knows 2.7. Everything it needs comes from PyPI; two of its parts are compiled
(wsaccel, zope.interface where no wheel fits), for which a C compiler must be there.

The cache is `$FASTPOS_AUTOBAHN_CACHE`, or `fastpos-autobahn` in `$XDG_CACHE_HOME` or `~/.cache`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.rig import LOOPBACK, Rig, end_process, free_port

__all__ = ["CaseResult", "FuzzingServer", "NotAvailable", "install", "read_reports"]

# The last virtualenv that makes 2.7 environments, and the suite's first release that names all its
# old dependencies itself; no pin of ours is needed beyond these.
VIRTUALENV = "virtualenv>=20.17,<20.22"
AUTOBAHN = "autobahntestsuite==25.10.1"

# Compression is not negotiated by the client under test.
COMPRESSION_CASES = ("12.*", "13.*")


class NotAvailable(Exception):
    """The fuzzing server can't be had on this machine; the message says why.

    That is for want of a CPython 2.7 only: an installation that fails is a RuntimeError, so that it
    can't pass for a reason to skip.
    """


@dataclass(frozen=True)
class CaseResult:
    """What the server thought of one case: of the messages, and of how the connection ended."""

    case: str
    behavior: str
    behavior_close: str

    @property
    def failed(self) -> bool:
        return self.behavior in ("FAILED", "UNIMPLEMENTED")

    @property
    def unclean(self) -> bool:
        return self.behavior_close in ("FAILED", "UNCLEAN", "WRONG CODE")


def find_python27() -> Path:
    """The CPython 2.7 to use; a pyenv shim is not taken at its word but run."""
    pyenv_root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates: list[str | None] = [
        os.environ.get("FASTPOS_PYTHON27"),
        *sorted(map(str, pyenv_root.glob("versions/2.7*/bin/python2.7")), reverse=True),
        shutil.which("python2.7"),
    ]
    probe = "import sys; sys.stdout.write('%d.%d %s' % (sys.version_info[:2] + (sys.executable,)))"
    for candidate in filter(None, candidates):
        try:
            done = subprocess.run(
                [candidate, "-c", probe], capture_output=True, text=True, timeout=30, check=True
            )
        except (OSError, subprocess.SubprocessError):
            continue
        version, _, executable = done.stdout.partition(" ")
        if version == "2.7":
            return Path(executable)
    raise NotAvailable(
        "no CPython 2.7 found (looked at $FASTPOS_PYTHON27, pyenv's versions and the PATH)"
    )


def cache_directory() -> Path:
    own = os.environ.get("FASTPOS_AUTOBAHN_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastpos-autobahn"


def install() -> Path:
    """The interpreter of an environment that has `wstest`; made the first time, then found."""
    python27 = find_python27()
    cache = cache_directory()
    environment = cache / "wstest"
    interpreter = environment / "bin" / "python"
    marker = environment / "complete"
    made_of = f"{python27}\n{VIRTUALENV}\n{AUTOBAHN}\n"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        # The marker is written last, so an interrupted installation is made again.
        if not marker.exists() or marker.read_text() != made_of:
            tools = cache / "tools"
            shutil.rmtree(environment, ignore_errors=True)
            shutil.rmtree(tools, ignore_errors=True)
            _run(sys.executable, "-m", "venv", tools)
            _run(tools / "bin" / "python", "-m", "pip", "install", "-q", VIRTUALENV)
            _run(tools / "bin" / "virtualenv", "-q", "-p", python27, environment)
            _run(interpreter, "-m", "pip", "install", "-q", AUTOBAHN)
            _run(interpreter, interpreter.with_name("wstest"), "--autobahnversion")
            marker.write_text(made_of)
    return interpreter


def _run(*command: str | Path) -> None:
    # PYTHONPATH and PYTHONHOME are meant for the Python that runs the tests.
    surroundings = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
    }
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=900,
            env=surroundings,
        )
    except subprocess.CalledProcessError as error:
        last_lines = "\n".join(str(error.stdout).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{last_lines}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{' '.join(map(str, command))}: {error}") from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes, where the system has it: two test runs share one cache."""
    try:
        import fcntl  # noqa: PLC0415 -- not on every system
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_reports(outdir: Path, agent: str) -> dict[str, CaseResult]:
    """The results of one agent by case; there are none before it asked for `/updateReports`."""
    with (outdir / "index.json").open(encoding="utf-8") as file:
        agents = json.load(file)
    return {
        case: CaseResult(case, entry["behavior"], entry["behaviorClose"])
        for case, entry in agents.get(agent, {}).items()
    }


class FuzzingServer(Rig):
    """`wstest -m fuzzingserver` on a free loopback port; its reports go to `outdir`."""

    url: str
    """Where the server listens, without a path."""

    def __init__(self, outdir: Path) -> None:
        super().__init__()
        self.outdir = outdir

    def reports(self, agent: str) -> dict[str, CaseResult]:
        return read_reports(self.outdir, agent)

    def log(self) -> str:
        """What the server printed so far."""
        return (self.outdir / "wstest.log").read_text(errors="replace")

    def _start(self) -> None:
        interpreter = install()
        # A free port may be taken by another program before wstest binds it, hence the attempts.
        for attempt in range(3):
            port = free_port()
            self.url = f"ws://{LOOPBACK}:{port}"
            spec = {
                "url": self.url,
                "outdir": str(self.outdir.resolve()),
                "cases": ["*"],
                "exclude-cases": COMPRESSION_CASES,
                "exclude-agent-cases": {},
            }
            spec_file = self.outdir / "fuzzingserver.json"
            spec_file.write_text(json.dumps(spec, indent=2))
            wstest = (interpreter, "-u", interpreter.with_name("wstest"))
            arguments = ("-m", "fuzzingserver", "-s", spec_file.resolve(), "-u", "0")
            with (self.outdir / "wstest.log").open("wb") as log:
                process = subprocess.Popen(
                    [*wstest, *arguments],
                    cwd=self.outdir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            self._cleanup.callback(end_process, process)
            if _accepts(process, port):
                return
            if process.poll() is None or attempt == 2:
                raise RuntimeError(f"the fuzzing server did not start:\n{self.log()[-2000:]}")


def _accepts(process: subprocess.Popen[bytes], port: int, timeout: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1.0):
            # It may be another program's port; ours has then failed to bind it and ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            return process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    return False
