"""A journal on a disk that fails, which is a real one wherever that can be had.

Each time the stream goes on, tells of it once an episode, and every push is in the journal
afterwards or counted as dropped. What needs a mount or another user is skipped where there is none.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastpos import Fleet, PositionStream
from fastpos.errors import JournalError
from fastpos.journal import Journal, read, writer
from fastpos.journal import segments as files
from fastpos.simulator import Exchange
from tests.support.programs import finish, read_until, streaming
from tests.support.recording import KEY, Recorder, logged, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]

NOBODY = 65534
INTERVAL = 0.02
# Buffers, bytes: that of a Journal, and one that is full at once.
LARGE, SMALL = 64 * 1024 * 1024, 4000
buffers = pytest.mark.parametrize("buffer", [LARGE, SMALL], ids=["kept", "dropped"])

removal = pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be removed there")


@pytest.fixture
def exchange(tidy: None) -> Iterator[Exchange]:
    with Exchange(api_key=KEY) as exchange:
        yield exchange


def _run(*command: str | Path) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    if sys.platform != "linux" or not _run("mount", "-t", "tmpfs", "-o", "size=200k", "no", path):
        pytest.skip("file systems can't be mounted here")
    try:
        yield path
    finally:
        while os.path.ismount(path) and _run("umount", "-l", path):
            pass  # something may be laid over it


class Day:
    """A stream with a journal, and pushes that are numbered."""

    def __init__(self, exchange: Exchange, folder: Path, buffer: int = LARGE, **more: Any) -> None:
        self.exchange = exchange
        self.folder = folder
        self.told = Recorder()
        more = {"flush_interval": INTERVAL, "buffer_bytes": buffer, **more}
        self.journal = Journal(folder, **more)
        self.stream = PositionStream(
            exchange.url,
            api_key=KEY,
            broker=exchange.broker,
            journal=self.journal,
            proxy="",
            ping_interval=0.1,
            **self.told.callbacks,
        )
        self.sent = 0

    def push(self, count: int = 1, size: int = 100) -> None:
        """Push so many, and wait until they have come, as they do whatever the disk does."""
        for _ in range(count):
            self.sent += 1
            self.exchange.push({"channel": "numbers", "n": self.sent, "fill": "x" * size})
        self.told.wait("on_unknown", self.sent)

    def push_until(self, condition: Callable[[], object], size: int = 100) -> None:
        """Push until it is so."""
        deadline = time.monotonic() + 30
        while not condition():
            self.push(size=size)
            self.journal.flush(INTERVAL)  # or that fails
            assert time.monotonic() < deadline

    @property
    def fails(self) -> bool:
        """Whether the user was told."""
        return bool(self.told.on_error)

    def fail(self, buffer: int) -> None:
        """Go on while nothing can be written, until some is lost if the buffer is small."""
        self.push_until(lambda: self.fails)
        self.push(100 if buffer == SMALL else 20)
        self.push_until(lambda: buffer == LARGE or self.journal.is_full)
        self.push(10)

    def recovered(self, caplog: Any, episodes: int = 1) -> None:
        """Wait until it is written again."""
        until(lambda: len(logged(caplog, "journal_again")) == episodes)
        until(lambda: self.journal.flush(1) and not self.journal.is_full)
        self.push(5)

    def check(self, buffer: int, episodes: int = 1, *lost: int) -> None:
        """All is there or counted, and the user was told; after the end. `lost`: with a file."""
        errors = self.told.on_error
        assert [type(error) for error in errors] == [JournalError] * episodes
        stats = self.stream.stats
        assert [event.raw["n"] for event in self.told.on_unknown] == [*range(1, self.sent + 1)]
        assert (stats.connects, stats.decode_errors, stats.callback_errors) == (1, 0, 0)
        assert stats.messages >= self.sent
        records = [*read(self.folder)]
        kept = [
            int(match[1])
            for record in records
            if record.kind == "push" and (match := re.search(rb'"n":(\d+)', record.text))
        ]
        assert sorted(set(kept)) == kept
        missing = set(range(1, self.sent + 1)) - set(kept) - set(lost)
        dropped = sum(each.values["count"] for each in records if each.kind == "dropped")
        assert dropped == len(missing)
        assert (dropped > 0) == (buffer == SMALL)
        assert records[-1].kind == "stopped"


@buffers
def test_a_disk_that_is_full(
    exchange: Exchange, small_disk: Path, buffer: int, caplog: Any
) -> None:
    day = Day(exchange, small_disk / "day", buffer)
    filler = small_disk / "filler"
    with day.stream:
        assert day.stream.wait_ready(5)
        day.push(3)
        assert day.journal.flush()
        for episode in (1, 2):
            with open(filler, "wb") as file, suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(4096))
            day.push_until(lambda episode=episode: len(day.told.on_error) == episode)
            day.fail(buffer)
            assert len(day.told.on_error) == episode
            filler.unlink()
            day.recovered(caplog, episode)
    day.check(buffer, 2)
    assert len(files.written(day.folder)) <= 5


def test_tries_on_a_disk_that_is_nearly_full_leave_nothing(
    exchange: Exchange, small_disk: Path, caplog: Any
) -> None:
    """There is room for a header, and none for what is to follow."""
    day = Day(exchange, small_disk / "day")
    filler = small_disk / "filler"
    with day.stream:
        assert day.stream.wait_ready(5)
        assert day.journal.flush()
        with open(filler, "wb") as file:
            os.write(file.fileno(), bytes(160 * 1024))
        day.push(2, size=50_000)
        day.told.wait("on_error")
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 20 * INTERVAL)
        assert len([*day.folder.iterdir()]) <= 4
        filler.unlink()
        until(lambda: len(logged(caplog, "journal_again")) == 1)
    assert len(day.told.on_error) == 1


def test_a_full_disk_has_the_oldest_removed(
    exchange: Exchange, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room for a gzip, the plain ones count, and make room."""

    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "compress", no_room)
    day = Day(exchange, small_disk / "day", segment_bytes=20_000, keep_bytes=150_000)
    with day.stream:
        assert day.stream.wait_ready(5)
        for _ in range(60):
            day.push(1, size=8000)
            assert day.journal.flush(3)
    assert not day.fails
    assert 150_000 > sum(path.stat().st_size for path in files.written(day.folder)) > 100_000


