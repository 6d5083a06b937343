"""The Autobahn fuzzing server: installed once into a cache, started for a test, its reports read.

`wstest` runs under CPython 2.7 only, so it lives in a virtual environment of its own, made with the
last virtualenv that knows 2.7. Everything it needs comes from PyPI; two of its parts are compiled
(wsaccel, zope.interface where no wheel fits), for which a C compiler must be there.

The cache is `$FASTPOS_AUTOBAHN_CACHE`, or `fastpos-autobahn` in `$XDG_CACHE_HOME` or `~/.cache`.
`python -m tests.conformance.fuzzingserver` installs and serves until it is interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

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
    duration_ms: int
    remote_close_code: int | None

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
        case: CaseResult(
            case=case,
            behavior=entry["behavior"],
            behavior_close=entry["behaviorClose"],
            duration_ms=entry["duration"],
            remote_close_code=entry["remoteCloseCode"],
        )
        for case, entry in agents.get(agent, {}).items()
    }


class FuzzingServer:
    """`wstest -m fuzzingserver` on a free loopback port, for as long as the `with` block lasts.

    `cases` and `exclude` are lists of case patterns such as `"7.*"`; reports go to `outdir`, or to
    a temporary directory that is removed at the end.
    """

    url: str
    """Where the server listens, without a path; set on entering."""

    def __init__(
        self,
        cases: Sequence[str] = ("*",),
        exclude: Sequence[str] = COMPRESSION_CASES,
        outdir: str | os.PathLike[str] | None = None,
        port: int | None = None,
    ) -> None:
        self._cases = list(cases)
        self._exclude = list(exclude)
        self._outdir = None if outdir is None else Path(outdir)
        self._port = port
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> FuzzingServer:
        interpreter = install()
        with contextlib.ExitStack() as cleanup:
            if self._outdir is None:
                self.outdir = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
            else:
                self.outdir = self._outdir
                self.outdir.mkdir(parents=True, exist_ok=True)
                (self.outdir / "index.json").unlink(missing_ok=True)
            self._start(interpreter, cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def reports(self, agent: str) -> dict[str, CaseResult]:
        return read_reports(self.outdir, agent)

    def log(self) -> str:
        """What the server printed so far."""
        return (self.outdir / "wstest.log").read_text(errors="replace")

    def _start(self, interpreter: Path, cleanup: contextlib.ExitStack) -> None:
        # A free port may be taken by another program before wstest binds it, hence the attempts.
        for attempt in range(3):
            port = self._port or _free_port()
            self.url = f"ws://127.0.0.1:{port}"
            spec = {
                "url": self.url,
                "outdir": str(self.outdir.resolve()),
                "cases": self._cases,
                "exclude-cases": self._exclude,
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
            cleanup.callback(_end, process)
            if _accepts(process, port):
                return
            if process.poll() is None or attempt == 2:
                raise RuntimeError(f"the fuzzing server did not start:\n{self.log()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _accepts(process: subprocess.Popen[bytes], port: int, timeout: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            # It may be another program's port; ours has then failed to bind it and ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            return process.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--cases", default="*", help="comma-separated patterns (default: *)")
    parser.add_argument("--exclude", default=",".join(COMPRESSION_CASES))
    parser.add_argument("--outdir", default="reports/clients")
    options = parser.parse_args()
    with FuzzingServer(
        options.cases.split(","), options.exclude.split(","), options.outdir, options.port
    ) as server:
        print(f"serving at {server.url}, reports go to {server.outdir}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


if __name__ == "__main__":
    main()
