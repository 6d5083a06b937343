"""Attributes read in C: the same values as Python's translations give."""

from __future__ import annotations

import gc
import weakref
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastpos import Position
from fastpos.model import fields
from fastpos.model.fields import as_integer, as_number, as_text

native = pytest.mark.skipif(fields.Getter is None, reason="the C extension is not built")

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
@example("122624.12345678", float)
@example("1e999", float)
@example("-1e-999", float)
@example("", float)
@example("1\0", float)
@example("1.5\0" + "2", float)
@example("\N{ARABIC-INDIC DIGIT ONE}", float)
@example("nan", float)
@example("1_0", float)
@example("0x10", float)
@example(10**400, float)
@example(-0.0, float)
@example("007", float)
@example("9" * 18, float)
@example("9" * 19, float)
@example("9" * 200, float)
@example("\N{SUPERSCRIPT TWO}", float)
@example("1\0", Decimal)
def test_the_same_values(value: Any, number: Any) -> None:
    position = Position._view({"pv": value, "id": value, "cn": value, "pt": value}, number)
    expected = value if type(value) is number else as_number(value, number)
    assert same(position.volume, expected)
    assert same(position.id, as_integer(value))
    assert same(position.contract_name, as_text(value))
    modes: dict[Any, str] = {"1": "CROSS", "2": "ISOLATED"}
    mode = modes.get(str(value), value) if type(value) in (int, str) else value
    assert same(position.margin_mode, mode)


def test_a_key_that_is_missing() -> None:
    position = Position._view({}, float)
    assert position.volume is position.id is position.contract_name is None
    assert position.margin_mode is None


@pytest.mark.parametrize("name", ["volume", "id", "contract_name", "margin_mode"])
def test_of_something_else(name: str) -> None:
    get = Position._fields[name].fget
    assert get is not None
    for other in (5, None, object(), Position):
        with pytest.raises(AttributeError):
            get(other)
    for arguments in ((), (Position(), Position())):
        with pytest.raises(TypeError):
            get(*arguments)
    with pytest.raises(TypeError):
        get(Position(), record=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        get(object.__new__(Position))  # nothing is in its slots


@native
def test_arguments_of_a_getter() -> None:
    wire, number = Position._wire, Position._number
    good: list[Any] = [len, "choice", "pt", {}, Position, wire, number]
    assert callable(fields.Getter(*good))
    for at, bad, error in (
        (1, "flag", ValueError),
        (1, "number", ValueError),  # it has no names
        (3, None, ValueError),
        (2, 5, TypeError),
        (4, 5, TypeError),
        (5, 5, TypeError),
        (6, None, TypeError),
    ):
        with pytest.raises(error):
            fields.Getter(*good[:at], bad, *good[at + 1 :])
    with pytest.raises(TypeError):
        fields.Getter()
    with pytest.raises(TypeError):
        fields.Getter(*good, more=1)


@native
def test_a_getter_is_collected() -> None:
    def make() -> weakref.ref[Any]:
        def get(record: Any) -> Any:
            return getter

        wire, number = Position._wire, Position._number
        getter = fields.Getter(get, "integer", "id", None, Position, wire, number)
        return weakref.ref(get)

    collected = make()
    gc.collect()
    assert collected() is None
