"""Files: names that sort by time, closing, what a killed process left, and the lock."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastpos.errors import JournalError
from fastpos.journal import Journal
from fastpos.journal import segments as files
from fastpos.journal.segments import (
    FolderLock,
    Segment,
    compress,
    leftovers,
    next_name,
    segments,
)

T = 1764126720_123456_000


def test_names_are_times_and_sort_by_them(tmp_path: Path) -> None:
    first = next_name(tmp_path, T)
    assert first == time.strftime("%Y%m%dT%H%M%S", time.gmtime(T // 10**9)) + ".123456Z.jsonl"
    (tmp_path / first).touch()
    assert next_name(tmp_path, T + 1000) > first


@pytest.mark.parametrize("ns", [T, T - 1, T - 10**15])
def test_a_clock_that_was_set_back_makes_no_earlier_name(tmp_path: Path, ns: int) -> None:
    (tmp_path / next_name(tmp_path, T)).touch()
    (tmp_path / (next_name(tmp_path, ns) + ".gz")).touch()
    names = [path.name for path in segments(tmp_path)]
    assert len(names) == 2
    assert next_name(tmp_path, ns) > max(names)


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    for name in ("zz.jsonl", "note.jsonl.gz.part", "20261126T031200.123456Z.jsonl"):
        (tmp_path / name).touch()
    assert [path.name for path in leftovers(tmp_path)] == ["20261126T031200.123456Z.jsonl"]
    assert len([*tmp_path.iterdir()]) == 3
    assert next_name(tmp_path, T).startswith("20261126T031200.123457Z")


def test_a_name_that_is_no_time_is_said(tmp_path: Path) -> None:
    (tmp_path / "99999999T999999.999999Z.jsonl").touch()
    with pytest.raises(OSError, match="99999999"):
        next_name(tmp_path, T)


def test_a_segment_takes_lines_whole_or_not_at_all(tmp_path: Path) -> None:
    segment = Segment(tmp_path / "a.jsonl", b"head\n")
    segment.write(b"one\n")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        segment.write(b"two\n")
    segment.close()
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(FileExistsError):
        Segment(tmp_path / "b.jsonl", b"head\n")


@pytest.mark.parametrize("size", [0, 10, 1_000_000])
def test_closing_puts_a_gzip_of_the_same_in_its_place(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content := os.urandom(size))
    compress(path, sync=True)
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl.gz"]
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == content


def test_of_both_forms_of_one_segment_the_gzip_counts(tmp_path: Path) -> None:
    name = next_name(tmp_path, T)
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"x"))
    (tmp_path / next_name(tmp_path, T + 1).replace(".jsonl", ".jsonl.gz.part")).touch()
    assert [path.name for path in segments(tmp_path)] == [f"{name}.gz"]
    (left,) = leftovers(tmp_path)
    compress(left, sync=False)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.gz"]


def test_a_gzip_that_can_not_be_made_leaves_the_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x")
    (tmp_path / "a.jsonl.gz.part").mkdir()
    with pytest.raises(OSError, match="part"):
        compress(path, sync=False)
    assert path.read_bytes() == b"x"


HOLDER = """
import sys
from pathlib import Path
from fastpos.journal.segments import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_one_writers_of_this_process_and_of_others(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "new" / "folder")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(JournalError, match=rf"process {process.pid}"):
            FolderLock(tmp_path / "new" / "folder")
        process.kill()
    lock = FolderLock(tmp_path / "new" / "folder")
    with pytest.raises(JournalError, match=str(os.getpid())):
        FolderLock(tmp_path / "new" / "folder")
    lock.release()
    FolderLock(tmp_path / "new" / "folder").release()


def test_a_folder_where_nothing_can_be_locked_is_said_to_be_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(files, "_lock", unsupported)
    with pytest.raises(OSError, match="it can't be locked: Operation not supported"):
        FolderLock(tmp_path)
    with pytest.raises(JournalError, match=r"can't be written in .* it can't be locked"):
        Journal(tmp_path).open()


@pytest.mark.skipif(sys.platform == "win32", reason="an open file can't be moved there")
def test_a_folder_that_was_made_again_is_locked_again(tmp_path: Path) -> None:
    folder = tmp_path / "day"
    lock = FolderLock(folder)
    lock.hold()
    folder.rename(tmp_path / "before")
    other = FolderLock(folder)
    with pytest.raises(JournalError, match="another journal"):
        lock.hold()
    other.release()
    lock.hold()
    with pytest.raises(JournalError, match="another journal"):
        FolderLock(folder)
    lock.release()
