"""`read`: in order, filtered, and honest about what is wrong."""

from __future__ import annotations

import gzip
from datetime import datetime, timezone
from pathlib import Path

import pytest

from fastpos.errors import JournalError
from fastpos.journal import Record, read
from fastpos.journal.format import (
    check_line,
    crc_of,
    encoded_line,
    header_line,
    label_of,
    line_of,
    push_lines,
)

ALICE, BOB = label_of("alice"), label_of("bob")


def segment(*writes: bytes) -> bytes:
    """A segment of these writes."""
    content = header_line(1, {"library": "test"})
    for write in writes:
        content += write
        content += check_line(2, crc_of(content))
    return content


DAY = segment(
    line_of(ALICE, 0, 10, "started", {"run": 1}) + push_lines(ALICE, 1, 20, [b"{}", b"[1]"]),
    push_lines(BOB, 1, 30, [b'{"a":1}']) + encoded_line(ALICE, 2, 40, b"\xff"),
)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def texts(*args: object, **filters: object) -> list[bytes]:
    return [record.text for record in read(*args, **filters) if record.kind == "push"]  # type: ignore[arg-type]


def test_a_folder_and_each_of_its_files_plain_or_gzip(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.gz", gzip.compress(DAY))
    write(tmp_path / "b.jsonl", DAY)
    one = [b"{}", b"[1]", b'{"a":1}', b"\xff"]
    assert texts(tmp_path) == one + one
    assert texts(tmp_path / "a.jsonl.gz") == texts(str(tmp_path / "b.jsonl")) == one
    first = next(read(tmp_path))
    assert first == Record(10, "alice", 0, "started", b"", {"run": 1})


def test_filters(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", DAY)
    assert texts(tmp_path, stream="bob") == [b'{"a":1}']
    assert texts(tmp_path, since=30) == [b'{"a":1}', b"\xff"]
    assert texts(tmp_path, until=30) == [b"{}", b"[1]"]
    assert texts(tmp_path, since=30e-9, until=40e-9) == [b'{"a":1}']
    assert texts(tmp_path, since=datetime(1970, 1, 1, tzinfo=timezone.utc), until=21) == [
        b"{}",
        b"[1]",
    ]


@pytest.mark.parametrize(
    ("filters", "what"),
    [
        ({"since": "yesterday"}, "since must be"),
        ({"until": datetime(2026, 1, 1)}, "time zone"),
        ({"stream": 7}, "stream must be"),
    ],
)
def test_filters_that_make_no_sense_are_refused_at_once(
    tmp_path: Path, filters: dict[str, object], what: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=what):
        read(tmp_path, **filters)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_where_there_is_no_journal_that_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    write(tmp_path / "a.jsonl", DAY[:-cut])
    write(tmp_path / "b.jsonl", DAY)
    assert texts(tmp_path)[-4:] == [b"{}", b"[1]", b'{"a":1}', b"\xff"]
    assert set(texts(tmp_path / "a.jsonl")) <= {b"{}", b"[1]", b'{"a":1}', b"\xff"}


def test_what_was_altered_is_told_with_file_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DAY.replace(b'{"a":1}', b'{"a":2}'))
    with pytest.raises(JournalError, match=r"a\.jsonl, line 6: .*up to 8 were altered") as caught:
        texts(path)
    assert (caught.value.file, caught.value.line) == (str(path), 6)
    errors: list[JournalError] = []
    assert texts(path, on_error=errors.append) == [b"{}", b"[1]", b'{"a":2}', b"\xff"]
    assert [error.line for error in errors] == [6]


@pytest.mark.parametrize("flip", range(0, len(DAY), 7))
def test_no_altered_bit_goes_unnoticed(tmp_path: Path, flip: int) -> None:
    altered = bytearray(DAY)
    altered[flip] ^= 1
    write(tmp_path / "a.jsonl", bytes(altered))
    errors: list[JournalError] = []
    try:
        given = list(read(tmp_path, on_error=errors.append))
    except JournalError as error:
        errors.append(error)
        given = []
    last_check = DAY.rindex(b'{"ns":2,"kind":"check"')
    assert errors or (flip >= last_check and len(given) == 5)


def test_lines_that_are_none_are_told_and_the_rest_is_given(tmp_path: Path) -> None:
    content = DAY.replace(b'{"ns":30', b'{"ns":x0').replace(b'"started"', b'"started')
    write(tmp_path / "a.jsonl", content)
    errors: list[JournalError] = []
    assert texts(tmp_path, on_error=errors.append) == [b"{}", b"[1]", b"\xff"]
    assert [error.line for error in errors] == [2, 1, 6, 6]


@pytest.mark.parametrize("content", [b"", b"hello\n", b'{"ns":1,"kind":"header","format":"x"}\n'])
def test_another_file_is_no_journal(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "a.jsonl", content)
    if content:
        with pytest.raises(JournalError, match=r"line 1|no segment"):
            list(read(path))
    else:
        assert list(read(path)) == []


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", DAY.replace(b'"version":1', b'"version":2'))
    with pytest.raises(JournalError, match="version 2"):
        list(read(path))


def test_a_gzip_that_is_cut_or_altered_is_told(tmp_path: Path) -> None:
    packed = gzip.compress(DAY)
    for name, content in (("cut", packed[:-20]), ("bad", packed[:40] + b"\0\0\0" + packed[43:])):
        path = write(tmp_path / f"{name}.jsonl.gz", content)
        with pytest.raises(JournalError, match=f"{name}.*can't be read|altered|no JSON"):
            list(read(path))


def test_what_is_read_of_a_large_file_is_not_kept(tmp_path: Path) -> None:
    import tracemalloc  # noqa: PLC0415

    write(
        tmp_path / "a.jsonl", segment(push_lines(ALICE, 1, 9, [b'"' + b"x" * 1000 + b'"'] * 20_000))
    )
    tracemalloc.start()
    try:
        assert sum(1 for _ in read(tmp_path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
