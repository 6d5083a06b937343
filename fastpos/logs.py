"""The fields that log records carry for a formatter that wants more than the message."""

from __future__ import annotations

__all__ = ["fields"]


def fields(event: str, **values: object) -> dict[str, object]:
    """Give the `extra` of a log record: ``fastpos_event``, and each value as ``fastpos_<name>``.

    Values are what JSON has: str, int, float, None. README.md lists the events.
    """
    return {"fastpos_event": event, **{f"fastpos_{name}": values[name] for name in values}}
