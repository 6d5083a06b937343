# cython: annotation_typing=True
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

from orjson import dumps, loads

from .slots import EventSlots, NumberType, Slots, position_of, view

if TYPE_CHECKING:
    from typing_extensions import Self, dataclass_transform
else:  # part of typing only from 3.11 on, and of no use at run time

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        return lambda cls: cls


__all__ = [
    "Field",
    "NumberType",
    "Record",
    "as_integer",
    "as_name",
    "as_number",
    "as_parsed",
    "as_text",
    "attached",
    "beside",
    "by_identity",
    "choice",
    "derived",
    "differing",
    "flag",
    "forms_of",
    "integer",
    "listed",
    "number",
    "own",
    "shown",
    "side",
    "text",
    "told",
]

# --- translations of one value ------------------------------------------------------------------

# A list or an object where something else belongs is passed on as a copy: the wire's own is shared.


# What deployments write where there is no number.
_NO_NUMBER = ("", "--")


def as_number(value: Any, number: NumberType) -> Any:
    """Give `value` as `number` where it is one: a JSON number, or a string that holds one."""
    if number is float:
        return _as_float(value)
    if type(value) is str and "_" not in value:
        with suppress(ValueError, ArithmeticError):
            exact = Decimal(value)
            return exact if exact.is_finite() else value
        return None if value in _NO_NUMBER else value
    return Decimal(value) if type(value) is int else _copied(value)


def _as_float(value: Any) -> Any:
    if (type(value) is not str or "_" in value) and type(value) is not int:
        return _copied(value)
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None if value in _NO_NUMBER else value
    return result if result - result == 0 else value  # that is, where it is finite


def as_integer(value: Any) -> Any:
    """Give `value` as int where it is a whole number in any of the forms JSON has for it."""
    kind = type(value)
    if kind is int:
        return value
    if kind is str:
        text = value
        whole, point, fraction = text.partition(".")
        if point and fraction.strip("0") == "" != fraction:  # "2.0" is 2, as 2.0 is
            text = whole
        digits = text if text.isdigit() else text[text[:1] == "-" :]
        if digits.isascii() and digits.isdigit() and len(digits) < 100:
            return int(text)
        if value in _NO_NUMBER:
            return None
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


def forms_of(names: dict[str, str]) -> dict[Any, str]:
    """Give the names of codes by all forms that `as_name` looks for."""
    forms: dict[Any, str] = {}
    for code, name in names.items():
        forms |= {code: name, code.lower(): name, name: name, name.lower(): name}
        if code.isdigit():
            forms[int(code)] = name
    return forms


def as_name(value: Any, forms: dict[Any, str]) -> Any:
    """Give the name of a code: a number, a string of it, or the name itself in either case."""
    kind = type(value)
    if kind is str:
        name = forms.get(value)
        if name is None:
            name = forms.get(value.lower())
        if name is None:
            whole = as_integer(value)
            name = forms.get(whole) if type(whole) is int else None
        return value if name is None else name
    if kind is int:
        return forms.get(value, value)
    if kind is float or kind is Decimal:
        whole = as_integer(value)
        return forms.get(whole, value) if type(whole) is int else value
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


def as_parsed(key: Any) -> Any:
    """Give `key` as the very object that orjson makes of it.

    It keeps keys and gives the same each time, and a dict finds the same object quickest.
    """
    return None if key is None else next(iter(loads(dumps({key: None}))))


class Field:
    """A read-only attribute that knows where it comes from (see the classes below).

    `key` or `slot` says where a value given to the constructor is kept: under a key of the wire's
    object, or in a slot.
    """

    __slots__ = ("compared", "default", "is_text", "key", "name", "slot")

    def __init__(self, key: Any = None, slot: Any = None, default: Any = None) -> None:
        self.name: str = ""
        self.key: str = as_parsed(key)
        self.slot: Any = slot
        self.default: Any = default
        self.compared: bool = True
        self.is_text: bool = False

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        if self.key is None and self.slot is None:  # derived
            self.key = f":{name}"  # no key of the wire begins with a colon

    def __set__(self, record: Any, value: Any) -> None:
        raise AttributeError(f"{self.name} can't be set")

    def __delete__(self, record: Any) -> None:
        raise AttributeError(f"{self.name} can't be deleted")


class _Number(Field):
    __slots__ = ()

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        value = record._wire.get(self.key)
        return value if type(value) is record._number else as_number(value, record._number)


class _Integer(Field):
    __slots__ = ()

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        value = record._wire.get(self.key)
        return value if type(value) is int else as_integer(value)


class _Beside(Field):
    __slots__ = ("outer",)
    outer: Any

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        value = record._raw.get(self.outer)
        if value is None:  # it may have been given to the constructor
            value = record._wire.get(self.key)
        return value if type(value) is int else as_integer(value)


class _Text(Field):
    __slots__ = ()

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        value = record._wire.get(self.key)
        return value if type(value) is str else as_text(value)