@removal
@buffers
@pytest.mark.parametrize("which", ["folder", "parent"])
def test_a_folder_that_is_removed(
    exchange: Exchange, tmp_path: Path, buffer: int, which: str, caplog: Any
) -> None:
    parent = tmp_path / "parent"
    day = Day(exchange, parent / "day", buffer)
    with day.stream:
        assert day.stream.wait_ready(5)
        day.push(3)
        assert day.journal.flush()
        shutil.rmtree(parent)  # or the folder would be there again too soon
        day.fail(buffer)
        assert not day.folder.exists()
        parent.mkdir()
        if which == "folder":
            with suppress(FileExistsError):
                day.folder.mkdir()
        day.recovered(caplog)
        with pytest.raises(JournalError, match="another journal writes"):
            Journal(day.folder).open()
    day.check(buffer, 1, 1, 2, 3)


@removal
def test_a_folder_that_somebody_else_took_meanwhile(
    exchange: Exchange, tmp_path: Path, caplog: Any
) -> None:
    day = Day(exchange, tmp_path / "day")
    with day.stream:
        assert day.stream.wait_ready(5)
        assert day.journal.flush()
        (tmp_path / "day").rename(tmp_path / "before")
        with Journal(tmp_path / "day"):
            day.push_until(lambda: day.fails)
            began = time.monotonic()
            until(lambda: time.monotonic() - began > 10 * INTERVAL)
            assert files.written(day.folder) == []
        day.recovered(caplog)
    day.check(LARGE)


