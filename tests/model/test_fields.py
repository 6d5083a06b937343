"""What an attribute gives for each value that the wire may have."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastpos import Position
from fastpos.model.fields import as_integer, as_number, as_text

DIGITS = st.text("0123456789.+-eE_ ", max_size=25)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    DIGITS,
    st.integers().map(str),
    st.floats().map(repr),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


def same(value: Any, expected: Any) -> bool:
    return type(value) is type(expected) and repr(value) == repr(expected)


@given(values, st.sampled_from([float, Decimal]))
@example("1\0", float)
@example("nan", float)
@example("1.0", float)
@example("1_0", float)
@example(10**400, float)
@example("9" * 200, float)
@example("\N{SUPERSCRIPT TWO}", float)
@example("\N{ARABIC-INDIC DIGIT ONE}", Decimal)
def test_an_attribute_is_the_translation_of_its_value(value: Any, number: Any) -> None:
    position = Position._view({"pv": value, "id": value, "cn": value, "pt": value}, number)
    expected = value if type(value) is number else as_number(value, number)
    assert same(position.volume, expected)
    assert same(position.id, as_integer(value))
    assert same(position.contract_name, as_text(value))
    whole = as_integer(value)
    mode = {1: "CROSS", 2: "ISOLATED"}.get(whole) if type(whole) is int else None
    named = str(value).upper() in ("CROSS", "ISOLATED")
    assert named or same(position.margin_mode, mode or value)


@pytest.mark.parametrize("name", ["volume", "id", "contract_name", "margin_mode", "uid", "changed"])
def test_of_something_that_is_no_record(name: str) -> None:
    get = Position._fields[name].__get__  # type: ignore[attr-defined]
    for other in (5, object(), Position):
        with pytest.raises((AttributeError, TypeError)):
            get(other, Position)
    with pytest.raises((AttributeError, TypeError)):
        getattr(Position.__new__(Position), name)  # nothing is in its slots
