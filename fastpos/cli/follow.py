"""What a stream tells, until it has ended: a table on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any

from ..runtime.callbacks import CALLBACK_NAMES
from ..stream import PositionStream
from .lines import line
from .output import event_json

__all__ = ["follow", "is_ascii"]

# What Python makes of the locale "C" by itself (PEP 538), as if somebody had asked for it.
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")


def follow(
    stream: PositionStream, form: str, only_ascii: bool = False, seconds: float | None = None
) -> None:
    """Run a stream, and show what it tells on standard output.

    Args:
        stream: it is not running yet.
        form: "table", which is lines where there is no terminal that could show it; "plain", a line
            an event; "json", an object an event.
        only_ascii: whether the table does without other characters, whatever the terminal shows.
        seconds: no longer than so.

    Raises:
        FastposError: what ended the stream.
        OSError: standard output can't be written; BrokenPipeError: its reader has gone.
    """
    if form == "table" and _is_screen():
        if find_spec("rich") is not None:
            from .live import live  # noqa: PLC0415 -- needs the extra

            title = repr(stream)[1:-1].partition(" ")[2]
            is_limited = only_ascii or is_ascii(sys.stdout.encoding, os.environ)
            live(stream, title, is_limited, seconds)
            return
        text = 'fastpos: lines, as the table needs rich: pip install "fastpos[watch]"'
        print(text, file=sys.stderr)
    if form == "json":
        _print_all(stream, lambda slot, event: event_json(stream.name, slot, event), seconds)
    else:
        _print_all(stream, lambda _, event: line(event), seconds)


def _is_screen() -> bool:
    """Whether standard output is a terminal whose cursor can be moved."""
    if not sys.stdout.isatty():
        return False
    term = os.environ.get("TERM", "")
    if os.name == "posix":
        return term not in ("dumb", "unknown", "")
    return bool(term) or "WT_SESSION" in os.environ  # Windows' old console obeys no escapes


def is_ascii(encoding: str | None, environment: Mapping[str, str]) -> bool:
    """Whether a terminal shows nothing but ASCII, as far as is known."""
    if (encoding or "").lower().replace("-", "") != "utf8":
        return True
    locale = environment.get("LC_ALL") or environment.get("LC_CTYPE")
    if not locale or (locale in _COERCED and not environment.get("LC_ALL")):
        locale = environment.get("LANG") or locale
    return locale in ("C", "POSIX")


def _print_all(
    stream: PositionStream, show: Callable[[str, Any], str], seconds: float | None
) -> None:
    def note(slot: str, event: object) -> None:
        if failed:
            return
        try:
            print(show(slot, event), flush=True)
        except OSError as error:  # the reader has gone, as `head` does; or the disk is full
            failed.append(error)
            stream.stop()
            # Not just to return: a group of Redis' would take it for shown.
            raise SystemExit from None

    failed: list[OSError] = []
    for name in CALLBACK_NAMES:
        getattr(stream, name)(partial(note, name))
    with suppress(SystemExit):
        if seconds is None:
            stream.run_forever()
        else:
            with stream:
                stream.join(seconds)
    if failed:
        raise failed[0]
