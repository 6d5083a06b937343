"""The check on credentials itself: each kind of leak is found."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from fastpos import ConnectionFailed, Disconnect, FastposError, PositionStream
from fastpos.rest import AccountSnapshot
from tests.support import credentials
from tests.support.credentials import Watch, install

KEY, SECRET = "leaked-api-key-71c2", "leaked-api/secret=88d0"


@pytest.fixture
def watch() -> Iterator[Watch]:
    watch = Watch()
    take_back = install(watch)
    yield watch
    take_back()
    assert credentials._watch.found()  # by that of pytest too, which would fail this test


def test_each_kind_of_leak_is_found_and_not_shown_once_more(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = PositionStream("ws://127.0.0.1:9/", api_key=KEY, broker=1)
    AccountSnapshot("https://127.0.0.1:9", "a-key-of-mine", SECRET)

    def log(message: str, *words: object, **more: bool) -> None:
        record = logging.LogRecord("elsewhere", logging.DEBUG, "", 0, message, words, None)
        watch.emit(record)

    def cause() -> FastposError:
        error = FastposError("ended")
        error.__context__ = OSError(KEY)
        return error

    def variable() -> FastposError:
        """What is raised by code that is no test's, with the key in a variable."""
        names: dict[str, object] = {"FastposError": FastposError}
        exec(compile("def run(sent): raise FastposError('ended')", "of_the_library", "exec"), names)
        with pytest.raises(FastposError) as caught:
            names["run"]({"api-key": KEY})  # type: ignore[operator]
        return caught.value

    def show() -> None:
        with monkeypatch.context() as patched:
            patched.setattr("fastpos.settings.Settings.__repr__", lambda self: KEY)
            watch.show_all()

    leaks = {
        "log record": lambda: log("connecting with %s", KEY),
        "secret of the source": lambda: log("signed with %s", SECRET),
        "percent-encoded": lambda: log("leaked-api%2Fsecret%3D88d0"),
        "message": lambda: ConnectionFailed(f"refused: {KEY}"),
        "attribute": lambda: watch.error("to on_error", FastposError("no", {"sent": KEY})),
        "cause": lambda: watch.error("raised", cause()),
        "variable of a frame": lambda: watch.error("raised", variable()),
        "event": lambda: watch.event("on_disconnect", Disconnect(reason=KEY)),
        "repr": show,
    }
    for name, leak in leaks.items():
        watch._found.clear()
        leak()
        assert watch._found, name
        assert "<CREDENTIAL>" in watch._found[0]
        assert KEY not in str(watch._found)
    watch._found.clear()
    log("connecting to %s", stream)
    watch.show_all()
    with pytest.raises(ValueError, match="number"):
        PositionStream("ws://127.0.0.1:9/", api_key=KEY, broker=1, number=int)
    assert watch.found() == []
