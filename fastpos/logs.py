"""What is logged: the logger `fastpos`, and the fields that its records carry."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

__all__ = ["fields", "log"]

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


class _Log(_Adapter):
    """The logger, where a handler or filter of the host's that raises ends neither feed nor ping
    thread."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        with suppress(Exception):
            if self.isEnabledFor(level):
                self.logger.log(level, msg, *args, stacklevel=2, **kwargs)


log: _Log = _Log(logging.getLogger("fastpos"), {})


def fields(event: str, **values: object) -> dict[str, object]:
    """Give the `extra` of a log record: ``fastpos_event``, and each value as ``fastpos_<name>``.

    Values are what JSON has: str, int, float, None. docs/reference/logs.md lists the events.
    """
    return {"fastpos_event": event, **{f"fastpos_{name}": values[name] for name in values}}