@buffers
def test_a_disk_that_becomes_read_only(
    exchange: Exchange, small_disk: Path, tmp_path: Path, buffer: int, caplog: Any
) -> None:
    side = tmp_path / "side"
    side.mkdir()
    day = Day(exchange, small_disk / "day", buffer, segment_bytes=3000)
    with day.stream:
        assert day.stream.wait_ready(5)
        day.push(3)
        # A remount is refused as long as a file is open to be written: it is laid over it.
        assert _run("mount", "--bind", small_disk, side)
        try:
            assert _run("mount", "-o", "remount,bind,ro", side)
            assert _run("mount", "--bind", side, small_disk)
        finally:
            _run("umount", side)
        day.fail(buffer)
        assert "Read-only file system" in str(day.told.on_error[0])
        assert _run("umount", "-l", small_disk)
        day.recovered(caplog)
    day.check(buffer)


def test_a_read_only_disk_at_the_start(exchange: Exchange, small_disk: Path) -> None:
    (small_disk / "day").mkdir()
    assert _run("mount", "-o", "remount,ro", small_disk)
    day = Day(exchange, small_disk / "day")
    with pytest.raises(JournalError, match="Read-only file system"):
        day.stream.start()
    assert _run("mount", "-o", "remount,rw", small_disk)
    with day.stream:
        assert day.stream.wait_ready(5)


UNPRIVILEGED = """
import logging
from fastpos.errors import JournalError
from fastpos.journal import Journal
from fastpos.net.upgrade import import_websocket_client

logging.disable()
import_websocket_client()  # another user may not be able to

def come_down():
    os.setgroups([]); os.setgid(65534); os.setuid(65534)

def say(*words):
    print(*words, flush=True)

folder, buffer = words[0], int(words[1])
errors, numbers = [], []
journal = Journal(folder, flush_interval=0.02, buffer_bytes=buffer, segment_bytes=2000)

def note(event):
    numbers.append(event.raw["n"])
    if event.raw["what"] == "written":
        journal.flush(0.05)  # or that fails
    say(event.raw["what"], *errors)

stream = new(
    journal=journal, ping_interval=0.1,
    on_unknown=note, on_error=errors.append,
)

def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
"""


@pytest.fixture
def open_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that another user can reach, too."""
    import tempfile  # noqa: PLC0415

    if not hasattr(os, "setuid") or os.geteuid() != 0:
        pytest.skip("who is not root can't be somebody else")
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


@pytest.mark.parametrize("has_lock", [False, True])
def test_no_permission_at_the_start(exchange: Exchange, open_path: Path, has_lock: bool) -> None:
    folder = open_path / "day"
    folder.mkdir()
    if has_lock:
        (folder / ".lock").touch()
        (folder / ".lock").chmod(0o666)
    body = (
        UNPRIVILEGED
        + """
come_down()
try:
    stream.start()
except JournalError as error:
    say(error)
"""
    )
    with streaming(exchange, body, str(folder), "1000000") as process:
        said = finish(process)
    assert re.fullmatch(r"the journal can't be written in .*day: .*Permission denied.*\n", said)
    assert exchange.connections == []


@buffers
def test_no_permission_meanwhile(exchange: Exchange, open_path: Path, buffer: int) -> None:
    folder = open_path / "day"
    folder.mkdir()
    body = (
        UNPRIVILEGED
        + """
