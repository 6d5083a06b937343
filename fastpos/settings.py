"""A stream's arguments, checked before any socket is opened.

`Settings` is the list of them. `takes` gives a constructor these parameters, so an argument is its
line here and its line in the docstring of `PositionStream`. What a value must be stands in its type
(``Seconds``); what is worked out of several or kept in another form, in `__post_init__`.
"""

# Annotations are evaluated here: the checks in them are used.

import inspect
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, FrozenInstanceError, InitVar, dataclass, field
from decimal import Decimal
from functools import wraps
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Concatenate,
    NoReturn,
    ParamSpec,
    TypeVar,
)

from .model.exchange import DEFAULT_URL
from .model.snapshot import SnapshotSource
from .net.address import Address, Source, SourceAddress, parse_proxy, parse_source, parse_url
from .reconnect import ReconnectPolicy
from .runtime.callbacks import CALLBACK_NAMES, Callback, Callbacks
from .tracebacks import clears_locals
from .wire.credential import Credential, CredentialSource

if TYPE_CHECKING:
    import ssl

    from .journal.journal import Journal
    from .journal.recorder import Publishes

__all__ = [
    "Dispatch",
    "Frozen",
    "Label",
    "Number",
    "Reconnect",
    "Seconds",
    "Settings",
    "Size",
    "check_seconds",
    "frozen",
    "takes",
]

# Headers of the upgrade that are not the user's to set.
_RESERVED = ("host", "upgrade", "connection")

_numbers = itertools.count(1)  # of streams; its `next` is atomic


# --- checks: each takes an argument's name and value, and raises TypeError or ValueError ----------


