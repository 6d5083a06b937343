"""The file of `fastpos serve`: which accounts there are, and where their secrets are.

What a key may be is not said here again: keys are the parameters of `PositionStream`, and each
value is tried on `Settings`, `ReconnectPolicy` or `AccountSnapshot` on its own, so that all faults
of a file are told at once. No fault shows a secret.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..printable import printable
from ..reconnect import ReconnectPolicy
from ..settings import Settings
from ..stream import PositionStream
from ..tracebacks import clears_locals
from ..wire.credential import Credential
from .reference import (
    SNAPSHOT_SECRETS,
    FreshSnapshot,
    Reference,
    parse_reference,
    snapshot_class,
)

if TYPE_CHECKING:
    from ..journal import Journal
    from ..redis import Publisher
    from ..rest import AccountSnapshot

__all__ = ["Account", "AccountsError", "read_accounts"]

_CREDENTIALS = ("token", "api_key")
# What [defaults] can't have.
_ITS_OWN = (*_CREDENTIALS, "snapshot")
# Parameters of a stream that a file can't set: it is called as its table, and shares a thread.
_NOT_HERE = ("name", "dispatch", "queue_size")
_NUMBERS = {"float": float, "decimal": Decimal}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class AccountsError(ValueError):
    """A file of accounts can't be used.

    Attributes:
        faults: all that is wrong with it, each on one line that begins with where.
    """

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults: tuple[str, ...] = tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True)
class Account:
    """One account; equal to another if both stand in their files in the same words."""

    name: str
    arguments: Mapping[str, Any]
    """Those of the stream, as TOML has them, the defaults among them; secrets as `Reference`."""
    snapshot: Mapping[str, Any] | None

    @clears_locals
    def new_stream(
        self,
        snapshot: FreshSnapshot | None,
        journal: Journal | None = None,
        publisher_of: Callable[[Journal | None], Publisher | None] = lambda journal: None,
    ) -> PositionStream:
        """Make its stream; raises TypeError, ValueError.

        Args:
            snapshot: its source of snapshots.
            journal: where what comes is written, if its arguments do not say.
            publisher_of: gives what publishes it, for its journal.
        """
        arguments = {key: _argument(key, value) for key, value in self.arguments.items()}
        folder = arguments.get("journal")
        if folder is not None:
            from ..journal.journal import journal_at  # noqa: PLC0415 -- for who has one only

            arguments["journal"] = journal_at(folder)
        its_own = arguments.setdefault("journal", journal)
        publisher = publisher_of(its_own)
        return PositionStream(name=self.name, snapshot=snapshot, publisher=publisher, **arguments)

    @clears_locals
    def new_snapshot(self) -> FreshSnapshot | None:
        """Make its snapshot source, if it has one."""
        if self.snapshot is None:
            return None
        shared = {
            key: _argument(key, self.arguments[key])
            for key in ("proxy", "source_address", "number")
            if key in self.arguments
        }
        return FreshSnapshot(self.snapshot, shared)


def read_accounts(path: str) -> dict[str, Account]:
    """Read a file of accounts; nothing is opened but that, and the files of its secrets.

    Raises:
        AccountsError: it can't be read, or something in it is wrong.
        ImportError: on CPython 3.10, tomli is not there.
    """
    reading = _Reading(Path(path).absolute().parent)
    accounts = reading.accounts(_parse(path))
    if reading.faults:
        raise AccountsError(reading.faults)
    return accounts


def _parse(path: str) -> dict[str, Any]:
    loads = _toml_loads()
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise AccountsError([f"it can't be read: {error.strerror}"]) from None
    try:
        return loads(data.decode("utf-8"))
    except UnicodeDecodeError:  # which holds all of it
        fault = "it is not UTF-8"
    except (ValueError, RecursionError) as error:
        fault = f"it is no TOML: {printable(str(error))}"
    raise AccountsError([fault])


def _toml_loads() -> Callable[[str], dict[str, Any]]:
    name = "tomllib" if sys.version_info >= (3, 11) else "tomli"
    try:
        loads: Callable[[str], dict[str, Any]] = import_module(name).loads
    except ImportError:
        text = f'fastpos serve needs the package {name}: pip install "fastpos[serve]"'
        raise ImportError(text) from None
    return loads


class _Reading:
    """What was found in a file: its accounts, and what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.faults: list[str] = []

    def accounts(self, file: dict[str, Any]) -> dict[str, Account]:
        for key in file:
            if key not in ("defaults", "accounts"):
                self._fault(_quoted(key), "there is no such table")
        defaults = self._table("defaults", file.get("defaults", {}))
        for key in _ITS_OWN:
            if key in defaults:
                self._fault(f"defaults.{key}", "belongs to an account")
        defaults = self._arguments("defaults", defaults)
        tables = self._table("accounts", file.get("accounts", {}))
        if file.get("accounts", {}) == {}:
            self._fault("accounts", "there are none")
        return {name: self._account(name, table, defaults) for name, table in tables.items()}

    def _account(self, name: str, value: object, defaults: dict[str, Any]) -> Account:
        where = f"accounts.{_quoted(name)}"
        self._try(where, "name", lambda: _check_name(name))
        table = self._table(where, value)
        if not isinstance(value, dict):
            return Account(name, {}, None)
        own = self._arguments(where, table)
        if "broker" not in {**defaults, **table}:
            self._fault(f"{where}.broker", "is missing, here and in [defaults]")
        given: dict[str, Any] = {key: "-" for key in _CREDENTIALS if key in table}
        self._try(where, "", lambda: Settings(broker=0, **given))
        for key in given:
            secret = self._secret(f"{where}.{key}", key, table[key])
            if secret is not None:
                own[key] = secret
        snapshot = None
        if "snapshot" in table:
            at, value = f"{where}.snapshot", table["snapshot"]
            if isinstance(value, dict):
                snapshot = self._snapshot(at, value)
            else:
                self._fault(at, "must be a table")
        return Account(name, {**defaults, **own}, snapshot)

    def _arguments(self, where: str, table: dict[str, Any]) -> dict[str, Any]:
        """Take a stream's arguments, but for those that are an account's own."""
        found: dict[str, Any] = {}
        for key, value in table.items():
            at = f"{where}.{_quoted(key)}"
            if key in _ITS_OWN:
                continue
            if key not in _PARAMETERS:
                self._fault(at, "there is no such key")
            elif key == "reconnect" and isinstance(value, dict):
                self._policy(at, value)
                found[key] = value
            elif key == "proxy" and isinstance(value, dict):  # it may hold a password
                secret = self._secret(at, key, value)
                if secret is not None:
                    found[key] = secret
            else:
                self._try(at, key, partial(_check, key, value))
                is_folder = key == "journal" and isinstance(value, str)
                found[key] = str(self._folder / value) if is_folder else value
        return found

    def _policy(self, where: str, table: dict[str, Any]) -> None:
        known = inspect.signature(ReconnectPolicy).parameters
        for key, value in table.items():
            at = f"{where}.{_quoted(key)}"
            if key not in known:
                self._fault(at, "there is no such key")
            else:
                self._try(at, key, partial(ReconnectPolicy, **{key: value}))

    def _snapshot(self, where: str, table: dict[str, Any]) -> dict[str, Any] | None:
        try:
            new = snapshot_class()
        except ImportError as error:
            self._fault(where, str(error))
            return None
        found = {}
        for key in ("url", *SNAPSHOT_SECRETS):
            if key not in table:
                self._fault(f"{where}.{key}", "is missing")
        for key, value in table.items():
            at = f"{where}.{_quoted(key)}"
            if key in SNAPSHOT_SECRETS:
                check = partial(_check_snapshot, new, key)
                found[key] = self._secret(at, key, value, check)
            elif key in ("url", "timeout"):
                name = "base_url" if key == "url" else key
                self._try(at, name, partial(_check_snapshot, new, name, value))
                found[key] = value
            else:
                self._fault(at, "there is no such key")
        return found

    @clears_locals
    def _secret(
        self, where: str, key: str, value: object, check: Callable[[str], object] | None = None
    ) -> Reference | None:
        """Take a reference, and see that what it leads to is usable now."""
        if check is None:
            check = _check_proxy if key == "proxy" else lambda secret: Credential(key, secret)
        try:
            reference = parse_reference(value, self._folder)
            check(reference())
        except (TypeError, ValueError) as error:
            self._fault(where, _without(key, error))
            return None
        return reference

    def _table(self, where: str, value: object) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._fault(where, "must be a table")
        return {}

    def _try(self, where: str, name: str, make: Callable[[], object]) -> None:
        try:
            make()
        except (TypeError, ValueError) as error:
            self._fault(where, _without(name, error))

    def _fault(self, where: str, text: str) -> None:
        self.faults.append(f"{where}: {printable(text, 500)}")


