"""Where a secret is: in an environment variable, or in a file. It is read whenever it is needed.

Nothing here shows what stands in a reference: who misunderstood it may have written the secret
itself there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.snapshot import Snapshot
from ..tracebacks import clears_locals

if TYPE_CHECKING:
    from ..rest import AccountSnapshot

__all__ = ["SNAPSHOT_SECRETS", "FreshSnapshot", "Reference", "parse_reference", "snapshot_class"]

SNAPSHOT_SECRETS = ("api_key", "api_secret")
"""The keys of a snapshot's table that are references."""

# The largest secret that is read, bytes.
LARGEST = 64 * 1024


@dataclass(frozen=True, repr=False)
class Reference:
    """Gives a secret when it is called; equal to another if it is the same place."""

    kind: str
    """"env" or "file"."""
    place: str
    """The name of the variable, or the path."""

    @clears_locals
    def __call__(self) -> str:
        """Read the secret; white space around it does not count.

        Raises:
            ValueError: there is none.
        """
        secret = os.environ.get(self.place, "") if self.kind == "env" else self._read()
        if not secret.strip():
            raise ValueError(
                "its environment variable is not set" if self.kind == "env" else "its file is empty"
            )
        return secret.strip()

    def _read(self) -> str:
        try:
            with open(self.place, "rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ValueError(f"its file can't be read: {reason}") from None
        except ValueError:  # no path at all
            raise ValueError("its file can't be read: that is no path") from None
        if len(data) > LARGEST or not data.isascii():
            raise ValueError(f"its file is not ASCII text of at most {LARGEST} bytes")
        return data.decode("ascii")

    def __repr__(self) -> str:
        return f"<secret in {'a variable' if self.kind == 'env' else 'a file'}>"


def parse_reference(value: object, folder: Path) -> Reference:
    """Take ``{ env = "NAME" }`` or ``{ file = "PATH" }``.

    Args:
        value: what stands in the file.
        folder: what a relative path starts from.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, str):
        raise TypeError(
            'a secret must not stand here: say where it is, { env = "NAME" } or { file = "PATH" }'
        )
    if isinstance(value, dict) and len(value) == 1:
        [(kind, place)] = value.items()
        if kind in ("env", "file") and isinstance(place, str) and place:
            return Reference(kind, place if kind == "env" else str(folder / place))
    raise TypeError('must be { env = "NAME" } or { file = "PATH" }')


class FreshSnapshot:
    """A snapshot source whose secrets are read again at every call.

    Threads: any may call or close it. `_lock` guards which `AccountSnapshot` is in use, and is not
    held while that asks the exchange.
    """

    def __init__(self, table: Mapping[str, Any], shared: Mapping[str, Any]) -> None:
        self._table = table
        self._shared = shared
        self._lock = threading.Lock()
        self._secrets: list[str] = []
        self._source: AccountSnapshot | None = None

    @clears_locals
    def __call__(self) -> Snapshot:
        """Ask the exchange; raises what `AccountSnapshot` does, ValueError for a lost secret."""
        secrets: list[Any] = [self._table[key]() for key in SNAPSHOT_SECRETS]
        old = None
        with self._lock:
            if self._source is None or secrets != self._secrets:
                old = self._source
                given: dict[str, Any] = dict(zip(SNAPSHOT_SECRETS, secrets, strict=True))
                given |= {"base_url": self._table["url"], **self._shared}
                if "timeout" in self._table:
                    given["timeout"] = self._table["timeout"]
                self._source = snapshot_class()(**given)
                self._secrets = secrets
            source = self._source
        if old is not None:
            old.close()
        return source()

    def close(self) -> None:
        """Close the connection, and end a call that is under way."""
        with self._lock:
            source = self._source
        if source is not None:
            source.close()


def snapshot_class() -> type[AccountSnapshot]:
    """Give the class that asks the exchange; raises ImportError."""
    from ..rest import AccountSnapshot  # noqa: PLC0415 -- it needs the extra

    return AccountSnapshot
