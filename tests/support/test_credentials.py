"""The check on credentials itself: each kind of leak fails the test that has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

LEAKS = """
import logging

from fastpos import ConnectionFailed, Disconnect, FastposError, PositionStream
from fastpos.rest import AccountSnapshot

KEY = "leaked-api-key-71c2"
SECRET = "leaked-api-secret-88d0"


def stream(**options):
    stream = PositionStream("ws://127.0.0.1:9/", api_key=KEY, broker=1, **options)
    stream._settings.credential.get()
    return stream


def test_log():
    stream()
    logging.getLogger("fastpos").debug("connecting with %s", KEY)


def test_traceback_in_log():
    stream()
    try:
        raise OSError(KEY)
    except OSError:
        logging.getLogger("elsewhere").info("failed", exc_info=True)


def test_message():
    stream()
    ConnectionFailed(f"refused: {KEY}")


def test_on_error():
    error = FastposError("no", {"sent": KEY})
    stream(on_error=print)._delivery.report(error)


def test_event():
    tested = stream(on_disconnect=print)
    tested._delivery.call(tested.on_disconnect, Disconnect(reason=KEY))


def test_context(monkeypatch):
    tested = stream()

    def run(_):
        error = FastposError("ended")
        error.__context__ = OSError(KEY)
        raise error

    monkeypatch.setattr(tested._driver, "run", run)
    try:
        tested.run_forever()
    except FastposError:
        pass


def test_repr(monkeypatch):
    monkeypatch.setattr("fastpos.settings.Settings.__repr__", lambda self: KEY)
    global kept
    kept = stream()


def test_api_secret():
    AccountSnapshot("https://127.0.0.1:9", KEY, SECRET)
    logging.getLogger("httpx").debug("signed with %s", SECRET)


def test_percent_encoded():
    PositionStream("ws://x/", token="a/b+c==token", broker=1)
    logging.getLogger("fastpos").debug("a%2Fb%2Bc%3D%3Dtoken")


def test_nothing():
    try:
        stream(number=int)
    except ValueError:
        logging.getLogger("fastpos").debug("refused", exc_info=True)
"""


def test_each_leak_fails_its_test(tmp_path: Path, project: Path) -> None:
    Path(tmp_path, "test_leaks.py").write_text(LEAKS)
    plugins = ("tests.support.credentials", "no:cacheprovider", "no:hypothesispytest")
    options = ["-q", *(f"-p{name}" for name in plugins), "--rootdir", tmp_path]
    # Where one of these is set, pytest repeats each report in its summary.
    ci = ("CI", "BUILD_NUMBER")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rE", *map(str, options), str(tmp_path)],
        cwd=project,
        # Compiled, some of what is looked at can't be replaced.
        env={n: v for n, v in os.environ.items() if n not in ci} | {"FASTPOS_PURE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    tests = set(re.findall(r"^def (test_\w+)", LEAKS, re.MULTILINE))
    leaking = set(re.findall(r"^ERROR .*::(test_\w+)", done.stdout, re.MULTILINE))
    assert leaking == tests - {"test_nothing"}, done.stdout
    assert f"{len(tests)} passed, {len(tests) - 1} errors" in done.stdout
    # The report says where, and does not show it once more.
    reports = re.findall(r"a credential is shown by\n((?:  .*\n)+)", done.stdout)
    assert len(reports) == len(tests) - 1
    assert all("<CREDENTIAL>" in report for report in reports)
    assert "leaked-api" not in "".join(reports)