stream.start()
assert stream.wait_ready(10)
assert journal.flush()
come_down()
say("ready")
until(lambda: os.stat(folder).st_uid == 65534)
until(lambda: journal.flush(1) and not journal.is_full)
stream.stop()
say(len(errors), stream.stats.connects, numbers == [*range(1, len(numbers) + 1)])
"""
    )
    sent = 0
    with streaming(exchange, body, str(folder), str(buffer)) as process:
        read_until(process, "ready")

        def push(what: str) -> None:
            nonlocal sent
            sent += 1
            exchange.push({"channel": "numbers", "n": sent, "what": what, "fill": "x" * 100})

        said = "\n"
        while said == "\n":  # until there is to be another file
            push("written")
            said = read_until(process, "\n").removeprefix("written")
        assert "Permission denied" in said
        for what in ("much", "more", "most"):  # what comes at once is taken or not as a whole
            for _ in range(100):
                push("")
            push(what)
            read_until(process, what)
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        assert finish(process) == "1 1 True\n"
    records = [*read(folder)]
    kept = [record for record in records if record.kind == "push"]
    dropped = sum(each.values["count"] for each in records if each.kind == "dropped")
    assert len(kept) + dropped == sent
    assert (dropped > 0) == (buffer == SMALL)


class Stall:
    """Has a thread that writes segments wait, while `going` is not set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.going = threading.Event()
        self.going.set()
        self.waiting = threading.Event()
        self._write = os.write
        monkeypatch.setattr(files.os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        if threading.current_thread().name == "fastpos-journal" and not self.going.is_set():
            self.waiting.set()
            assert self.going.wait(30)
        return self._write(descriptor, data)


@buffers
def test_a_disk_that_is_slow(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int
) -> None:
    stall, day = Stall(monkeypatch), Day(exchange, tmp_path / "day", buffer)
    with day.stream:
        assert day.stream.wait_ready(5)
        for episode in (1, 2):
            day.push(3)
            assert day.journal.flush()
            stall.going.clear()
            day.push(1)
            assert stall.waiting.wait(5)
            day.push(100)
            day.push(10)
            if buffer == SMALL:
                error = day.told.wait("on_error", episode)[-1]
                assert f"more than {SMALL} bytes wait" in str(error)
            stall.going.set()
            until(lambda: day.journal.flush() and not day.journal.is_full)
            stall.waiting.clear()
        day.push(5)
    day.check(buffer, 2 if buffer == SMALL else 0)


def test_a_stop_does_not_wait_longer_for_a_slow_disk_than_it_may(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall, day = Stall(monkeypatch), Day(exchange, tmp_path / "day")
    day.stream.start()
    assert day.stream.wait_ready(5)
    day.push(3)
    assert day.journal.flush()
    stall.going.clear()
    day.push(3)
    assert stall.waiting.wait(5)
    began = time.monotonic()
    day.stream.stop(timeout=0.5)
    assert time.monotonic() - began < 4  # not LAST_WRITES
    stall.going.set()
    assert day.stream.join(5)
    day.check(LARGE, 0)


def test_what_was_waited_for_in_vain_is_not_waited_for_again_at_the_end_of_the_program(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall, day = Stall(monkeypatch), Day(exchange, tmp_path / "day")
    with day.stream:
        assert day.stream.wait_ready(5)
        stall.going.clear()
        day.push()
        assert stall.waiting.wait(5)
        assert not day.journal.flush(0.1)
        began = time.monotonic()
        writer._at_exit()
        assert time.monotonic() - began < 4  # not LAST_WRITES
        stall.going.set()
    day.check(LARGE, 0)


def test_who_leaves_a_fleet_holds_up_nobody_while_its_disk_is_slow(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stall, day, other = Stall(monkeypatch), Day(exchange, tmp_path / "day"), Recorder()
    stays = PositionStream(
        exchange.url, api_key=KEY, broker=exchange.broker, proxy="", **other.callbacks
    )
    with Fleet([day.stream, stays]) as fleet:
        assert fleet.wait_ready(5)
        day.push()
        assert day.journal.flush()
        stall.going.clear()
        day.push()
        assert stall.waiting.wait(5)
        removal = threading.Thread(target=fleet.remove, args=(day.stream,))
        removal.start()
        day.told.wait("on_disconnect")
        for number in range(1, 20):
            exchange.push({"channel": "numbers", "n": number})
            other.wait("on_unknown", 2 + number)
        assert not day.stream.join(0)
        stall.going.set()
        removal.join(5)
        assert day.stream.join(5)
    day.check(LARGE, 0)
