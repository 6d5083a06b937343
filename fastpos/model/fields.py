"""How an attribute of an event is read off the wire.

An event is a view of the JSON object it came in: making one costs next to nothing, and a value
is translated when it is asked for. A class is therefore a table of fields, one line each: the
attribute's name, the key on the wire, and one of the translations below. What a translation
does not understand it passes on as it came, because deployments differ and a bot should see
what was really said.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from .._c import check_wanted

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:  # part of typing only from 3.11 on, and of no use at run time

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        return lambda cls: cls


__all__ = [
    "Field",
    "Record",
    "as_integer",
    "choice",
    "derived",
    "flag",
    "integer",
    "number",
    "own",
    "shown",
    "text",
]

NumberType = type[float] | type[Decimal]

Getter: Any = None  # of _fields.c, None where it was not built
with suppress(ImportError):
    check_wanted()
    from .._c._native import Getter


# --- translations of one value ------------------------------------------------------------------

# A list or an object where something else belongs is passed on as a copy: the wire's own is shared.


def as_number(value: Any, number: NumberType) -> Any:
    """Give `value` as `number` where it is one: a JSON number, or a string that holds one."""
    kind = type(value)
    if kind is str and "_" not in value:
        try:
            result: Any = number(value)
        except (ValueError, ArithmeticError):
            return value
        finite = result - result == 0 if number is float else result.is_finite()
        return result if finite else value
    if kind is int:
        try:
            return number(value)
        except OverflowError:
            return value
    return _copied(value)


def as_integer(value: Any) -> Any:
    """Give `value` as int where it is a whole number in any of the forms JSON has for it."""
    kind = type(value)
    if kind is int:
        return value
    if kind is str:
        digits = value if value.isdigit() else value[value[:1] == "-" :]
        if digits.isascii() and digits.isdigit() and len(digits) < 100:
            return int(value)
    elif (kind is float and value.is_integer()) or (kind is Decimal and _is_whole(value)):
        return int(value)
    return _copied(value)


def _is_whole(value: Decimal) -> bool:
    # An int of an exponent with many digits would take for ever.
    return value.is_finite() and value.adjusted() < 100 and value == value.to_integral_value()


def as_text(value: Any) -> Any:
    """Give a number's digits as str (an id that came as a JSON number), all else as it is."""
    return str(value) if type(value) is int else _copied(value)


_FLAGS = {"true": True, "false": False, "1": True, "0": False}


def as_flag(value: Any) -> Any:
    """Give `value` as bool where it is one, or 0 or 1, or a string of these."""
    if type(value) is int or type(value) is str:
        return _FLAGS.get(str(value).lower(), value)
    return _copied(value)


def _copied(value: Any) -> Any:
    # Loops, as a comprehension takes a level of Python's stack of its own.
    copy: Any = value
    if type(value) is dict:
        copy = {}
        for key, item in value.items():
            copy[key] = _copied(item)
    elif type(value) is list:
        copy = []
        for item in value:
            copy.append(_copied(item))
    return copy


# --- fields -------------------------------------------------------------------------------------


class Field(property):
    """A read-only attribute that knows where it comes from (see the functions below)."""

    name: str
    # Where a value given to the constructor is kept: a key of the wire's object, or a slot.
    key: Any = None
    slot: Any = None
    default: Any = None
    compared = True

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        if self.key is None and self.slot is None:  # derived
            self.key = f":{name}"  # no key of the wire begins with a colon


def _field(
    get: Callable[[Any], Any], kind: str, key: str, names: dict[Any, str] | None = None
) -> Any:
    if Getter is not None:
        wire, numbers = (vars(Record)[slot] for slot in ("_wire", "_number"))
        get = Getter(get, kind, key, names, Record, wire, numbers)
    field = Field(get)
    field.key = key
    return field


def number(key: str) -> Any:
    """A price, a volume, an amount, a rate."""

    def get(self: Record) -> Any:
        value = self._wire.get(key)
        return value if type(value) is self._number else as_number(value, self._number)

    return _field(get, "number", key)


def integer(key: str) -> Any:
    """An id, a count, a time, a code."""

    def get(self: Record) -> Any:
        value = self._wire.get(key)
        return value if type(value) is int else as_integer(value)

    return _field(get, "integer", key)


def text(key: str) -> Any:
    """A name, or an id that is a string of digits."""

    def get(self: Record) -> Any:
        value = self._wire.get(key)
        return value if type(value) is str else as_text(value)

    return _field(get, "text", key)


def flag(key: str) -> Any:
    """A yes or no."""
    field = Field(lambda self: as_flag(self._wire.get(key)))
    field.key = key
    return field


