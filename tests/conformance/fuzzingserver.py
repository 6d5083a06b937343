"""The Autobahn fuzzing server: installed once into a cache, started for a test, its reports read.

`wstest` runs under CPython 2.7 only, so it lives in a virtual environment of its own, made with the
last virtualenv that knows 2.7. Everything it needs comes from PyPI; two of its parts are compiled
(wsaccel, zope.interface where no wheel fits), for which a C compiler must be there.

The cache is `$FASTPOS_AUTOBAHN_CACHE`, or `fastpos-autobahn` in `$XDG_CACHE_HOME` or `~/.cache`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.rig import LOOPBACK, Rig, end_process, free_port, listening_program

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
    # The marker is written last, so an interrupted installation is made again.
    if not marker.exists() or marker.read_text() != made_of:
        tools = cache / "tools"
        cache.mkdir(parents=True, exist_ok=True)
        for half_made in (environment, tools):
            shutil.rmtree(half_made, ignore_errors=True)
        _run(sys.executable, "-m", "venv", tools)
        _run(tools / "bin" / "python", "-m", "pip", "install", "-q", VIRTUALENV)
        _run(tools / "bin" / "virtualenv", "-q", "-p", python27, environment)
        _run(interpreter, "-m", "pip", "install", "-q", AUTOBAHN)
        _run(interpreter, interpreter.with_name("wstest"), "--autobahnversion")
        marker.write_text(made_of)
    return interpreter


def _run(*command: str | Path) -> None:
    # PYTHONPATH and PYTHONHOME are meant for the Python that runs the tests.
    foreign = ("PYTHONPATH", "PYTHONHOME", "__PYVENV_LAUNCHER__")
    surroundings = {name: value for name, value in os.environ.items() if name not in foreign}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=900,
        env=surroundings,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed:\n{done.stdout[-2000:]}")


class FuzzingServer(Rig):
    """`wstest -m fuzzingserver` on a free loopback port; its reports go to `outdir`."""

    url: str
    """Where the server listens, without a path."""

    def __init__(self, outdir: Path) -> None:
        super().__init__()
        self.outdir = outdir

    def bad(self, agent: str) -> tuple[int, dict[str, object]]:
        """How many cases the agent was judged in, and what is wrong with which.

        Of the messages, or of how the connection ended; there are none before the agent asked for
        `/updateReports`.
        """
        cases = json.loads((self.outdir / "index.json").read_text(encoding="utf-8"))[agent]
        wrong = {"FAILED", "UNIMPLEMENTED", "UNCLEAN", "WRONG CODE"}
        return len(cases), {
            case: entry
            for case, entry in cases.items()
            if {entry["behavior"], entry["behaviorClose"]} & wrong
        }

    def log(self) -> str:
        """What the server printed so far."""
        return (self.outdir / "wstest.log").read_text(errors="replace")

    def _start(self) -> None:
        interpreter = install()
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
        process = listening_program(
            [*wstest, *arguments], self.outdir / "wstest.log", port, self.outdir
        )
        self._cleanup.callback(end_process, process)
