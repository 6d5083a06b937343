"""A journal's files: segments that are written one after the other, and the folder's lock.

The newest segment is plain, and is written by one thread of one process; the others are gzip
(RFC 1952). Their names are when they were begun, so they sort by time:

    20261126T031200.123456Z.jsonl       the one that is written
    20261126T021158.000214Z.jsonl.gz    one that is closed

A segment is closed by writing the gzip beside it under a name that is no segment's, renaming that,
and removing the plain one; whoever finds both takes the gzip. What is left plain by a process that
was killed is closed by the next one.
"""

from __future__ import annotations

import calendar
import errno
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from isal import isal_zlib

from ..errors import JournalError

__all__ = [
    "FolderLock",
    "Segment",
    "begun_at",
    "compress",
    "leftovers",
    "next_name",
    "segments",
    "stem_of",
    "sync_folder",
    "written",
]

PLAIN, PACKED, PART = ".jsonl", ".jsonl.gz", ".part"
_FORM = "%Y%m%dT%H%M%S"
_OURS = re.compile(r"\d{8}T\d{6}\.\d{6}Z", re.ASCII)
# So much is compressed at once, bytes: other threads run between.
PIECE = 256 * 1024
_GZIP = 31  # zlib's name for a window of 32 KiB in gzip's format
# What the system says where somebody else has locked a file; all else is that it can't be locked.
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


def stem_of(path: Path) -> str:
    """Give a segment's name without its ending."""
    return path.name.partition(".jsonl")[0]


def segments(folder: Path) -> list[Path]:
    """Give the segments in a folder, by their names, each once; they may be named by hand.

    Raises:
        OSError: it can't be read.
    """
    found: dict[str, Path] = {}
    # Twice, as one look may see neither name of what is closed meanwhile. The gzip sorts last.
    for path in sorted({*folder.iterdir(), *folder.iterdir()}):
        if path.name.endswith((PLAIN, PACKED)):
            found[stem_of(path)] = path
    return [found[stem] for stem in sorted(found)]


def written(folder: Path) -> list[Path]:
    """Give those of them that a journal has named, from the oldest to the newest."""
    return [path for path in segments(folder) if _OURS.fullmatch(stem_of(path))]


def leftovers(folder: Path) -> list[Path]:
    """Give a journal's segments that are plain; remove what was never made whole."""
    plain = []
    for path in sorted(folder.iterdir()):
        if _OURS.fullmatch(stem_of(path)):
            if path.name.endswith(PART):
                path.unlink()
            elif path.name.endswith(PLAIN):
                plain.append(path)
    return plain


def next_name(folder: Path, ns: int) -> str:
    """Give the name of a segment that is begun at `ns`; it sorts after all that are there."""
    newest = max(map(stem_of, written(folder)), default="")
    while True:
        seconds, rest = divmod(ns, 1_000_000_000)
        stem = f"{time.strftime(_FORM, time.gmtime(seconds))}.{rest // 1000:06}Z"
        if stem > newest:
            return stem + PLAIN
        # The clock was set back, or two were begun in one microsecond.
        ns = begun_at(newest) + 1000


def begun_at(stem: str) -> int:
    """When a segment was begun, by its name, nanoseconds since the epoch."""
    date, _, fraction = stem.partition(".")
    try:
        seconds = calendar.timegm(time.strptime(date, _FORM))
    except ValueError as error:  # all digits, and no date
        raise OSError(f"the name {stem} is no time: {error}") from None
    return seconds * 1_000_000_000 + int(fraction.rstrip("Z")) * 1000


class Segment:
    """A segment that is being written. It belongs to one thread.

    Args:
        path: of the file, which does not exist yet.
        header: its first line.

    Raises:
        OSError: it can't be made. Nothing is left of it then.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self.path = path
        self.size: int = 0
        self._header = len(header)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._fd = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        status = os.fstat(self._fd)
        self._identity = status.st_dev, status.st_ino
        try:
            self.write(header)
        except OSError:
            self.close()
            with suppress(OSError):
                path.unlink()
            raise

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but the header in it."""
        return self.size <= self._header

    def write(self, data: bytes, sync: bool = False) -> None:
        """Write whole lines, all or nothing.

        Args:
            data: the lines.
            sync: have the system put them on the disk.

        Raises:
            OSError: they are not there, as the disk is full or the file was removed.
        """
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) != self._identity:
                raise FileNotFoundError(errno.ENOENT, "the file was replaced", str(self.path))
            if sync:
                os.fsync(self._fd)
        except OSError:
            with suppress(OSError):  # if that fails, too, a reader passes over the torn line
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)

    def sync(self) -> None:
        """Have the system put it on the disk; raises OSError."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            os.close(self._fd)


def compress(path: Path, sync: bool, between: Callable[[], object] = bool) -> None:
    """Put a gzip in the place of a closed segment.

    Args:
        path: of the plain one.
        sync: have the system put it on the disk before the plain one is removed.
        between: called after each piece, as a large one takes its time.

    Raises:
        OSError: that did not work out; the plain one is there.
    """
    packed = path.with_name(stem_of(path) + PACKED)
    part = packed.with_name(packed.name + PART)
    if packed.exists():  # it was done, and then this process's predecessor was killed
        path.unlink()
        return
    try:
        with open(path, "rb") as source, open(part, "wb") as target:
            packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, _GZIP)
            while piece := source.read(PIECE):
                target.write(packer.compress(piece))
                between()
            target.write(packer.flush())
            target.flush()
            if sync:
                os.fsync(target.fileno())
        part.replace(packed)
        if sync:
            sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    path.unlink()


def sync_folder(folder: Path) -> None:
    """Have the system put a folder's names on the disk, where it can."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class FolderLock:
    """Keeps others from writing in a folder, as long as this process lives or until `release`.

    Args:
        folder: which is made if it is not there.

    Raises:
        JournalError: another journal writes there, of this process or another.
        OSError: the folder can't be written in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1
        folder.mkdir(parents=True, exist_ok=True)
        self._take()

    def hold(self) -> None:
        """Take it again where the folder was removed and made again; raises as the class does."""
        path = self._folder / ".lock"
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(self._fd)):
                return
        self.release()
        self._take()

    def _take(self) -> None:
        folder = self._folder
        if not os.access(folder, os.W_OK | os.X_OK):  # though the lock's own file may be open to us
            error = errno.EROFS if _is_read_only(folder) else errno.EACCES
            raise OSError(error, os.strerror(error), str(folder))
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(folder / ".lock", flags, 0o666)
        try:
            _lock(descriptor)
        except OSError as error:
            with open(descriptor, "rb") as file:  # which closes it
                if error.errno not in _TAKEN:
                    raise OSError(
                        error.errno, f"it can't be locked: {error.strerror}", str(folder)
                    ) from error
                owner = file.read(20).strip().decode("latin-1")
            raise JournalError(
                f"another journal writes in {folder}"
                + (f" (process {owner})" if owner.isdigit() else "")
            ).advising("Give each process a folder of its own, or end the other.") from None
        self._fd = descriptor
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())

    def release(self) -> None:
        """Let others write there."""
        descriptor, self._fd = self._fd, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)


def _is_read_only(folder: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


if sys.platform == "win32":

    def _lock(descriptor: int) -> None:
        import msvcrt  # noqa: PLC0415 -- Windows' own

        # A byte beyond the number that is written there: a locked one can't be read.
        os.lseek(descriptor, 1024, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:

    def _lock(descriptor: int) -> None:
        import fcntl  # noqa: PLC0415 -- POSIX' own

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
