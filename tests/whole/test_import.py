"""What `import fastpos` does to the process of its host: nothing that was not asked for."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import fastpos
from fastpos.model import events
from fastpos.simulator import Exchange
from tests.support.programs import run, said

# Modules of the standard library that may be imported beyond those that isal and orjson import,
# with what they import by themselves in one version of Python or the other.
ALLOWED = {
    *("ipaddress", "urllib", "urllib.parse", "decimal", "_decimal", "numbers", "math", "random"),
    *("_random", "bisect", "_bisect", "_sha2", "_sha512", "logging", "atexit", "string", "_string"),
    *("textwrap", "traceback", "_colorize", "threading", "warnings"),
    *("typing", "typing.io", "typing.re", "_typing"),
}

PROGRAM = """
import atexit, gc, locale, logging, os, signal, socket, ssl, sys, threading, time, warnings
import isal.isal_zlib, orjson

def state():
    root = logging.getLogger()
    linux = sys.platform == "linux"
    return {
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "tasks": len(os.listdir("/proc/self/task")) if linux else None,
        "descriptors": os.listdir("/proc/self/fd") if linux else None,
        "handlers at exit": atexit._ncallbacks(),
        "signal handlers": {str(n): repr(signal.getsignal(n)) for n in signal.valid_signals()},
        "wake-up fd": signal.set_wakeup_fd(signal.set_wakeup_fd(-1)),
        "root logger": [root.level, len(root.handlers), len(root.filters), root.disabled],
        "logging": [logging.root.manager.disable, logging.raiseExceptions,
                    repr(logging.getLoggerClass()), repr(logging.getLogRecordFactory()),
                    repr(logging.lastResort)],
        "warnings": repr(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
        "time zone": time.tzname,
        "socket": [socket.getdefaulttimeout(), repr(socket.socket), repr(socket.getaddrinfo)],
        "ssl": repr(ssl._create_default_https_context),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "path": sys.path,
        "hooks": [repr(hook) for hook in (
            sys.excepthook, sys.unraisablehook, sys.displayhook, threading.excepthook,
            sys.gettrace(), sys.getprofile(), threading._trace_hook, threading._profile_hook,
            sys.meta_path, sys.path_hooks)],
        "interpreter": [sys.getswitchinterval(), sys.getrecursionlimit(), threading.stack_size(),
                        gc.isenabled(), gc.get_threshold()],
    }

before = state()
import fastpos
after = state()
print({name: [before[name], after[name]] for name in after if after[name] != before[name]})
logger = logging.getLogger("fastpos")
print([logger.level, len(logger.handlers), len(logger.filters), logger.propagate])
"""


@pytest.mark.parametrize("pure", ["0", "1"])
def test_importing_changes_nothing(project: Path, pure: str) -> None:
    assert said(PROGRAM, where=project, FASTPOS_PURE=pure) == "{}\n[0, 0, 0, True]\n"


@pytest.mark.parametrize("pure", ["0", "1"])
def test_importing_imports_little(project: Path, pure: str) -> None:
    """Nothing that opens connections, which comes with the first stream; not websocket-client
    either, which comes with the first start."""
    program = """
        import sys
        import isal.isal_zlib, orjson

        before = set(sys.modules)
        import fastpos

        print(*sorted(set(sys.modules) - before))
    """
    imported = set(said(textwrap.dedent(program), where=project, FASTPOS_PURE=pure).split())
    own = {name for name in imported if name.partition(".")[0] == "fastpos"}
    assert "fastpos.stream" in own
    assert own.isdisjoint(
        {"fastpos.rest", "fastpos.simulator", "fastpos.cli.main", "fastpos.cli.demo"}
    )
    cython = {name for name in imported if name.startswith(("_cython_", "cython_runtime"))}
    assert imported - own - cython - ALLOWED == set()


STREAMING = """
import sys, threading

import fastpos

imported = []

def note(event, args):
    if event == "import" and threading.current_thread() is not threading.main_thread():
        imported.append(args[0])

url, key, broker = sys.argv[1:]
stream = fastpos.PositionStream(url, api_key=key, broker=int(broker), dispatch="thread")
sys.addaudithook(note)
with stream:
    assert stream.wait_ready(10)
print(*imported)
"""


@pytest.mark.parametrize("pure", ["0", "1"])
def test_a_streams_threads_import_nothing(exchange: Exchange, project: Path, pure: str) -> None:
    """Who is forked meanwhile could not import it any more: who makes and starts it does."""
    words = STREAMING, exchange.url, exchange.api_key, str(exchange.broker)
    without = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    assert said(*words, where=project, FASTPOS_PURE=pure, **without).split() == []


@pytest.mark.parametrize("module", ["fastpos", "benchmarks"])
def test_in_a_checkout_what_was_installed_is_run(
    module: str, project: Path, tmp_path: Path
) -> None:
    checkout, installed = tmp_path / "checkout", tmp_path / "installed"
    for root in (checkout, installed):
        shutil.copytree(project / "fastpos", root / "fastpos")
    shutil.copytree(project / "benchmarks", checkout / "benchmarks")
    (checkout / "benchmarks" / "__main__.py").write_text(
        "from fastpos import cli\ncli.main(['info'])\n"
    )
    done = run("-m", module, "info", where=checkout, PYTHONPATH=str(installed))
    assert (done.returncode, done.stderr) == (0, "")
    assert f" {installed / 'fastpos'}\n" in done.stdout


def test_exports_follow_from_the_classes() -> None:
    """Nothing that is used inside, every event class, and one version."""
    there = {name: getattr(fastpos, name) for name in fastpos.__all__}
    assert not any(isinstance(value, ModuleType) for value in there.values())
    records = {kind for kind in vars(events).values() if isinstance(kind, type)} - {events.Record}
    assert {kind for kind in records if kind.__module__ == events.__name__} <= set(there.values())
    assert there.keys().isdisjoint({"Record", "Any", "TYPE_CHECKING", "position_of"})
    assert {"PositionStream", "FastposError", "decode", "inflater"} <= there.keys()
    assert importlib.metadata.version("fastpos") == fastpos.__version__


# --- another module named websocket ---------------------------------------------------------------

NAMESAKE = """
import fastpos
stream = fastpos.PositionStream("ws://127.0.0.1:9/", api_key="k", broker=1)
try:
    stream.{how}()
except ImportError as error:
    print(error)
    assert error.name == "websocket"
try:
    stream.start()
except ImportError:
    print("and again")
"""


@pytest.mark.parametrize(
    ("file", "script", "how"),
    [
        *(
            (file, "bot.py", how)
            for file in ("websocket.py", "websocket/__init__.py")
            for how in ("start", "run_forever")
        ),
        ("websocket.py", "websocket.py", "start"),  # is imported once more by the name
    ],
)
def test_a_module_of_the_user_named_websocket_is_named_at_the_start(
    tmp_path: Path, file: str, script: str, how: str
) -> None:
    namesake = tmp_path / file
    namesake.parent.mkdir(exist_ok=True)
    namesake.write_text("def connect():\n    pass\n")
    (tmp_path / script).write_text(NAMESAKE.format(how=how))
    done = run(str(tmp_path / script))
    assert (done.returncode, done.stderr) == (0, "")
    for part in (str(namesake), "not websocket-client's", "and again"):
        assert part in done.stdout