def check_seconds(name: str, value: Any) -> float:
    """Give `value` if it is a number of seconds above 0 and up to a day.

    Raises:
        TypeError, ValueError: it is not; the message names the argument.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    # A day is longer than any of these makes sense, and some platforms' waits end not far above.
    if not 0 < value <= 86400:
        raise ValueError(f"{name} must be more than 0 and at most 86400 seconds, not {value!r}")
    return value


def _seconds_or_none(name: str, value: Any) -> None:
    if value is not None:
        check_seconds(name, value)


def _integer(name: str, value: Any) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")


def _size(name: str, value: Any) -> None:
    _integer(name, value)
    if not 1 <= value <= sys.maxsize:
        raise ValueError(f"{name} must be from 1 to {sys.maxsize}, not {value}")


def _number_type(name: str, value: Any) -> None:
    if value is not float and value is not Decimal:
        raise ValueError(f"{name} must be float or decimal.Decimal, not {value!r}")


def _function(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {type(value).__name__}")


def _label(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not (0 < len(value) <= 100 and value.isprintable() and value == value.strip()):
        raise ValueError(f"{name} must be 1 to 100 printable characters, not {value!r}")


def _one_of(*values: str) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        if value not in values:
            raise ValueError(f"{name} must be one of {values}, not {value!r}")

    return check


def _instance_of(kind: type) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__} or None")

    return check


def _ssl_context(name: str, value: Any) -> None:
    if value is not None:
        import ssl  # noqa: PLC0415 -- who has such a context has imported it, others need not yet

        _instance_of(ssl.SSLContext)(name, value)


def _journal(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, (str, os.PathLike)):
        from .journal.journal import Journal  # noqa: PLC0415 -- as with TLS

        if not isinstance(value, Journal):
            raise TypeError(f"{name} must be a path or a Journal, not {type(value).__name__}")
    if value == "":
        raise ValueError(f"{name} must not be an empty path")


def _publisher(name: str, value: Any) -> None:
    if value is not None:
        from .journal.recorder import Publishes  # noqa: PLC0415 -- who has one has imported it

        if not isinstance(value, Publishes):
            raise TypeError(f"{name} must be a Publisher, not {type(value).__name__}")


Integer = Annotated[int, _integer]
Seconds = Annotated[float, check_seconds]
Size = Annotated[int, _size]
Label = Annotated[str, _label]
Number = Annotated[type[float] | type[Decimal], _number_type]
Dispatch = Annotated[str, _one_of("reader", "thread")]
Reconnect = Annotated[ReconnectPolicy | None, _instance_of(ReconnectPolicy)]


# --- the list -------------------------------------------------------------------------------------


def _parameter(each: Field[Any]) -> inspect.Parameter:
    kind: Any = each.type
    default = each.default
    if isinstance(default, Callback):
        event = Callbacks.__annotations__[each.name].removeprefix("Callback").replace("events.", "")
        kind, default = f"Callable[{event}, object] | None", None
    elif isinstance(kind, InitVar):
        kind = kind.type
    elif hasattr(kind, "__metadata__"):
        kind = kind.__origin__
        kind = getattr(kind, "__forward_arg__", kind)
    if default is MISSING:
        default = inspect.Parameter.empty
    return inspect.Parameter(
        each.name,
        inspect.Parameter.KEYWORD_ONLY if each.kw_only else inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=default,
        annotation=kind,
    )


if TYPE_CHECKING:
    # A checker has no frozen class inherit from one that is not; it sees the parameters, which is
    # what it is for here.
    from dataclasses import dataclass as frozen
else:

    def frozen(**options: bool) -> Callable[[type], type]:
        """Make a frozen dataclass, of which the callbacks are fields too.

        What `dataclass` would compile for ``__init__`` and ``__setattr__`` takes as long as the
        rest of this module when it is imported, so these two are in `Frozen`.
        """

        def decorate(cls: type) -> type:
            cls.__annotations__ = {**cls.__annotations__, **dict.fromkeys(CALLBACK_NAMES, Callback)}
            made = dataclass(init=False, **options)(cls)
            made._parameters = inspect.Signature(
                _parameter(each) for each in made.__dataclass_fields__.values() if each.init
            )
            made._checks = [
                (each.name, check)
                for each in made.__dataclass_fields__.values()
                for check in getattr(each.type, "__metadata__", ())
            ]
            for each in made.__dataclass_fields__.values():
                if isinstance(each.type, InitVar):  # nobody shall take the default for the value
                    delattr(made, each.name)
            return made

        return decorate


class Frozen:
    """What `frozen` leaves out of a dataclass."""

    _parameters: ClassVar[inspect.Signature]
    _checks: ClassVar[list[tuple[str, Callable[[str, Any], object]]]]
    _of: ClassVar[str]  # the constructor that takes them

    def _check(self) -> None:
        """Raise TypeError or ValueError for a value that is not what its type says."""
        for name, check in self._checks:
            check(name, getattr(self, name))

    if not TYPE_CHECKING:  # which knows them from `dataclass`

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            try:
                given = self._parameters.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self._of}() {error}") from None
            given.apply_defaults()
            once: dict[str, Any] = {}
            for name, value in given.arguments.items():
                if isinstance(self.__dataclass_fields__[name].type, InitVar):
                    once[name] = value
                else:
                    object.__setattr__(self, name, value)
            self.__post_init__(**once)

        def __setattr__(self, name: str, value: object) -> NoReturn:
            raise FrozenInstanceError(f"cannot assign to field {name!r}")

        __delattr__ = __setattr__


@frozen(kw_only=True, eq=False, repr=False)
class Settings(Frozen, Callbacks):
    """The arguments of a `PositionStream`; see there for what they mean.

    Raises:
        TypeError, ValueError: one is unusable; the message names it.
    """

    url: str = field(default=DEFAULT_URL, kw_only=False)
    token: InitVar[CredentialSource | None] = None
    api_key: InitVar[CredentialSource | None] = None
    broker: Integer
    name: Label = "stream-<n>"
    number: Number = float
    ping_interval: Seconds = 30.0
    pong_timeout: Seconds = 10.0
    connect_timeout: Seconds = 10.0
    subscribe_timeout: Seconds = 10.0
    tick_timeout: Annotated[float | None, _seconds_or_none] = 10.0
    reconnect: Reconnect = ReconnectPolicy()
    headers: Mapping[str, str | None] | None = None
    ssl_context: Annotated["ssl.SSLContext | None", _ssl_context] = None
    proxy: InitVar[str | None] = None
    source_address: SourceAddress | None = None
    max_message_size: Size = 1024 * 1024
    snapshot: Annotated[SnapshotSource | None, _function] = None
    snapshot_timeout: Seconds = 10.0
    dispatch: Dispatch = "reader"
    queue_size: Size = 10_000
    slow_callback_s: Seconds = 1.0
    journal: Annotated["Journal | str | os.PathLike[str] | None", _journal] = None
    publisher: Annotated["Publishes | None", _publisher] = None

    # Worked out of these:
    address: Address = field(init=False)
    credential: Credential = field(init=False)
    proxy_address: Address | None = field(init=False)
    proxy_from_environment: bool = field(init=False)
    source: Source | None = field(init=False)

    def __post_init__(
        self,
        token: CredentialSource | None,
        api_key: CredentialSource | None,
        proxy: str | None,
    ) -> None:
        self._check()
        credential = _credential(token, api_key)
        known: dict[str, Any] = {
            "name": self.name.replace("<n>", str(next(_numbers))),
            "address": parse_url(self.url),
            "credential": credential,
            "headers": _headers(self.headers, credential.header),
            "proxy_address": None if proxy is None or proxy == "" else parse_proxy(proxy),
            "proxy_from_environment": proxy is None,
            "source": None if self.source_address is None else parse_source(self.source_address),
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)


def _credential(token: CredentialSource | None, api_key: CredentialSource | None) -> Credential:
    if token is not None and api_key is not None:
        raise ValueError("token and api_key exclude each other: give one of them")
    if token is not None:
        return Credential("token", token)
    if api_key is not None:
        return Credential("api_key", api_key)
    raise ValueError("a credential is needed: token or api_key")


def _may_lack(name: str, value: object) -> bool:
    return value is None and name.lower() == "origin"


def _headers(headers: Mapping[str, str | None] | None, credential: str) -> dict[str, str | None]:
    checked: dict[str, str | None] = {}
    if headers is not None and not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not (isinstance(value, str) or _may_lack(name, value)):
            raise TypeError("headers must map str to str, and may map Origin to None")
        token = name.replace("-", "").replace("_", "")
        if not (token.isascii() and token.isalnum()):
            raise ValueError(f"headers: {name!r} is no header name")
        if name.lower() in (*_RESERVED, credential) or name.lower().startswith("sec-websocket-"):
            raise ValueError(f"headers: {name!r} is set by the library")
        if name.lower() in (other.lower() for other in checked):
            raise ValueError(f"headers: {name!r} is there twice, in another spelling")
        if value is not None and not (value.isascii() and value.isprintable()):
            raise ValueError(f"headers: the value of {name!r} is not one line of visible ASCII")
        checked[name] = value
    return checked


# --- the constructor's parameters -----------------------------------------------------------------

S = TypeVar("S")
A = TypeVar("A")
P = ParamSpec("P")


def takes(
    arguments: Callable[P, A],
) -> Callable[[Callable[[S, A], None]], Callable[Concatenate[S, P], None]]:
    """Give a constructor that wants an `arguments` the parameters of that class instead.

    A type checker sees them through `P`; `help()` and `inspect` through ``__signature__``.
    """

    def decorate(init: Callable[[S, A], None]) -> Callable[Concatenate[S, P], None]:
        @wraps(init)
        @clears_locals
        def __init__(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
            init(self, arguments(*args, **kwargs))

        frozen: Any = arguments
        frozen._of = init.__qualname__
        shown: Any = __init__
        shown.__signature__ = frozen._parameters.replace(
            parameters=[
                inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *frozen._parameters.parameters.values(),
            ]
        )
        return __init__

    return decorate
