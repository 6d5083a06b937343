"""`Journal`: what a stream was sent is in the file, whatever happens to the file."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
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


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange(api_key=KEY) as exchange:
        yield exchange


def stream_on(exchange: Exchange, journal: Any, **arguments: Any) -> PositionStream:
    return PositionStream(
        exchange.url, api_key=KEY, broker=exchange.broker, journal=journal, **arguments
    )


def push(exchange: Exchange, number: int) -> None:
    exchange.push({"channel": "numbers", "n": number})


def numbers(folder: Path, **filters: Any) -> list[int]:
    return [
        int(match[1])
        for record in read(folder, **filters)
        if (match := re.search(rb'"n":(\d+)', record.text))
    ]


def test_what_came_and_what_explains_it(exchange: Exchange, tmp_path: Path) -> None:
    told = Recorder()
    with stream_on(exchange, tmp_path / "day", name="alice", **told.callbacks) as stream:
        assert stream.wait_ready(5)
        push(exchange, 1)
        exchange.push_bytes(b"no push")
        push(exchange, 2)
        told.wait("on_unknown", 2)
        stream.unsubscribe()
        stream.subscribe()
        told.wait("on_ready", 2)
        exchange.drop()
        told.wait("on_ready", 3)
    records = [*read(tmp_path / "day")]
    assert [record.kind for record in records] == [
        "started", "connected", "subscribed", "push", "undecodable", "push", "paused",
        "subscribed", "disconnected", "connected", "subscribed", "disconnected", "stopped",
    ]  # fmt: skip
    assert {record.stream for record in records} == {"alice"}
    assert [record.connection for record in records] == [0, *[1] * 8, *[2] * 4]
    pushes = told.on_unknown
    assert [record.received_ns for record in records if record.kind == "push"] == [
        event.received_ns for event in pushes
    ]
    (only,) = (tmp_path / "day").glob("*Z.*")
    assert only.suffix == ".gz"
    assert not [each for each in threading.enumerate() if "journal" in each.name]


def test_a_credential_that_a_server_sends_back_is_not_written(
    exchange: Exchange, tmp_path: Path
) -> None:
    told = Recorder()
    with stream_on(exchange, tmp_path, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        exchange.push({"channel": "echo", "key": KEY})
        exchange.push_bytes(f"what is {KEY}?".encode())
        exchange.push_bytes(_gzip(f'{{"channel":"x",\n "{KEY}"'.encode()))
        told.wait("on_error", 2)
        told.wait("on_unknown")
    everything = b"".join(_content(path) for path in tmp_path.iterdir())
    assert KEY.encode() not in everything
    assert b'{"channel":"echo","key":"***"}' in everything
    encoded = [each.values["base64"] for each in read(tmp_path) if "base64" in each.values]
    assert encoded
    assert not [each for each in encoded if KEY.encode() in b64decode(each)]


@pytest.mark.parametrize("key", ["k", "1", "alice", "disconnected", "ws"])
def test_a_credential_that_is_a_word_of_ours_spoils_no_line(tmp_path: Path, key: str) -> None:
    with Exchange(api_key=key) as exchange:
        arguments: dict[str, Any] = {"api_key": key, "journal": Journal(tmp_path)}
        with PositionStream(exchange.url, broker=exchange.broker, name="alice", **arguments) as one:
            assert one.wait_ready(5)
            exchange.open_position()
            until(lambda: one.stats.events)
            exchange.drop()
            until(lambda: one.stats.subscriptions == 2)
    kinds = [record.kind for record in read(tmp_path, stream="alice") if record.kind != "push"]
    once = ["connected", "subscribed", "disconnected"]
    assert kinds == ["started", *once, *once, "stopped"]


def _gzip(text: bytes) -> bytes:
    import gzip  # noqa: PLC0415

    return gzip.compress(text)


def _content(path: Path) -> bytes:
    import gzip  # noqa: PLC0415

    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


@pytest.mark.parametrize("text", [b'{"channel":"x",}', b'{"channel":"x",\n"a":1}', b'{"channel"'])
def test_what_is_no_line_of_json_is_kept_as_base64(
    exchange: Exchange, tmp_path: Path, text: bytes
) -> None:
    told = Recorder()
    with stream_on(exchange, tmp_path, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        exchange.push_bytes(_gzip(text))
        push(exchange, 1)
        until(lambda: [event for event in told.on_unknown if event.raw.get("n") == 1])
    kept = [record for record in read(tmp_path) if record.kind in ("push", "undecodable")]
    assert kept[0].text == text or kept[0].kind == "undecodable"
    assert numbers(tmp_path) == [1]


def test_segments_end_by_size_and_age_and_the_oldest_are_removed(
    exchange: Exchange, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, segment_bytes=2000, flush_interval=0.02, keep_bytes=1500)
    told = Recorder()

    def sizes() -> Iterator[int]:
        for path in files.written(tmp_path):
            with suppress(FileNotFoundError):  # it is compressed or removed in this moment
                yield path.stat().st_size

    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        for number in range(200):
            push(exchange, number)
            if number % 10 == 9:
                told.wait("on_unknown", number + 1)
                assert journal.flush()
        until(lambda: sum(sizes()) < 4000)  # once the writer has tidied up, after its last write
    kept = numbers(tmp_path)
    assert kept == [*range(kept[0], 200)]
    assert kept[0] > 0  # so there were several, of which the first ones are gone


def test_a_segment_that_is_old_is_closed_though_nothing_comes(
    exchange: Exchange, tmp_path: Path
) -> None:
    journal = Journal(tmp_path, segment_seconds=0.1, flush_interval=0.02)
    with stream_on(exchange, journal) as stream:
        assert stream.wait_ready(5)
        until(lambda: [path for path in tmp_path.glob("*.gz") if "started" in str(_content(path))])


@pytest.mark.parametrize("fsync", ["never", "segment", "flush"])
def test_the_disk_is_waited_for_where_asked(
    exchange: Exchange, tmp_path: Path, fsync: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    journal = Journal(tmp_path, fsync=fsync)
    with stream_on(exchange, journal) as stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        at_flush = len(synced)
    if fsync == "never":
        assert not synced
    else:
        assert (at_flush > 1) == (fsync == "flush")
        assert len(synced) >= 3


def test_streams_of_a_fleet_share_one_and_of_one_path_too(
    exchange: Exchange, tmp_path: Path
) -> None:
    told = Recorder()
    streams = [
        stream_on(exchange, str(tmp_path), name=name, **told.callbacks) for name in ("a", "b", "c")
    ]
    with Fleet(streams[:2]) as fleet, streams[2]:
        assert fleet.wait_ready(5)
        assert streams[2].wait_ready(5)
        push(exchange, 1)
        told.wait("on_unknown", 3)
    for name in ("a", "b", "c"):
        kinds = [record.kind for record in read(tmp_path, stream=name)]
        expected = ["started", "connected", "subscribed", "push", "disconnected", "stopped"]
        assert kinds == expected
    assert len(files.written(tmp_path)) == 1


def test_another_journal_on_the_folder_is_refused_before_anything_is_opened(
    exchange: Exchange, tmp_path: Path
) -> None:
    with Journal(tmp_path):
        stream = stream_on(exchange, Journal(tmp_path))
        with pytest.raises(JournalError, match="another journal writes"):
            stream.start()
        with pytest.raises(JournalError, match="another journal writes"):
            stream.run_forever()
        fleet = Fleet([stream])
        with pytest.raises(JournalError, match="another journal writes"):
            fleet.start()
    with stream_on(exchange, Journal(tmp_path)) as again:
        assert again.wait_ready(5)


def test_a_stream_that_was_refused_can_be_started_later(exchange: Exchange, tmp_path: Path) -> None:
    stream = stream_on(exchange, Journal(tmp_path))
    with Journal(tmp_path), pytest.raises(JournalError):
        stream.start()
    with stream:
        assert stream.wait_ready(5)


def test_each_start_goes_on_in_a_new_segment(exchange: Exchange, tmp_path: Path) -> None:
    stream = stream_on(exchange, tmp_path)
    for run in (1, 2):
        with stream:
            assert stream.wait_ready(5)
        assert len(files.written(tmp_path)) == run
    runs = [record.values["run"] for record in read(tmp_path) if record.kind == "started"]
    assert runs == [1, 2]


class Disk:
    """Has writes fail while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.tried = 0
        self._write = os.write
        monkeypatch.setattr(files.os, "write", self.write)

    def write(self, descriptor: int, data: Any) -> int:
        if not self.full or len(data) == 1:  # a byte that wakes somebody
            return self._write(descriptor, data)
        self.tried += 1
        if self.tried % 2:
            self._write(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_of_once_and_nothing_is_lost_that_the_buffer_holds(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=0.02)
    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        for episode in (1, 2):
            disk.full = True
            push(exchange, 3 * episode)
            until(lambda: disk.tried > 5)
            push(exchange, 3 * episode + 1)
            error = told.wait("on_error", episode)[-1]
            assert isinstance(error, JournalError)
            assert "No space left" in str(error)
            assert error.stream == stream.name
            until(lambda: disk.tried > 15)
            assert len(told.on_error) == episode
            disk.full = False
            until(lambda episode=episode: len(logged(caplog, "journal_again")) == episode)
            push(exchange, 3 * episode + 2)
            told.wait("on_unknown", 3 * episode)
            disk.tried = 0
    assert numbers(tmp_path) == [3, 4, 5, 6, 7, 8]
    assert "dropped" not in [record.kind for record in read(tmp_path)]


def test_what_fails_again_as_soon_as_it_was_said_to_be_over_is_told_again(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(monkeypatch), Recorder()

    def fill(record: logging.LogRecord) -> bool:
        if getattr(record, "fastpos_event", "") == "journal_again" and len(told.on_unknown) < 3:
            push(exchange, 3)
            told.wait("on_unknown", 3)
            disk.full = True
        return True

    journal = Journal(tmp_path, flush_interval=0.02)
    logging.getLogger("fastpos").addFilter(fill)
    try:
        with stream_on(exchange, journal, **told.callbacks) as stream:
            assert stream.wait_ready(5)
            for number in (1, 2):
                disk.full = True
                push(exchange, number)
                until(lambda: disk.tried > 5)
                told.wait("on_unknown", number)
            disk.full, disk.tried = False, 0
            until(lambda: disk.tried > 5)
            push(exchange, 4)
            told.wait("on_error", 2)
            disk.full = False
    finally:
        logging.getLogger("fastpos").removeFilter(fill)
    assert numbers(tmp_path) == [1, 2, 3, 4]


def test_what_the_buffer_does_not_hold_is_counted_in_the_journal(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=0.02, buffer_bytes=500)
    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        disk.full = True
        for number in range(100):
            push(exchange, number)
            told.wait("on_unknown", number + 1)
        disk.full = False
        until(lambda: journal.flush() and not journal.is_full)
        push(exchange, 100)
        told.wait("on_unknown", 101)
    kept = numbers(tmp_path)
    (dropped,) = [record for record in read(tmp_path) if record.kind == "dropped"]
    lost = [n for n in range(101) if n not in kept]
    assert dropped.values["count"] == len(lost) > 50
    times = [event.received_ns for event in told.on_unknown]
    assert dropped.values["from_ns"] == times[lost[0]]
    assert dropped.values["to_ns"] == times[lost[-1]]


def test_a_folder_that_is_removed_is_made_again(exchange: Exchange, tmp_path: Path) -> None:
    import shutil  # noqa: PLC0415

    told, folder = Recorder(), tmp_path / "day"
    journal = Journal(folder, flush_interval=0.02)
    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        shutil.rmtree(folder)
        push(exchange, 1)
        until(lambda: journal.failure is not None)
        push(exchange, 2)
        assert len(told.wait("on_error")) == 1
        told.wait("on_unknown", 2)
        until(lambda: folder.exists() and files.written(folder) and numbers(folder) == [1, 2])


def test_what_the_disk_did_not_confirm_is_not_there_twice(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = False

    def sync(descriptor: int) -> None:
        if fails:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", sync)
    told, journal = Recorder(), Journal(tmp_path, flush_interval=0.02, fsync="flush")
    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        fails = True
        push(exchange, 1)
        until(lambda: journal.failure)
        push(exchange, 2)
        told.wait("on_error")
        fails = False
    assert numbers(tmp_path) == [1, 2]


def test_what_could_not_be_written_at_the_end_is_by_the_next_start(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=0.02)
    stream = stream_on(exchange, journal, **told.callbacks)
    with stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        disk.full = True
        push(exchange, 1)
        told.wait("on_unknown")
    disk.full = False
    with stream:
        assert stream.wait_ready(5)
        push(exchange, 2)
        told.wait("on_unknown", 2)
    assert numbers(tmp_path) == [1, 2]
    runs = [record.kind for record in read(tmp_path) if record.kind in ("started", "stopped")]
    assert runs == ["started", "stopped"] * 2


def test_writing_is_not_tried_more_often_as_more_waits(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=600)
    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        disk.full, began = True, time.monotonic()
        for number in range(400):
            exchange.push({"channel": "numbers", "n": number, "fill": "x" * 5000})
            told.wait("on_unknown", number + 1)
        assert disk.tried <= 2 + (time.monotonic() - began) / writer.RETRY
        disk.full = False
        until(lambda: numbers(tmp_path)[-1:] == [399])  # nor more seldom than that
    assert numbers(tmp_path) == [*range(400)]


def test_who_starts_while_nothing_can_be_written_is_told(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=0.02)
    with journal, stream_on(exchange, journal) as first:
        assert first.wait_ready(5)
        disk.full = True
        push(exchange, 1)
        until(lambda: journal.failure)
        with stream_on(exchange, journal, **told.callbacks) as stream:
            assert stream.wait_ready(5)
            push(exchange, 2)
            assert isinstance(told.wait("on_error")[0], JournalError)
        disk.full = False


def test_who_leaves_has_noted_what_was_dropped(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=0.02, buffer_bytes=500)
    with journal:
        with stream_on(exchange, journal, name="leaves", **told.callbacks) as stream:
            assert stream.wait_ready(5)
            assert journal.flush()
            disk.full = True
            for number in range(50):
                push(exchange, number)
                told.wait("on_unknown", number + 1)
        disk.full = False
    kinds = [record.kind for record in read(tmp_path, stream="leaves")]
    (dropped,) = [record for record in read(tmp_path) if record.kind == "dropped"]
    all_of_them = ["started", "connected", "subscribed", "disconnected", "stopped"]
    assert dropped.values["count"] == len(all_of_them) + 50 - (len(kinds) - 1)


def test_all_streams_together_have_one_buffer(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1_000_000
    disk, told = Disk(monkeypatch), Recorder()
    journal = Journal(tmp_path, flush_interval=600, buffer_bytes=limit)
    streams = [stream_on(exchange, journal, **told.callbacks) for _ in range(5)]
    with Fleet(streams) as fleet:
        assert fleet.wait_ready(5)
        assert journal.flush()
        disk.full = True
        for number in range(100):
            exchange.push({"channel": "numbers", "n": number, "fill": "x" * 9000})
            told.wait("on_unknown", 5 * (number + 1))
        assert sum(each.waiting for each in journal.recorders) < 1.5 * limit
        disk.full = False


def test_a_mistake_of_ours_ends_the_journal_and_not_the_stream(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Recorder()
    journal = Journal(tmp_path, flush_interval=0.02)
    stream = stream_on(exchange, journal, **told.callbacks)
    with stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        with monkeypatch.context() as patch:
            patch.setattr(writer, "check_line", None)
            push(exchange, 1)
            until(lambda: journal.failure)
        for number in range(2, 10):
            push(exchange, number)
            told.wait("on_unknown", number)
        assert not journal.flush(1)
        (error,) = told.on_error
        assert "has stopped: TypeError" in str(error)
    with stream:
        assert stream.wait_ready(5)
        push(exchange, 10)
        told.wait("on_unknown", 10)
    assert numbers(tmp_path)[-1] == 10
    assert len(told.on_error) == 1


def test_what_comes_while_a_large_segment_is_compressed_is_written_in_time(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PIECE", 100)
    seen: list[list[int]] = []
    told = Recorder()

    class Packer:
        """Has a number pushed, and waits until it is in a file."""

        def compress(self, piece: bytes) -> bytes:
            if not seen:
                push(exchange, 2)
                told.wait("on_unknown", 2)
                seen.append([])
            seen.append(numbers(tmp_path))
            return piece

        def flush(self) -> bytes:
            return b""

    with stream_on(
        exchange, Journal(tmp_path, flush_interval=0.002, segment_bytes=20_000), **told.callbacks
    ) as stream:
        assert stream.wait_ready(5)
        monkeypatch.setattr(files.isal_zlib, "compressobj", lambda *_: Packer())
        exchange.push({"channel": "numbers", "n": 1, "fill": "x" * 20_000})
        until(lambda: [1, 2] in seen)


def test_what_can_not_be_compressed_is_said_once_and_is_later(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    tried = 0

    def no_room(*_: Any) -> None:
        nonlocal tried
        tried += 1
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "RETRY", 0.002)
    told = Recorder()
    journal = Journal(tmp_path, flush_interval=0.02, segment_bytes=1)
    with stream_on(exchange, journal, **told.callbacks) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(writer, "compress", no_room)
            assert stream.wait_ready(5)
            until(lambda: tried > 5)
        until(lambda: not [*tmp_path.glob("*.jsonl")])
    assert len(logged(caplog, "journal_uncompressed")) == 1
    assert not told.on_error


def test_a_child_that_is_forked_in_a_callback_leaves_the_journal_alone(
    exchange: Exchange, tmp_path: Path
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    body = """
    import warnings
    from fastpos.journal import Journal
    warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from 3.12 on
    done = threading.Event()

    def fork(event):
        if event.raw["n"] == 1:
            child = os.fork()
            if child == 0:
                return
            print(os.waitpid(child, 0)[1])
        else:
            done.set()

    with new(journal=Journal(words[0], flush_interval=600.0), on_unknown=fork) as stream:
        assert done.wait(10)
    """
    with streaming(exchange, body, str(tmp_path)) as process:
        assert exchange.wait_for_subscribers(1, 10)
        push(exchange, 1)
        read_until(process, "0\n")
        push(exchange, 2)
        finish(process)
    assert numbers(tmp_path) == [1, 2]
    assert [record.kind for record in read(tmp_path)][-1] == "stopped"


def test_a_folder_stays_the_same_when_the_process_goes_elsewhere(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with stream_on(exchange, Journal("day", segment_bytes=1)) as stream:
        monkeypatch.chdir(tmp_path / "b")
        assert stream.wait_ready(5)
    assert [path.name for path in tmp_path.glob("*/*")] == ["day"]
    assert (tmp_path / "a" / "day").exists()


def test_a_program_that_ends_without_a_stop_loses_nothing(
    exchange: Exchange, tmp_path: Path
) -> None:
    body = """
    from fastpos.journal import Journal
    came = threading.Event()
    stream = new(
        journal=Journal(words[0], flush_interval=600.0), on_unknown=lambda event: came.set()
    ).start()
    assert stream.wait_ready(10) and came.wait(10)
    """
    with streaming(exchange, body, str(tmp_path)) as process:
        assert exchange.wait_for_subscribers(1, 10)
        push(exchange, 1)
        finish(process)
    assert numbers(tmp_path) == [1]


def test_a_child_that_was_forked_may_write_where_its_parent_has(
    exchange: Exchange, tmp_path: Path
) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    with stream_on(exchange, tmp_path) as stream:
        assert stream.wait_ready(5)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with stream_on(exchange, tmp_path, name="child") as stream:
                status = 0 if stream.wait_ready(5) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [record.stream for record in read(tmp_path)][-1] == "child"


def test_a_child_that_was_forked_writes_nothing(exchange: Exchange, tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork here")
    told = Recorder()
    journal = Journal(tmp_path, flush_interval=0.02)
    with stream_on(exchange, journal, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        push(exchange, 1)
        told.wait("on_unknown")
        child = os.fork()
        if child == 0:
            stream.stop()
            journal.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        push(exchange, 2)
        told.wait("on_unknown", 2)
    assert numbers(tmp_path) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"segment_bytes": 0}, "segment_bytes"),
        ({"segment_bytes": 1.5}, "segment_bytes"),
        ({"segment_seconds": 0}, "segment_seconds"),
        ({"flush_interval": "1"}, "flush_interval"),
        ({"keep_bytes": -1}, "keep_bytes"),
        ({"fsync": "always"}, "fsync"),
        ({"buffer_bytes": True}, "buffer_bytes"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    tmp_path: Path, arguments: dict[str, Any], what: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=what):
        Journal(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_journal_of_another_type_is_refused_by_the_stream() -> None:
    with pytest.raises(TypeError, match="journal must be a path or a Journal, not int"):
        PositionStream("wss://h/", api_key=KEY, broker=1, journal=7)  # type: ignore[arg-type]


def test_importing_the_package_does_not_import_it() -> None:
    code = (
        "import sys, fastpos; fastpos.PositionStream('wss://h/', api_key='k', broker=1);"
        "sys.exit(any('fastpos.journal' in name for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
