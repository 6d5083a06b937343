"""What a recorder hands over: lines that can be read whatever they tell, without the credential."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpos import Disconnect, Position, Snapshot
from fastpos.errors import ConnectionFailed, SnapshotError
from fastpos.journal import Journal, Record, read
from fastpos.journal.recorder import Recorder
from fastpos.wire.credential import Credential

KEY = "a/key+of=the\\tests&'<0b7a55>\"=="


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path) as journal:
        yield journal
        for recorder in journal.recorders:
            finish = journal.leave(recorder)
            if finish is not None:
                finish()


def recorder_in(journal: Journal, source: str | Callable[[], str] = KEY) -> Recorder:
    recorder = Recorder(journal, "a", Credential("api_key", source))
    recorder.open()
    return recorder


def all_of(journal: Journal) -> tuple[list[Record], str]:
    """The records, and all that is in the file."""
    assert journal.flush()
    (path,) = journal.folder.glob("*.jsonl")
    return list(read(path)), path.read_text()


def escaped(text: str, form: str) -> str:
    return "".join(form % ord(each) for each in text)


SPELLINGS = {
    "as it is": KEY,
    "as JSON": json.dumps(KEY)[1:-1],
    "as JSON with slashes escaped": json.dumps(KEY)[1:-1].replace("/", "\\/"),
    "as JSON in JSON": json.dumps(json.dumps(KEY))[1:-1].strip('\\"'),
    "as JSON for HTML": json.dumps(KEY)[1:-1]
    .replace("=", "\\u003d")
    .replace("&", "\\u0026")
    .replace("'", "\\u0027")
    .replace("<", "\\u003C")
    .replace("+", "\\u002B"),
    "as JSON, all of it escaped": escaped(KEY, "\\u%04x"),
    "in a URL": escaped(KEY, "%%%02x"),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("text", ['{{"channel":"x","echo":"{}"}}', "what is {}?", '"{}\n"'])
def test_a_credential_that_is_sent_back_is_hidden_however_it_is_spelled(
    journal: Journal, text: str, spelling: str
) -> None:
    recorder = recorder_in(journal)
    entry = recorder.pushes([b'{"n":1}', text.replace("{}", spelling).encode()], 1)
    assert entry is not None
    recorder.delivered(entry, 2, False)
    entry = recorder.pushes([text.replace("{}", spelling).encode()], 2)
    assert entry is not None
    recorder.delivered(entry, 0, False)
    records, _ = all_of(journal)
    assert [each.kind for each in records] == ["push", "push", "undelivered"]
    assert b"0b7a55" not in records[1].text
    assert records[1].text.count(b"***") == 1
    assert "***" in b64decode(records[2].values["base64"]).decode()


def test_no_kind_of_record_tells_it(journal: Journal) -> None:
    recorder = recorder_in(journal)
    error = ConnectionFailed(f"refused {KEY}")
    recorder.started({"url": f"ws://h/{KEY}", "book": json.dumps({"positions": [{"x": KEY}]})})
    recorder.snapshot_failed(SnapshotError(f"no {KEY}"))
    recorder.snapshot(Snapshot([Position(id=1, contract_name=KEY)], []), 1)
    recorder.disconnected(
        Disconnect(reason=f"said {KEY}", close_code=None, error=error, retry_in_s=None)
    )
    recorder.stopped(error)
    records, content = all_of(journal)
    assert len(records) == 5
    assert "0b7a55" not in content


def test_what_came_with_an_earlier_credential_is_written_without_it(journal: Journal) -> None:
    keys = iter([f"key-{n}-of-the-tests" for n in range(9)])
    recorder = recorder_in(journal, lambda: next(keys))
    recorder._credential.get()
    entry = recorder.pushes([b'{"channel":"x","echo":"key-0-of-the-tests"}'], 1)
    assert entry is not None
    for _ in range(4):  # while the disk is full
        recorder._credential.get()
    assert b'"echo":"***"' in recorder.lines_of(entry)


@pytest.mark.parametrize("key", ["e", "n", "1", "kind", "push", '"', "{", ":"])
def test_a_credential_that_is_a_word_of_the_format_leaves_the_lines_readable(
    journal: Journal, key: str
) -> None:
    recorder = recorder_in(journal, key)
    recorder.started({"url": f"ws://h/{key}", "broker": 1})
    entry = recorder.pushes([b'{"kind":"one","n":1}', b"[]"], 1)
    assert entry is not None
    recorder.delivered(entry, 2, True)
    recorder.disconnected(Disconnect(reason="end", close_code=None, error=None, retry_in_s=1.5))
    records, _ = all_of(journal)
    assert [each.kind for each in records] == ["started", "push", "push", "disconnected"]
    assert "***" in records[0].values["url"]


@pytest.mark.parametrize(
    "odd",
    ["\udcff", float("nan"), 10**30, {1: 2}, {"\udcff": 1}, object(), [[1, {"a": "\ud800"}]]],
)
def test_whatever_is_told_becomes_a_line(journal: Journal, odd: Any) -> None:
    recorder = recorder_in(journal)
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    recorder.snapshot_failed(SnapshotError(odd))
    recorder.started({"odd": odd, "deep": deep})
    records, _ = all_of(journal)
    assert [each.kind for each in records] == ["snapshot_failed", "started"]
    if isinstance(odd, (str, int)):
        assert records[1].values["odd"] == records[0].values["error"][1] == odd
