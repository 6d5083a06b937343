"""The check on credentials itself: each kind of leak fails the test that has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

BEGIN = """
import logging
from fastpos import ConnectionFailed, Disconnect, FastposError, PositionStream
from fastpos.rest import AccountSnapshot

KEY = "leaked-api-key-71c2"
SECRET = "leaked-api-secret-88d0"

def log(*words, name="fastpos", **more):
    logging.getLogger(name).debug(*words, **more)

def stream(**options):
    stream = PositionStream("ws://127.0.0.1:9/", api_key=KEY, broker=1, **options)
    stream._settings.credential.get()
    return stream
"""

# What each leak's test does.
LEAKS = {
    "log": """stream(); log("connecting with %s", KEY)""",
    "traceback_in_log": """
        stream()
        try:
            raise OSError(KEY)
        except OSError:
            log("failed", name="elsewhere", exc_info=True)
    """,
    "message": """stream(); ConnectionFailed(f"refused: {KEY}")""",
    "on_error": """stream(on_error=print)._delivery.report(FastposError("no", {"sent": KEY}))""",
    "event": """
        tested = stream(on_disconnect=print)
        tested._delivery.call(tested.on_disconnect, Disconnect(reason=KEY))
    """,
    "context": """
        tested = stream()
        def run(*_):
            error = FastposError("ended")
            error.__context__ = OSError(KEY)
            raise error
        monkeypatch.setattr(tested._driver, "run", run)
        try:
            tested.run_forever()
        except FastposError:
            pass
    """,
    "variable": """
        tested = stream()
        def run(*_):
            sent = {"api-key": KEY}
            raise FastposError("ended")
        monkeypatch.setattr(tested._driver, "run", run)
        try:
            tested.run_forever()
        except FastposError:
            pass
    """,
    "variable_of_a_cause": """
        tested = stream(on_error=print)
        def send(data):
            raise OSError
        def connect(): send(f"api-key: {KEY}")
        error = FastposError("no")
        try:
            connect()
        except OSError as cause:
            error.__cause__ = cause
        tested._delivery.report(error)
    """,
    "trace": """
        stream()
        import websocket._handshake
        websocket._handshake.dump("request header", f"api-key: {KEY}")
    """,
    "repr": """
        monkeypatch.setattr("fastpos.settings.Settings.__repr__", lambda self: KEY)
        global kept
        kept = stream()
    """,
    "api_secret": """
        AccountSnapshot("https://127.0.0.1:9", KEY, SECRET)
        log("signed with %s", SECRET, name="httpx")
    """,
    "percent_encoded": """
        PositionStream("ws://x/", token="a/b+c==token", broker=1)
        log("a%2Fb%2Bc%3D%3Dtoken")
    """,
    "nothing": """
        try:
            stream(number=int)
        except ValueError:
            log("refused", exc_info=True)
    """,
}


def test_each_leak_fails_its_test(tmp_path: Path, project: Path) -> None:
    tests = [
        f"def test_{name}(monkeypatch):\n{indent(dedent(leak), '    ')}\n"
        for name, leak in LEAKS.items()
    ]
    Path(tmp_path, "test_leaks.py").write_text("\n\n".join([BEGIN, *tests]))
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
    leaking = set(re.findall(r"^ERROR .*::(test_\w+)", done.stdout, re.MULTILINE))
    assert leaking == {f"test_{name}" for name in LEAKS} - {"test_nothing"}, done.stdout
    assert f"{len(LEAKS)} passed, {len(LEAKS) - 1} errors" in done.stdout
    # The report says where, and does not show it once more.
    reports = re.findall(r"a credential is shown by\n((?:  .*\n)+)", done.stdout)
    assert len(reports) == len(LEAKS) - 1
    assert all("<CREDENTIAL>" in report for report in reports)
    assert "leaked-api" not in "".join(reports)