def choice(key: str, names: dict[str, str]) -> Any:
    """A code with a name; a code without one is passed on."""
    named = {form: name for code, name in names.items() for form in (code, int(code))}

    def get(self: Record) -> Any:
        value = self._wire.get(key)
        if type(value) is str or type(value) is int:
            return named.get(value, value)
        return _copied(value)

    return _field(get, "choice", key, named)


def derived(function: Callable[[Any], Any]) -> Any:
    """Worked out from the event by `function`, unless the constructor was given it."""

    def get(self: Record) -> Any:
        wire = self._wire
        return wire[field.key] if field.key in wire else function(self)

    field = Field(get)
    return field


def own(slot: str, default: Any = None, compared: bool = True) -> Any:
    """Not on the wire: set by this library, in the slot `slot`."""
    field = Field(lambda self: getattr(self, slot, default))
    field.slot, field.default, field.compared = slot, default, compared
    return field


def shown(compared: bool) -> Any:
    """The wire's object as a copy of the reader's own, made when it is first asked for."""

    def get(self: Record) -> Any:
        try:
            return self._copy
        except AttributeError:
            copy = self._copy = _copied(self._raw)
            return copy

    field = Field(get)
    field.slot, field.compared = "_raw", compared
    return field


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Slots:
    """What records keep inside. Declared apart from `Record`, where a type checker would take
    them for arguments of the constructor."""

    __slots__ = ()
    # The JSON object as the wire gave it, which other records show as well, and a book merges:
    # nobody changes it.
    _raw: dict[str, Any]
    _copy: Any  # what `raw` gave
    _wire: dict[str, Any]  # the object that the fields are read from
    _number: NumberType
    # Of some classes only:
    _received_ns: int
    _position: Any
    _before: dict[str, Any] | None  # a position's wire before the push
    _change: Any
    _complete: bool
    _source: str
    _stale: bool
    _stale_fields: frozenset[str]
    _missing: bool


class Record(_Slots):
    """Base of all events and their parts: immutable, compared by value, made with keywords.

    Two records are equal when they are of the same class and all their attributes are, save
    `raw` and (on events) `received_ns`: what was said counts, not how and when.
    """

    __slots__ = ("_copy", "_number", "_raw", "_wire")
    _fields: ClassVar[dict[str, Field]] = {}
    # The attribute that tells one thing from another, for hash().
    _identity: ClassVar[str | None] = None

    raw: dict[str, Any] = shown(compared=False)
    """The JSON object as the wire gave it; a copy, so what is done to it changes nothing else.
    Empty for a record that was made with keywords."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherited = dict(cls._fields) if cls._fields else {"raw": Record.__dict__["raw"]}
        here = {name: field for name, field in vars(cls).items() if isinstance(field, Field)}
        cls._fields = {**inherited, **here}

    def __init__(self, **values: Any) -> None:
        unknown = values.keys() - self._fields.keys()
        if unknown:
            names = ", ".join(sorted(unknown))
            raise TypeError(f"{type(self).__name__}() has no attribute {names}")
        self._number = float
        self._wire = {}
        for name, field in self._fields.items():
            if field.slot is not None:
                fresh: Any = {} if field.slot == "_raw" else field.default
                setattr(self, field.slot, values.get(name, fresh))
            elif name in values and field.key is not None:
                self._wire[field.key] = values[name]

    @classmethod
    def _view(cls, wire: dict[str, Any], number: NumberType) -> Self:
        """Make a record that shows the wire's object `wire`, which nobody changes any more."""
        record = object.__new__(cls)
        record._raw = record._wire = wire
        record._number = number
        return record

    def __reduce__(self) -> Any:
        slots = {
            name: getattr(self, name)
            for base in type(self).__mro__
            for name in base.__dict__.get("__slots__", ())
            if hasattr(self, name)
        }
        return _restored, (type(self), slots)

    def _values(self) -> list[Any]:
        return [getattr(self, name) for name, field in self._fields.items() if field.compared]

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        identity = getattr(self, self._identity) if self._identity else None
        try:
            return hash((type(self), identity))
        except TypeError:  # an undocumented value, a list for an id
            return hash(type(self))

    def __repr__(self) -> str:
        shown = (
            (name, getattr(self, name)) for name, field in self._fields.items() if field.compared
        )
        inside = ", ".join(
            f"{name}={value!r}"
            for name, value in shown
            if value is not None and value != self._fields[name].default
        )
        return f"{type(self).__name__}({inside})"


def _restored(kind: type[Record], slots: dict[str, Any]) -> Record:
    record = object.__new__(kind)
    for name, value in slots.items():
        setattr(record, name, value)
    return record
