"""`read`: what stands in a journal, record by record, in constant memory.

What is wrong is told with its file and line, and nothing is guessed. Only a last line without an
end is passed over, as that is what is left where a process was killed or a disk was full: its
writer took it for not written, and the next segment goes on from there.

A push is told from its line by the bytes around its text (format.py), so that it need not be
parsed; that nothing in it was altered, the segment's check lines say.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from io import BufferedReader, FileIO
from itertools import chain
from math import isfinite
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
from isal import igzip, isal_zlib

from ..errors import JournalError
from ..wire.session import GZIP_MAGIC
from .format import CHECK, FORMAT, HEADER, PUSH, RAW, VERSION, parse
from .segments import segments

__all__ = ["Record", "read"]

_inflate_error: type[Exception] = isal_zlib.error  # type: ignore[assignment]
_PLAIN_SIZE = 1024 * 1024  # so much is read at once, bytes
_HEADER_SIZE = 64 * 1024  # what has a longer first line is no segment, bytes
_WHERE = "Give the folder that journal= or `fastpos record` wrote in, or a file of it."
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Record(NamedTuple):
    """A line of a journal."""

    received_ns: int
    """When it was read or happened: `time.time_ns()`, nanoseconds since the epoch."""
    stream: str
    """The stream's name."""
    connection: int
    """The number of its connection, from 1 in each run; 0 where none was tried yet."""
    kind: str
    """"push", or what explains it: "started", "connected", "subscribed", "paused", "stale",
    "undelivered", "undecodable", "snapshot_asked", "snapshot", "snapshot_failed",
    "snapshot_doubted", "snapshot_unwanted", "dropped", "disconnected", "stopped"."""
    text: bytes
    """Of a push, what the wire said, inflated; else nothing."""
    values: dict[str, Any]
    """What else the line says, by name; numbers with a fraction are `Decimal`."""


Time = int | float | datetime
"""Nanoseconds since the epoch as an int, seconds as a float, or a datetime with a time zone."""


def read(
    path: str | os.PathLike[str],
    *,
    stream: str | None = None,
    since: Time | None = None,
    until: Time | None = None,
    on_error: Callable[[JournalError], object] | None = None,
) -> Iterator[Record]:
    """Iterate over the records of a journal, from the oldest to the newest.

    It may be read while it is written: then it ends with what was there. Files of a folder that are
    removed meanwhile, as with `keep_bytes`, are passed over.

    Args:
        path: the folder, or one of its files.
        stream: only of the stream of this name.
        since: only what came at this time or later: nanoseconds since the epoch (int), seconds
            (float), or a `datetime` with a time zone.
        until: only what came before this time.
        on_error: is told of what is wrong in the files, and reading goes on with the next line that
            is right; None: it is raised.

    Raises:
        JournalError: there is no journal, or what is read was altered; it has file and line.
        TypeError, ValueError: an argument is unusable.
    """
    first, last = _nanoseconds("since", since), _nanoseconds("until", until)
    if stream is not None and not isinstance(stream, str):
        raise TypeError(f"stream must be a str, not {type(stream).__name__}")
    files = _files(Path(path))
    # Of a folder, what was the oldest may be removed before it is its turn (`keep_bytes`).
    is_folder = files != [Path(path)]
    return _filtered(files, is_folder, stream, first, last, on_error or _raise)


def _raise(error: JournalError) -> None:
    raise error


def _nanoseconds(name: str, time: Time | None) -> int | None:
    if time is None or type(time) is int:
        return time
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"{name} is a datetime without a time zone")
        return (time - _EPOCH) // timedelta(microseconds=1) * 1000
    if not isinstance(time, float):
        raise TypeError(f"{name} must be an int, a float or a datetime, not {type(time).__name__}")
    if not isfinite(time):
        raise ValueError(f"{name} must be a number of seconds, not {time}")
    return int(time * 1e9)


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            if not path.exists():
                raise JournalError(f"there is no journal {path}", str(path)).advising(_WHERE)
            return [path]
        files = segments(path)
    except OSError as error:
        raise JournalError(f"{path} can't be read: {error}", str(path)).advising(_WHERE) from error
    if not files:
        raise JournalError(f"there is no segment of a journal in {path}", str(path)).advising(
            _WHERE
        )
    return files


def _filtered(
    files: list[Path],
    is_folder: bool,
    stream: str | None,
    since: int | None,
    until: int | None,
    on_error: Callable[[JournalError], object],
) -> Iterator[Record]:
    for file in files:
        for record in _records(file, is_folder, on_error):
            if stream is not None and record[1] != stream:
                continue
            if since is not None and record[0] < since:
                continue
            if until is not None and record[0] >= until:
                continue
            yield record


