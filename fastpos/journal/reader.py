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
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
from isal import igzip, isal_zlib

from ..errors import JournalError
from ..wire.session import GZIP_MAGIC
from .format import CHECK, FORMAT, HEADER, PUSH, VERSION, parse
from .segments import segments

__all__ = ["Record", "read"]

_MARK = b',"kind":"push","json":'
_inflate_error: type[Exception] = isal_zlib.error  # type: ignore[assignment]
_PLAIN_SIZE = 1024 * 1024  # so much is read at once, bytes


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
    "snapshot_doubted", "dropped", "disconnected", "stopped"."""
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

    It may be read while it is written: then it ends with what was there.

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
    return _filtered(files, stream, first, last, on_error or _raise)


def _raise(error: JournalError) -> None:
    raise error


def _nanoseconds(name: str, time: Time | None) -> int | None:
    if time is None or type(time) is int:
        return time
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError(f"{name} is a datetime without a time zone")
        time = time.timestamp()
    if not isinstance(time, float):
        raise TypeError(f"{name} must be an int, a float or a datetime, not {type(time).__name__}")
    return int(time * 1e9)


def _files(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            if not path.exists():
                raise JournalError(f"there is no journal {path}", str(path))
            return [path]
        files = segments(path)
    except OSError as error:
        raise JournalError(f"{path} can't be read: {error}", str(path)) from error
    if not files:
        raise JournalError(f"there is no segment of a journal in {path}", str(path))
    return files


def _filtered(
    files: list[Path],
    stream: str | None,
    since: int | None,
    until: int | None,
    on_error: Callable[[JournalError], object],
) -> Iterator[Record]:
    for file in files:
        for record in _records(file, on_error):
            if stream is not None and record[1] != stream:
                continue
            if since is not None and record[0] < since:
                continue
            if until is not None and record[0] >= until:
                continue
            yield record


def _opened(path: Path) -> IO[bytes]:
    """Open a segment; its name need not tell what it is."""
    if not path.exists() and path.with_name(path.name + ".gz").exists():
        path = path.with_name(path.name + ".gz")  # it was closed meanwhile
    with open(path, "rb") as file:
        is_packed = file.read(2) == GZIP_MAGIC
    if is_packed:
        packed: Any = igzip
        opened: IO[bytes] = packed.open(path, "rb")
        return opened
    return open(path, "rb", buffering=_PLAIN_SIZE)


def _records(path: Path, on_error: Callable[[JournalError], object]) -> Iterator[Record]:
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
            for line in file:
                number += 1
                before, crc = crc, crc32(line, crc)
                begin = line.find(_MARK)
                if begin > 0 and line.endswith(b"}\n"):
                    if line[:begin] != head_bytes:
                        try:
                            head = _head(line[:begin])
                        except ValueError as error:
                            wrong(number, str(error))
                            continue
                        head_bytes = line[:begin]
                    yield new((*head, PUSH, line[begin + 22 : -2], nothing))
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
                    _check_header(name, values)
                elif number == 1:
                    raise JournalError(f"{name} is no segment of a journal", name, 1)
                else:
                    assert stream is not None
                    yield Record(ns, stream, connection, kind, text, values)
    except (OSError, EOFError, _inflate_error) as error:
        wrong(number + 1, f"it can't be read: {error}")


def _resumed(check: dict[str, Any], line: bytes) -> int:
    """The CRC that goes on from what a check says, so that one fault is told once."""
    try:
        return isal_zlib.crc32(line, int(check["crc32"], 16))
    except (KeyError, TypeError, ValueError):
        return 0


def _wrong(file: str, on_error: Callable[[JournalError], object], line: int, what: str) -> None:
    on_error(JournalError(f"{file}, line {line}: {what}", file, line))


def _head(data: bytes) -> tuple[int, str, int]:
    try:
        values = orjson.loads(data + b"}")
        ns, stream, connection = values["ns"], values["stream"], values["connection"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("it is no record") from None
    if type(ns) is not int or type(stream) is not str or type(connection) is not int:
        raise ValueError("it is no record")
    return ns, stream, connection


def _check_header(name: str, values: dict[str, Any]) -> None:
    if values.get("format") != FORMAT:
        raise JournalError(f"{name} is no segment of a journal", name, 1)
    if values.get("version") != VERSION:
        raise JournalError(
            f"{name} is a journal of version {values.get('version')!r}, which is not known here",
            name,
            1,
        )