def _without(name: str, error: Exception) -> str:
    """Give what is wrong, without the name of what is: that stands before it."""
    return str(error).removeprefix(f"{name} ").removeprefix(f"{name}: ")


def _quoted(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else printable(json.dumps(key, ensure_ascii=False), 120)


def _check_name(name: str) -> None:
    if Settings(broker=0, api_key="-", name=name).name != name:
        raise ValueError("must not hold <n>")


def _check(key: str, value: object) -> None:
    """Try one argument on its own; raises TypeError, ValueError."""
    if not isinstance(value, (str, int, float)):
        raise TypeError("must be a string, a number or a boolean")
    settings = Settings(**{"broker": 0, "api_key": "-", key: _argument(key, value)})
    if key == "proxy" and settings.proxy_address and settings.proxy_address.password is not None:
        parse_reference(value, Path())  # which says that no secret must stand here


def _check_snapshot(new: type[AccountSnapshot], key: str, value: object) -> None:
    usable: dict[str, Any] = {"base_url": "http://localhost", "api_key": "-", "api_secret": "-"}
    new(**{**usable, key: value})


def _check_proxy(url: str) -> None:
    Settings(broker=0, api_key="-", proxy=url)


def _argument(key: str, value: Any) -> Any:
    """Give what a stream takes for what TOML has."""
    if value is False and _PARAMETERS[key]:
        return None
    if key == "number":
        if not isinstance(value, str) or value not in _NUMBERS:
            raise ValueError('must be "float" or "decimal"')
        return _NUMBERS[value]
    if key == "reconnect":
        if not isinstance(value, dict):
            raise TypeError("must be a table, or false for never")
        return ReconnectPolicy(**value)
    if key == "proxy" and isinstance(value, Reference):
        return value()
    return value


def _can_be_written(parameter: inspect.Parameter) -> bool:
    kinds = get_args(parameter.annotation) or (parameter.annotation,)
    return any(kind in (str, int, float, bool) for kind in kinds)


_PARAMETERS = {
    name: parameter.default is not None and type(None) in get_args(parameter.annotation)
    for name, parameter in inspect.signature(PositionStream).parameters.items()
    if name not in (*_NOT_HERE, *_CREDENTIALS)
    and (_can_be_written(parameter) or name in ("number", "reconnect", "journal"))
}
"""The keys that a file may set, each with whether ``false`` stands for None."""
_PARAMETERS["journal"] = True  # for an account that --journal is not to write down