def _open(path: Path) -> BufferedReader:
    try:
        return BufferedReader(FileIO(path), _PLAIN_SIZE)
    except FileNotFoundError:  # it was closed meanwhile: its gzip was there before it went
        return BufferedReader(FileIO(path.with_name(path.name + ".gz")), _PLAIN_SIZE)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a segment; its name need not tell what it is."""
    packed: Any = igzip
    with _open(path) as file:
        if file.peek(2)[:2] != GZIP_MAGIC:
            yield file
            return
        with packed.open(file, "rb") as inflated:
            yield inflated


def _records(
    path: Path, may_be_gone: bool, on_error: Callable[[JournalError], object]
) -> Iterator[Record]:
    name = str(path)
    number = 0  # of the line
    checked = 0  # the last line that a check was right of
    crc = 0
    crc32 = isal_zlib.crc32
    head_bytes, head = b"", (0, "", 0)  # of the last push: the next often has the same
    nothing: dict[str, Any] = {}
    new = partial(tuple.__new__, Record)
    wrong = partial(_wrong, name, on_error)
    try:
        with _opened(path) as file:
            first = file.readline(_HEADER_SIZE)
            if not first.endswith(b"\n") and len(first) < _HEADER_SIZE:
                return  # it has just begun, or its process ended then
            if not _is_header(first):
                if not first.startswith(b'{"ns":') or b'"kind":"header"' in first:
                    error = JournalError(f"{name} is no segment of a journal", name, 1)
                    on_error(error.advising(_WHERE))
                    return
                wrong(1, "this is no segment of a journal, or its header was altered")
            for line in chain((first,), file):
                number += 1
                before, crc = crc, crc32(line, crc)
                begin = line.find(RAW)
                if begin > 0 and line.endswith(b"}\n"):
                    if (begins := line[:begin]) != head_bytes:
                        found = _head(begins)
                        if found is not None:
                            head_bytes, head = begins, found
                    if begins == head_bytes:
                        yield new((*head, PUSH, line[begin + len(RAW) : -2], nothing))
                        continue
                if not line.endswith(b"\n"):
                    break  # it was never whole; in the middle of a file there is no such line
                try:
                    (ns, stream, connection), kind, text, values = parse(line)
                except ValueError as error:
                    wrong(number, str(error))
                    continue
                if kind == CHECK:
                    if values.get("crc32") != f"{before:08x}":
                        wrong(checked + 1, f"lines up to {number} were altered: their check fails")
                        # What follows may be right; its checks are over all of it, and know it too.
                        crc = _resumed(values, line)
                    checked = number
                elif kind == HEADER:
                    if values.get("format") == FORMAT and values.get("version") != VERSION:
                        version = values.get("version")
                        wrong(number, f"this is version {version!r}, which is not known here")
                        return
                    # Or another segment was put behind the last.
                    checked, crc = number - 1, crc32(line)
                else:
                    assert stream is not None
                    yield Record(ns, stream, connection, kind, text, values)
    except FileNotFoundError as error:
        if not may_be_gone:
            wrong(1, f"it can't be read: {error}")
    except (OSError, EOFError, _inflate_error) as error:
        wrong(number + 1, f"it can't be read: {error}")


def _resumed(check: dict[str, Any], line: bytes) -> int:
    """The CRC that goes on from what a check says, so that one fault is told once."""
    try:
        return isal_zlib.crc32(line, int(check["crc32"], 16))
    except (KeyError, TypeError, ValueError):
        return 0


def _wrong(file: str, on_error: Callable[[JournalError], object], line: int, what: str) -> None:
    error = JournalError(f"{file}, line {line}: {what}", file, line)
    on_error(error.advising("What stands there is passed over; with on_error= the rest is read."))


def _head(data: bytes) -> tuple[int, str, int] | None:
    """What all lines begin with; None: it is another line, which has the mark further inside."""
    try:
        values = orjson.loads(data + b"}")
        ns, stream, connection = values["ns"], values["stream"], values["connection"]
    except (ValueError, KeyError, TypeError):
        return None
    if type(ns) is not int or type(stream) is not str or type(connection) is not int:
        return None
    return ns, stream, connection


def _is_header(line: bytes) -> bool:
    try:
        _, kind, _, values = parse(line)
    except ValueError:
        return False
    return kind == HEADER and values.get("format") == FORMAT
