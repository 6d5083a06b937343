"""Lines: what is written is read back, digit for digit."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpos.journal import format as lines

LABEL = lines.label_of('al"ice\u00e9')


def test_pushes_stand_as_they_came_each_in_a_line_that_is_json() -> None:
    texts = [b'{"channel":"order","id":123456789012345678901234567890.10}', b"{ }", b'"\xc3\xa9"']
    made = lines.push_lines(LABEL, 3, 1764126720123456789, texts)
    assert made.count(b"\n") == len(texts)
    for line, text in zip(made.splitlines(keepends=True), texts, strict=True):
        assert json.loads(line)["stream"] == 'al"ice\u00e9'
        head, kind, given, values = lines.parse(line)
        assert (head, kind) == ((1764126720123456789, 'al"ice\u00e9', 3), "push")
        assert given == text
        assert values == {}


@given(st.binary(max_size=200))
def test_whatever_came_is_read_back(text: bytes) -> None:
    if lines.is_json_line(text):
        made = lines.push_lines(LABEL, 1, 5, [text])
    else:
        made = lines.encoded_line(LABEL, 1, 5, text)
    json.loads(made)
    assert made.count(b"\n") == 1
    assert lines.parse(made)[2] == text


@pytest.mark.parametrize("text", [b"", b"{", b"{} {}", b'{"a":\n1}', b'{"a":"\xff"}', b"{}x"])
def test_what_would_break_a_line_is_none(text: bytes) -> None:
    assert not lines.is_json_line(text)


def test_decimals_are_written_in_full_and_floats_to_the_last_bit() -> None:
    values = {"a": Decimal("0.1000000000000000000000000001"), "b": 0.1 + 0.2, "c": 2**70, "d": None}
    made = lines.line_of(LABEL, 0, 1, "snapshot", values)
    back = lines.parse(made)[3]
    assert back["a"] == Decimal("0.1000000000000000000000000001")
    assert float(back["b"]) == 0.1 + 0.2
    assert back["c"] == 2**70
    assert back["d"] is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"ns":1,"stream":"a","connection":1,"kind":"paused"}', "no end"),
        (b"{]\n", "no JSON"),
        (b"[]\n", "no object"),
        (b'{"stream":"a","connection":1,"kind":"paused"}\n', "missing"),
        (b'{"ns":1.5,"stream":"a","connection":1,"kind":"paused"}\n', "another type"),
        (b'{"ns":1,"connection":1,"kind":"paused"}\n', "stream"),
        (b'{"ns":1,"stream":7,"connection":1,"kind":"paused"}\n', "no text"),
        (b'{"ns":1,"stream":"a","connection":1,"kind":"push"}\n', "without a text"),
        (b'{"ns":1,"stream":"a","connection":1,"kind":"push","base64":"%"}\n', "without a text"),
    ],
)
def test_what_is_no_line_is_refused_with_the_reason(line: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        lines.parse(line)
