"""`Tail`: a journal that is being written is followed from line to line and from file to file."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fastpos.journal.format import check_line, header_line
from fastpos.journal.tail import Place, Tail, end_of, holds

FIRST, SECOND, THIRD = (f"20261126T03120{n}.000000Z" for n in range(3))
HEADER = header_line(1, {"library": "test"})
CHECK = check_line(2, 0)


def lines(*numbers: int) -> bytes:
    return b"".join(b'{"ns":%d,"stream":"alice"}\n' % number for number in numbers)


def write(folder: Path, segment: str, data: bytes) -> Path:
    path = folder / (segment + ".jsonl")
    with path.open("ab") as file:
        file.write(data)
    return path


def pack(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def drained(tail: Tail) -> bytes:
    """All it gives now, without headers and checks."""
    data = b""
    while (piece := tail.read()) is not None:
        assert (piece.segment, piece.begin + len(piece.data)) == tail.place
        data += piece.data
    return b"".join(each for each in data.splitlines(True) if b'"stream"' in each)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_what_is_written_later(folder: Path) -> None:
    tail = Tail(folder, end_of(folder))
    assert tail.read() is None
    write(folder, FIRST, HEADER + lines(1) + CHECK)
    assert drained(tail) == lines(1)
    assert tail.read() is None
    write(folder, FIRST, lines(2, 3) + CHECK)
    assert drained(tail) == lines(2, 3)


def test_nothing_is_taken_that_may_be_undone(folder: Path) -> None:
    path = write(folder, FIRST, HEADER + CHECK + lines(1, 2))
    tail = Tail(folder, ("", 0))
    assert drained(tail) == b""
    write(folder, FIRST, CHECK)
    assert drained(tail) == lines(1, 2)
    assert tail.place == (FIRST, path.stat().st_size)


def test_what_was_undone_after_it_was_read_is_not_taken_when_another_file_follows(
    folder: Path,
) -> None:
    path = write(folder, FIRST, HEADER + lines(1) + CHECK)
    size = path.stat().st_size
    tail = Tail(folder, ("", 0))
    write(folder, FIRST, lines(2, 3) + b'{"ns":4')  # and the disk is full
    assert drained(tail) == lines(1)
    with path.open("r+b") as file:
        file.truncate(size)
    write(folder, SECOND, HEADER + lines(2, 3, 4) + CHECK)
    assert drained(tail) == lines(2, 3, 4)


def test_a_text_that_looks_like_a_check_is_none(folder: Path) -> None:
    push = b'{"ns":1,"stream":"alice","kind":"push","json":' + CHECK[:-1] + b"}\n"
    write(folder, FIRST, HEADER + CHECK + push)
    tail = Tail(folder, ("", 0))
    assert drained(tail) == b""
    write(folder, FIRST, CHECK)
    assert drained(tail) == push


def test_of_a_file_that_another_follows_all_is_taken_but_a_torn_line(folder: Path) -> None:
    write(folder, FIRST, HEADER + lines(1) + CHECK + lines(2) + b'{"ns":3,"str')
    write(folder, SECOND, HEADER + lines(4) + CHECK)
    assert drained(Tail(folder, ("", 0))) == lines(1, 2, 4)


@pytest.mark.parametrize("is_open", [True, False], ids=["open", "not open yet"])
def test_a_file_that_is_compressed_meanwhile(folder: Path, is_open: bool) -> None:
    path = write(folder, FIRST, HEADER + lines(1) + CHECK)
    tail = Tail(folder, (FIRST, len(HEADER)))
    if is_open:
        assert drained(tail) == lines(1)
    write(folder, FIRST, lines(2) + CHECK)
    write(folder, SECOND, HEADER + lines(3) + CHECK)
    pack(path)
    pack(write(folder, SECOND, lines(4) + CHECK))
    write(folder, THIRD, HEADER + lines(5) + CHECK)
    assert drained(tail) == lines(*[1, 2, 3, 4, 5][is_open:])
    assert not tail.read()


def test_any_place_can_be_gone_back_to(folder: Path) -> None:
    pack(write(folder, FIRST, HEADER + lines(1, 2) + CHECK))
    write(folder, SECOND, HEADER + lines(3) + CHECK)
    tail = Tail(folder, end_of(folder))
    assert drained(tail) == b""
    places: list[tuple[Place, bytes]] = [
        ((FIRST, len(HEADER + lines(1))), lines(2, 3)),
        ((FIRST, 1 << 60), lines(3)),
        ((SECOND, len(HEADER + lines(3))), b""),
        (("", 0), lines(1, 2, 3)),
    ]
    for place, expected in places:
        tail.go_to(place)
        assert drained(tail) == expected


def test_files_that_were_removed_before_they_were_read(folder: Path) -> None:
    first = write(folder, FIRST, HEADER + lines(1) + CHECK)
    tail = Tail(folder, ("", 0))
    assert drained(tail) == lines(1)
    write(folder, THIRD, HEADER + lines(3) + CHECK)
    first.unlink()  # and the second
    pieces = [tail.read(), tail.read()]
    assert [piece.is_after_gap for piece in pieces if piece] == [True]
    assert holds(folder, (THIRD, 0))
    assert not holds(folder, (FIRST, 0))
    tail.go_to((FIRST, 10))
    piece = tail.read()
    assert piece is not None
    assert piece.is_after_gap


def test_files_that_follow_one_another_have_no_gap(folder: Path) -> None:
    for segment, number in ((FIRST, 1), (SECOND, 2), (THIRD, 3)):
        write(folder, segment, HEADER + lines(number) + CHECK)
    tail = Tail(folder, ("", 0))
    pieces = [tail.read(), tail.read(), tail.read()]
    assert [piece.is_after_gap for piece in pieces if piece] == [False] * 3


def test_the_end(folder: Path) -> None:
    assert end_of(folder) == ("", 0)
    path = write(folder, FIRST, HEADER)
    assert end_of(folder) == (FIRST, len(HEADER))
    pack(path)
    assert end_of(folder) > (FIRST, 1 << 50)
    assert not drained(Tail(folder, end_of(folder)))