class _Side(Field):
    __slots__ = ("instead",)
    instead: Any

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        value = record._wire.get(self.key)
        if value is None and self.instead is not None:
            value = record._wire.get(self.instead)
        if type(value) is str:
            return _SIDES.get(value) or _SIDES.get(value.lower(), value)
        return as_text(value)


_SIDES = {"BUY": "BUY", "SELL": "SELL", "buy": "BUY", "sell": "SELL"}


class _Flag(Field):
    __slots__ = ()

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        return self if record is None else as_flag(record._wire.get(self.key))


class _Choice(Field):
    __slots__ = ("names",)
    names: dict[Any, str]

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        return as_name(record._wire.get(self.key), self.names)


class _Derived(Field):
    __slots__ = ("function",)
    function: Any

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        wire = record._wire
        return wire[self.key] if self.key in wire else self.function(record)


class _Listed(Field):
    __slots__ = ("kind", "source")
    kind: Any
    source: Any

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        wire: dict[str, Any] = record._wire
        if self.key in wire:
            return wire[self.key]
        records: list[Any] = []
        for item in wire.get(self.source) or ():
            records.append(view(self.kind, item, record._number))
        return tuple(records)


class _ByIdentity(Field):
    __slots__ = ("id_key", "kind", "source")
    kind: Any
    source: Any
    id_key: Any

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        wire: dict[str, Any] = record._wire
        if self.key in wire:
            return wire[self.key]
        records: dict[str, Any] = {}
        item: dict[str, Any]
        for item in wire.get(self.source) or ():
            id = item.get(self.id_key)
            if type(id) is not str:
                id = as_text(id)
                if type(id) is not str:
                    continue
            records[id] = view(self.kind, item, record._number)
        return records


class _Attached(Field):
    __slots__ = ("keys", "kind", "prefix", "source")
    kind: Any
    source: Any
    prefix: Any
    keys: Any  # for each field the key with the prefix, then without

    def __get__(self, record: Slots | None, owner: Any) -> Any:
        if record is None:
            return self
        wire: dict[str, Any] = record._wire
        if self.key in wire:
            return wire[self.key]
        found = wire.get(self.source)
        if not found:
            return None
        both: dict[str, Any] = found
        part: dict[str, Any] = {}
        for full, short in self.keys:
            value = both.get(full, _MISSING)
            if value is not _MISSING:
                part[short] = value
        if 2 * len(part) != len(both):  # not as the fast path has it: other keys, or one order only
            part = {}
            for full, value in both.items():
                if full.startswith(self.prefix):
                    part[full[len(self.prefix) :]] = value
        return view(self.kind, part, record._number) if part else None


_MISSING = object()


class _Told(Field):
    __slots__ = ("change", "kind", "names", "source")
    kind: Any
    source: Any
    change: Any
    names: dict[Any, str]

    def __get__(self, record: EventSlots | None, owner: Any) -> Any:
        if record is None:
            return self
        wire: dict[str, Any] = record._wire
        if self.key in wire:
            return wire[self.key]
        part = wire.get(self.source)
        if not part:
            return None
        told = getattr(record, "_part", None)
        if told is None:
            change = as_name(wire.get(self.change), self.names)
            told = position_of(self.kind, record, part, {}, change == "CREATE", change)
            record._part = told
        return told


class _Own(Field):
    __slots__ = ()

    def __get__(self, record: Any, owner: Any) -> Any:
        if record is None:
            return self
        value = getattr(record, self.slot, None)
        return self.default if value is None else value


class _Shown(Field):
    __slots__ = ()

    def __get__(self, record: Any, owner: Any) -> Any:
        if record is None:
            return self
        copy = getattr(record, "_copy", None)
        if copy is None:
            copy = record._copy = _copied(record._raw)
        return copy


# Written as functions, since to a type checker an attribute is of the type that stands beside it.


def number(key: str) -> Any:
    """A price, a volume, an amount, a rate."""
    return _Number(key)


def integer(key: str) -> Any:
    """An id, a count, a time, a code."""
    return _Integer(key)


def beside(key: str) -> Any:
    """An integer that the push says beside the body that the other fields are read from."""
    field = _Beside()
    field.outer = as_parsed(key)
    return field


def text(key: str) -> Any:
    """A name, or an id that is a string of digits."""
    field = _Text(key)
    field.is_text = True
    return field


def side(key: str, instead: str | None = None) -> Any:
    """BUY or SELL, in capitals wherever the wire says so in any case; another word is passed on.

    `instead` is read where there is nothing under `key`.
    """
    field = _Side(key)
    field.instead = as_parsed(instead)
    return field


def flag(key: str) -> Any:
    """A yes or no."""
    return _Flag(key)


def choice(key: str, names: dict[str, str]) -> Any:
    """A code with a name, in any form (see `as_name`); a code without one is passed on."""
    field = _Choice(key)
    field.names = forms_of(names)
    return field


