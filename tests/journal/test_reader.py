"""`read`: in order, filtered, and honest about what is wrong."""

from __future__ import annotations

import gzip
import random
import threading
from datetime import datetime, timezone
from pathlib import Path

import orjson
import pytest

from fastpos.clock import monotonic
from fastpos.errors import JournalError
from fastpos.journal import Journal, Record, read
from fastpos.journal.format import (
    check_line,
    crc_of,
    encoded_line,
    header_line,
    label_of,
    line_of,
    push_lines,
)
from fastpos.journal.recorder import Recorder
from fastpos.journal.segments import segments
from fastpos.wire.credential import Credential

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


ODD = [
    b"[" * 100_000 + b"\n",
    b'{"ns":1,"kind":"x","stream":"a","v":1e99999999999999999999}\n',
    b'{"ns":' + b"9" * 5000 + b',"kind":"x","stream":"a"}\n',
    b"\xff\xfe\0\0{}\n",
    b'{"ns":1,"kind":"check","crc32":"fffffffffffffffffffff"}\n',
    b'{"ns":1,"kind":"check","crc32":"-1"}\n',
    b'{"ns":1,"kind":"check","crc32":[1]}\n',
    b'{"ns":1,"kind":"header"}\n',
    b'{"ns":1,"stream":"a","connection":1,"kind":"push","base64":7}\n',
    b"\x1f\x8b",
    b"\0" * 50,
]
"""What may stand in a foreign or an altered file."""


def altered(chance: random.Random, content: bytes) -> bytes:
    """Flip bits, cut, double, take out, put in what is odd."""
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = chance.choice(ODD)
            case 3:
                data[at:at] = content[chance.randrange(len(content)) :]
            case _:
                del data[at : chance.randrange(at, len(data) + 1)]
    return bytes(data)


def records_before_the_last_check(content: bytes) -> int:
    """How many there are of which a check says that they are right."""
    lines = content.split(b"\n")[:-1]
    checks = [number for number, line in enumerate(lines) if b'"kind":"check"' in line]
    return max(checks[-1] - len(checks), 0) if checks else 0  # without the header


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("is_packed", [False, True])
def test_whatever_a_file_holds_no_wrong_record_is_given_without_a_word(
    tmp_path: Path, seed: int, is_packed: bool
) -> None:
    chance = random.Random(seed)
    good = list(read(write(tmp_path / "good.jsonl", DAY)))
    for _ in range(100):
        content = altered(chance, DAY)
        proven = records_before_the_last_check(content)
        if is_packed:
            content = gzip.compress(content, 1)
            if chance.random() < 0.7:
                content = altered(chance, content)
        path = write(tmp_path / "a.jsonl", content)
        errors: list[JournalError] = []
        given = list(read(path, on_error=errors.append))
        if not errors:
            assert [each for each in given[:proven] if each not in good] == [], content
        else:
            with pytest.raises(JournalError):
                list(read(path))


def test_a_file_of_another_kind_is_not_read_whole(tmp_path: Path) -> None:
    import tracemalloc  # noqa: PLC0415

    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    write(tmp_path / "b.jsonl", DAY)
    errors: list[JournalError] = []
    tracemalloc.start()
    try:
        assert len(texts(tmp_path, on_error=errors.append)) == 4
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert [(error.file, error.line) for error in errors] == [(str(path), 1)]


def test_a_file_that_lacks_its_beginning_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", push_lines(ALICE, 1, 20, [b"{}"]))
    with pytest.raises(JournalError, match="line 1: this is no segment"):
        list(read(path))


def test_segments_that_were_put_together_are_read_as_they_are(tmp_path: Path) -> None:
    whole = DAY + segment(push_lines(BOB, 1, 50, [b"[2]"]))
    path = write(tmp_path / "a.jsonl", whole)
    assert texts(path) == [b"{}", b"[1]", b'{"a":1}', b"\xff", b"[2]"]
    write(path, whole.replace(b"[2]", b"[3]"))
    with pytest.raises(JournalError, match="line 9"):
        list(read(path))


def test_what_has_the_mark_of_a_push_further_inside_is_read(tmp_path: Path) -> None:
    inner = {"positions": [{"id": 1, "kind": "push", "json": {"a": 1}}]}
    write(tmp_path / "a.jsonl", segment(line_of(ALICE, 1, 20, "snapshot", inner)))
    (record,) = read(tmp_path)
    assert (record.kind, record.values) == ("snapshot", inner)


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused(tmp_path: Path, time: float) -> None:
    write(tmp_path / "a.jsonl", DAY)
    with pytest.raises(ValueError, match="since must be"):
        read(tmp_path, since=time)


def test_a_datetime_is_taken_to_the_microsecond(tmp_path: Path) -> None:
    at = datetime(2026, 11, 26, 3, 12, 0, 123457, tzinfo=timezone.utc)
    ns = 1_795_662_720_123_457_000
    write(tmp_path / "a.jsonl", segment(push_lines(ALICE, 1, ns, [b"[1]"])))
    assert texts(tmp_path, since=at) == [b"[1]"]
    assert texts(tmp_path, until=at) == []


def test_what_is_closed_or_removed_while_a_folder_is_read_is_no_error(tmp_path: Path) -> None:
    for name in "abc":
        write(
            tmp_path / f"{name}.jsonl", segment(push_lines(ALICE, 1, 9, [b'"%b"' % name.encode()]))
        )
    records = read(tmp_path)
    assert next(records).text == b'"a"'
    (tmp_path / "b.jsonl").unlink()
    write(tmp_path / "c.jsonl.gz", gzip.compress((tmp_path / "c.jsonl").read_bytes()))
    (tmp_path / "c.jsonl").unlink()
    assert [record.text for record in records] == [b'"c"']


def test_it_is_read_while_it_is_written_and_goes_on_in_other_files(tmp_path: Path) -> None:
    """Nothing is told that is not wrong, nothing is missing but at the end, nothing is there twice,
    and only with `keep_bytes` what was first."""
    with Journal(tmp_path, segment_bytes=20_000, flush_interval=0.002, keep_bytes=None) as journal:
        recorder = Recorder(journal, "alice", Credential("api_key", "nobody's key"))
        recorder.open()
        ended = threading.Event()
        counts: list[int] = []

        def work() -> None:
            number = 0
            while not ended.is_set():
                text = [b'{"n":%d,"x":"%b"}' % (number + n, b"x" * 50) for n in range(20)]
                number += 20
                entry = recorder.pushes(text, number)
                assert entry is not None
                recorder.delivered(entry, 20, True)
                ended.wait(0.0005)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            deadline = monotonic() + 10
            while monotonic() < deadline and (len(counts) < 60 or len(segments(tmp_path)) < 8):
                given = [
                    orjson.loads(record.text)["n"]
                    for record in (read(tmp_path) if segments(tmp_path) else ())
                    if record.kind == "push"
                ]
                assert given == list(range(len(given)))
                counts.append(len(given))
        finally:
            ended.set()
            thread.join()
            recorder.close()
    assert counts == sorted(counts)
    assert len(segments(tmp_path)) > 5
