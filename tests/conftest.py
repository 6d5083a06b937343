"""Fixtures of the tests that run streams over real sockets, and how a run of pytest is set up.

Whole folders are shared among processes, as the tests wait more than they compute; single files
and what is said with `-n` are not. A fixture of a module or a session is one of a process; tests of
which one changes what the next finds are a group (`pytest.mark.xdist_group`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from fastpos import PositionStream, ReconnectPolicy
from fastpos.net import tls
from fastpos.simulator import Exchange
from tests.support import credentials
from tests.support.bench import Bench
from tests.support.certificates import Certificates, make_certificates
from tests.support.recording import KEY, SOON, Recorder, until

PROCESSES = 4

# Back at once, so that tests need not wait.
QUICK = ReconnectPolicy(initial=0.02, maximum=0.1)

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
EXAMPLES = Path(os.environ.get("FASTPOS_EXAMPLES") or CACHE / "fastpos-examples")
"""Where hypothesis keeps an example that failed, until it passes: outlives a checkout of CI's."""

settings.register_profile("plain", derandomize=True, deadline=None)
settings.register_profile(
    "random", deadline=None, print_blob=True, database=DirectoryBasedExampleDatabase(EXAMPLES)
)


def is_long(config: pytest.Config) -> bool:
    """Whether the long tests are asked for: then hypothesis tries new examples in each run."""
    return "not long" not in str(config.option.markexpr)


def pytest_report_header(config: pytest.Config) -> str:
    if not is_long(config):
        return "hypothesis: the same examples in each run; -m long tries new ones"
    return f"hypothesis: new examples in each run; those that fail are kept in {EXAMPLES}"


@pytest.hookimpl(tryfirst=True)  # xdist's reads it
def pytest_cmdline_main(config: pytest.Config) -> None:
    option = config.option
    if hasattr(config, "workerinput") or "PYTEST_XDIST_WORKER" in os.environ:
        return  # one of the processes itself: it would share its part in turn, without an end
    unsaid = getattr(option, "numprocesses", 0) is None and option.dist == "no"
    if unsaid and not option.usepdb and any(Path(each).is_dir() for each in config.args):
        option.numprocesses, option.dist = PROCESSES, "loadgroup"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have what was captured be UTF-8, or it can't be sent to the process that shows it."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_configure(config: pytest.Config) -> None:
    # What a thread raises and nobody catches fails the test in which it happens.
    config.addinivalue_line("filterwarnings", "error::pytest.PytestUnhandledThreadExceptionWarning")
    config.pluginmanager.register(credentials, "credentials")
    settings.load_profile("random" if is_long(config) else "plain")
    # A shell starts what runs in its background with Ctrl-C ignored, and programs inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("fastpos-")}


def _sockets() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    # Without the epoll objects of the simulator's server, which are closed when they are collected.
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


@pytest.fixture
def tidy() -> Iterator[None]:
    """No thread and no socket is left when the test has ended."""
    threads, sockets = _threads(), _sockets()
    yield
    until(lambda: _threads() <= threads, SOON, "that no thread is left")
    until(lambda: _sockets() <= sockets, SOON, "that no socket is left")


@pytest.fixture
def exchange(tidy: None) -> Iterator[Exchange]:
    with Exchange() as exchange:
        yield exchange


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def new_stream(tidy: None, recorder: Recorder) -> Iterator[Callable[..., PositionStream]]:
    """Makes streams that call the recorder, and stops them when the test ends.

    The first argument is an `Exchange` or a URL; the rest are the stream's own, with defaults.
    """
    streams: list[PositionStream] = []

    def new(server: Exchange | str, **options: object) -> PositionStream:
        if isinstance(server, str):
            url, key, broker = server, KEY, 1003
        else:
            url, key, broker = server.url, server.api_key, server.broker
        if "token" not in options:
            options.setdefault("api_key", key)
        settings: dict[str, object] = {
            "broker": broker,
            "proxy": "",
            "reconnect": QUICK,
            **recorder.callbacks,
            **options,
        }
        stream = PositionStream(url, **settings)  # type: ignore[arg-type]
        streams.append(stream)
        return stream

    yield new
    for stream in streams:
        stream.stop()


@pytest.fixture
def bench(
    exchange: Exchange, recorder: Recorder, new_stream: Callable[..., PositionStream]
) -> Iterator[Bench]:
    bench = Bench(exchange, recorder, new_stream)
    yield bench
    bench.open.set()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def project() -> Path:
    return Path(__file__).parent.parent


@pytest.fixture(params=["direct", "ssl"])
def decrypting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """TLS records are read in this way, whatever is in use here: see fastpos/net/tls.py."""
    reader = None
    if request.param == "direct":
        reader = pytest.importorskip("fastpos._c._tls", exc_type=ImportError).Reader
    monkeypatch.setattr(tls, "_Reader", reader)
    return str(request.param)