def derived(function: Callable[[Any], Any]) -> Any:
    """Worked out from the event by `function`, unless the constructor was given it."""
    field = _Derived()
    field.function = function
    return field


def listed(kind: type[Record], key: str) -> Any:
    """A tuple of records, one for each object of a list."""
    field = _Listed()
    field.kind, field.source = kind, as_parsed(key)
    return field


def by_identity(kind: type[Record], key: str) -> Any:
    """A dict of records by their identity, of a list of objects."""
    field = _ByIdentity()
    field.kind, field.source = kind, as_parsed(key)
    field.id_key = identity_of(kind).key
    return field


def attached(kind: type[Record], key: str, prefix: str) -> Any:
    """A record of those keys of an object that begin with `prefix`; None where there are none."""
    field = _Attached()
    field.kind, field.source, field.prefix = kind, as_parsed(key), prefix
    keys = [field.key for field in kind._fields.values() if field.key]
    field.keys = tuple([(as_parsed(prefix + short), short) for short in keys])
    return field


def told(kind: type[Record], key: str, change: str, names: dict[str, str]) -> Any:
    """The part that is told as an event of its own: as a book has merged it, else as the push gave
    it. `change` is the key of what is done to it, one of `names`."""
    field = _Told()
    field.names = forms_of(names)
    field.kind, field.source, field.change = kind, as_parsed(key), as_parsed(change)
    return field


def own(slot: str, default: Any = None, compared: bool = True) -> Any:
    """Not on the wire: set by this library, in the slot `slot`."""
    field = _Own(None, slot, default)
    field.compared = compared
    return field


def shown(compared: bool) -> Any:
    """The wire's object as a copy of the reader's own, made when it is first asked for."""
    field = _Shown(None, "_raw")
    field.compared = compared
    return field


# --- records ------------------------------------------------------------------------------------


@dataclass_transform(kw_only_default=True, frozen_default=True)
class _Rest(Slots):
    """What some records keep besides, in slots of their own. Declared apart from `Record`, where a
    type checker would take them for arguments of the constructor."""

    __slots__ = ()
    _source: str
    _stale: bool
    _stale_fields: frozenset[str]
    _missing: bool


class Record(_Rest):
    """Base of all events and their parts: immutable, compared by value, made with keywords.

    Two records are equal when they are of the same class and all their attributes are, save
    `raw` and (on events) `received_ns`: what was said counts, not how and when.
    """

    __slots__ = ()
    _fields: ClassVar[dict[str, Field]] = {}
    _by_key: ClassVar[dict[str, str]] = {}
    # The attribute that tells one thing from another, for hash() and for what is kept.
    _identity: ClassVar[str | None] = None

    raw: dict[str, Any] = shown(compared=False)
    """The JSON object as the wire gave it; a copy, so what is done to it changes nothing else.
    Empty for a record that was made with keywords."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        inherited = dict(cls._fields) if cls._fields else {"raw": Record.__dict__["raw"]}
        here = {name: field for name, field in vars(cls).items() if isinstance(field, Field)}
        cls._fields = {**inherited, **here}
        cls._by_key = {field.key: name for name, field in cls._fields.items() if field.key}

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
        record: Self = view(cls, wire, number)
        return record

    def as_dict(self) -> dict[str, Any]:
        """Give all attributes as a dict of plain values, for `json.dumps` or a `DataFrame`.

        The names are those of the attributes. Parts are dicts, tuples of them lists, sets of names
        sorted lists, an exception is its text. Numbers are as they are here: a Decimal stays exact.
        `raw` is left out where the attributes say the same.
        """
        return {
            name: _plain(getattr(self, name))
            for name, field in self._fields.items()
            if name != "raw" or field.compared
        }

    def __reduce__(self) -> Any:
        slots = {
            name: value
            for base in type(self).__mro__
            for name in base.__dict__.get("__slots__", ())
            if (value := getattr(self, name, None)) is not None
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


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return str(value) if isinstance(value, Exception) else value


def _restored(kind: type[Record], slots: dict[str, Any]) -> Record:
    record = kind.__new__(kind)
    if isinstance(record, EventSlots):
        record._stream = None
    for name, value in slots.items():
        setattr(record, name, value)
    return record


def identity_of(kind: type[Record]) -> Field:
    """Give the field that tells one record of `kind` from another."""
    assert kind._identity is not None
    return kind._fields[kind._identity]


def differing(record: Any, before: dict[str, Any]) -> frozenset[str]:
    """Give the names of the attributes on whose values `record` and the wire's `before` differ.

    A value that is the same on the wire needs no translation.
    """
    old = None
    names = set()
    by_key = type(record)._by_key
    for key, value in record._wire.items():
        known = before.get(key)
        if known is value or key not in by_key:
            continue
        if type(known) is type(value) and known == value:
            continue
        if old is None:
            old = view(type(record), before, record._number)
        name = by_key[key]
        if getattr(record, name) != getattr(old, name):
            names.add(name)
    return frozenset(names)
