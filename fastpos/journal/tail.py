"""`Tail`: follows a journal that is being written, from one file to the next.

What is written at once ends with a "check" (format.py): in the newest file nothing is taken that
has none after it yet, as it may be undone where the disk is full. A file that another has followed
is final: of it all is taken but a torn last line.

A place in a journal is a segment and the bytes before a line in there, inflated; places sort as
the lines do.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from isal import igzip, isal_zlib

from .segments import segments, stem_of

__all__ = ["Piece", "Place", "Tail", "end_of", "holds"]

Place = tuple[str, int]
"""A segment's name without its ending, and how many bytes stand before a line in there."""

_CHECK = re.compile(rb'\{"ns":\d+,"kind":"check","crc32":"[0-9a-f]{8}"\}\n')
_inflate_error: type[Exception] = isal_zlib.error  # type: ignore[assignment]
END = 1 << 60
"""In a place: after all that its segment has, and what it may have yet."""
# So much is read at once, bytes.
_AT_ONCE = 1024 * 1024


class Piece(NamedTuple):
    """Whole lines that follow one another."""

    segment: str
    begin: int
    """How many bytes stand before them in there."""
    data: bytes
    is_after_gap: bool
    """Files before it were removed before they were read."""


class Tail:
    """Reads what comes after a place, and what is written later. It belongs to one thread.

    Args:
        folder: the journal's.
        place: from where on.
    """

    def __init__(self, folder: Path, place: Place) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._rest = b""  # read, but not given yet
        self._is_final = False  # another file has followed
        self._is_after_gap = False
        self.place: Place = place
        """Of the next line."""

    def close(self) -> None:
        """Close the file that is open."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest, self._is_final = None, b"", False

    def go_to(self, place: Place) -> None:
        """Go on from there."""
        self.close()
        self.place, self._is_after_gap = place, False

    def skip_segment(self) -> None:
        """Go on with the next file; what it gives is after a gap."""
        self.go_to((self.place[0], END))
        self._is_after_gap = True

    def read(self) -> Piece | None:
        """Give what comes next; None: there is nothing more yet.

        Raises:
            OSError: a file can't be read.
        """
        try:
            return self._read()
        except (EOFError, _inflate_error) as error:
            raise OSError(f"{self.place[0]} was altered: {error}") from error

    def _read(self) -> Piece | None:
        while True:
            if self._file is None and not self._open():
                return None
            assert self._file is not None
            data = self._file.read(_AT_ONCE)
            rest = self._rest = self._rest + data
            end = self._whole(rest)
            if end:
                segment, begin = self.place
                self._rest = rest[end:]
                self.place = segment, begin + end
                piece = Piece(segment, begin, rest[:end], self._is_after_gap)
                self._is_after_gap = False
                return piece
            if data:
                continue
            if self._is_final:
                self._leave()
            elif self._next() is None:
                return None
            else:
                self._is_final = True  # what it has is all it will have; that is read once more,
                self._file.seek(self.place[1])  # as what was undone may have been read
                self._rest = b""

    def _whole(self, data: bytes) -> int:
        """How many of the bytes are lines that stay."""
        end = data.rfind(b"\n") + 1
        if self._is_final:
            return end
        while end:
            begin = data.rfind(b"\n", 0, end - 1) + 1
            if _CHECK.match(data, begin, end):
                return end
            end = begin
        return 0

    def _open(self) -> bool:
        """Open the file of the place, or the first after it; whether there is one."""
        if self.place[1] == END and self._next() is not None:
            self._leave()
        segment, offset = self.place
        if offset == END:
            return False
        found = _holding(self._folder, segment)
        if found is None:
            after = self._next()
            if after is None:
                return False
            self._is_after_gap |= bool(segment)
            segment, offset = stem_of(after), 0
            found, self.place = after, (segment, 0)
        file = _opened(found)
        self._is_final = self._next() is not None
        left = offset
        while left and (skipped := file.read(min(left, _AT_ONCE))):
            left -= len(skipped)
        self._file, self._rest = file, b""
        return True

    def _leave(self) -> None:
        """Go on with the next file."""
        segment = self.place[0]
        after = self._next()
        self.close()
        if after is not None:
            self.place = stem_of(after), 0
            # The oldest are removed first, so where this one is there yet, none was between.
            self._is_after_gap |= _holding(self._folder, segment) is None

    def _next(self) -> Path | None:
        return next(
            (each for each in segments(self._folder) if stem_of(each) > self.place[0]), None
        )


def end_of(folder: Path) -> Place:
    """Where a journal ends now: all that is written later comes after it.

    Raises:
        OSError: it can't be read.
    """
    found = []
    with suppress(FileNotFoundError):  # the folder was removed: the journal makes it anew
        found = segments(folder)
    if not found:
        return "", 0
    try:
        return stem_of(found[-1]), (
            found[-1].stat().st_size if found[-1].suffix == ".jsonl" else END
        )
    except FileNotFoundError:  # it was closed meanwhile
        return stem_of(found[-1]), END


def holds(folder: Path, place: Place) -> bool:
    """Whether a place is in this journal."""
    return _holding(folder, place[0]) is not None


def _opened(path: Path) -> IO[bytes]:
    """Open a file of a journal, which may be replaced by its gzip meanwhile."""
    if path.suffix != ".gz":
        try:
            return open(path, "rb", buffering=0)
        except FileNotFoundError:
            path = path.with_name(path.name + ".gz")
    packed: Any = igzip
    opened: IO[bytes] = packed.open(path, "rb")
    return opened


def _holding(folder: Path, segment: str) -> Path | None:
    """Give the file of a segment that is there."""
    for ending in (".jsonl.gz", ".jsonl"):
        path = folder / (segment + ending)
        if segment and path.exists():
            return path
    return None
