"""`Marks`: from where on a journal's streams may have records that Redis knows nothing of.

Redis keeps up to where a stream is published (files.py), but not of one that began while Redis was
away, and whose process was killed before it was back. So a stream's beginning is put down in a file
in the journal's folder, and taken back when Redis knows of it.

The file has one JSON list a line: a stream's name with a segment and an offset there, or the name
alone where that is taken back.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import orjson

from ..journal.tail import Place
from ..logs import fields, log

__all__ = ["Marks"]

_NAME = ".publishing"


class Marks:
    """The file, and what it says. Any thread may use it; `_lock` guards both.

    Args:
        folder: the journal's, which nobody else writes in.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._begun: Counter[str] = Counter()  # how often each has begun, in this process
        with suppress(FileNotFoundError):
            for line in self._path.read_bytes().split(b"\n"):
                with suppress(ValueError, TypeError):  # the last may be torn
                    name, *place = orjson.loads(line)
                    self._take(name, (str(place[0]), int(place[1])) if place else None)
            # What is written down anew is short, and has no torn line.
            whole = b"".join(_line(name, place) for name, place in self._places.items())
            part = self._path.with_name(_NAME + ".part")
            part.write_bytes(whole)
            part.replace(self._path)

    def _take(self, name: str, place: Place | None) -> None:
        if place is None:
            self._places.pop(name, None)
        else:
            self._places.setdefault(name, place)

    def begin(self, name: str, place: Place) -> Place:
        """A stream begins there; gives where it began the first time that is not taken back."""
        with self._lock:
            self._begun[name] += 1
            if name not in self._places:
                self._places[name] = place
                self._write(_line(name, place))
            return self._places[name]

    def end(self, name: str, times: int, place: Place) -> None:
        """Redis knows what it is to know.

        Args:
            name: the stream's.
            times: so often it had begun; where it has again since then, it goes on from `place`.
            place: up to where it was taken.
        """
        with self._lock:
            if self._places.pop(name, None) is None:
                return
            line = _line(name, None)
            if self._begun[name] != times:
                self._places[name] = place
                line += _line(name, place)
            self._write(line)

    def _write(self, line: bytes) -> None:
        try:
            with self._path.open("ab") as file:
                file.write(line)
        except OSError as error:
            log.warning(
                "%s can't be written; a kill now would leave unpublished what was not yet: %s",
                self._path,
                error,
                extra=fields("unmarked", folder=str(self._path.parent)),
            )


def _line(name: str, place: Place | None) -> bytes:
    return orjson.dumps([name, *(place or ())]) + b"\n"
