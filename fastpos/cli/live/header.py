"""The lines on top: which stream, whether it is connected and since when, pings, gaps."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from rich.text import Text

from ..terminal import span
from .figures import ago
from .known import Known, Link, State
from .paint import Brush, Part, spread, width_of

__all__ = ["header"]

# A ping without an answer for so long is told, seconds.
LATE = 1.0
_BETWEEN = "   "

Item = tuple[int, list[Part]]
"""Its priority, and what it says: where there is no room the largest go first."""


def header(known: Known, now_ns: int, width: int, brush: Brush) -> list[Text]:
    """Give the lines."""
    time = datetime.fromtimestamp(now_ns / 1e9).strftime("%H:%M:%S")
    left = brush.line(Part("fastpos ", "title"), Part(brush.clean(known.title), "name"))
    state, counts = _state(known, now_ns, brush), _counts(known, now_ns)
    if known.link.reason:
        reason = Part(brush.clean(f"why: {known.link.reason}"), "warning")
        second = brush.fit(brush.line(Part(" "), reason), width)
    else:
        second = _fitting(counts, width, brush)
    return [
        spread(left, brush.line(Part(time, "head")), width, brush),
        _fitting(state, width, brush),
        second,
    ]


def _state(known: Known, now_ns: int, brush: Brush) -> list[Item]:
    link = known.link
    signs = {
        State.CONNECTING: (brush.waiting, "waiting"),
        State.SUBSCRIBED: (brush.on, "good"),
        State.LOST: (brush.off, "danger"),
        State.ENDED: (brush.off, "danger"),
    }
    sign, style = signs[link.state]
    since = datetime.fromtimestamp(link.since_ns / 1e9).strftime("%H:%M:%S")
    items = [
        (0, [Part(f" {sign} {link.state.value} ", style)]),
        (1, [Part(f"{span((now_ns - link.since_ns) / 1e9)}, since {since}")]),
    ]
    if link.state is State.SUBSCRIBED:
        if link.silent_ns is not None:
            silent = f"no ticks for {span((now_ns - link.silent_ns) / 1e9)}"
            items.append((2, [Part(silent, "warning")]))
        items += [(3, _ping(known, now_ns)), (4, _gap(link, now_ns)), (5, _message(known, now_ns))]
    elif link.state is not State.ENDED:
        if link.retry_ns is not None:
            items.append((2, _next(link.retry_ns, now_ns)))
        if link.state is State.LOST:
            gap = Part(f"gap {span((now_ns - link.since_ns) / 1e9)} so far", "warning")
            items.append((3, [gap]))
        if link.attempts:
            items.append((4, [Part(f"{link.attempts:,} attempts failed")]))
    return items


def _ping(known: Known, now_ns: int) -> list[Part]:
    sent, heard = known.stats.last_ping_ns, known.stats.last_pong_ns
    if sent is not None and (heard is None or heard < sent) and now_ns - sent > LATE * 1e9:
        return [Part(f"ping unanswered for {span((now_ns - sent) / 1e9)}", "warning")]
    trip = known.stats.round_trip_s
    text = "-" if trip is None else f"{trip * 1e3:.1f} ms" if trip < 1 else span(trip)
    return [Part("ping ", "head"), Part(text)]


def _gap(link: Link, now_ns: int) -> list[Part]:
    if not link.gaps:
        return [Part("gap ", "head"), Part("none")]
    return [
        Part("gap ", "head"),
        Part(f"{span(link.gap_s)}, {ago(link.gap_ns, now_ns)}"),
    ]


def _message(known: Known, now_ns: int) -> list[Part]:
    at_ns = known.stats.last_message_ns
    text = "-" if at_ns is None else ago(at_ns, now_ns)
    return [Part("last message ", "head"), Part(text)]


def _next(retry_ns: int, now_ns: int) -> list[Part]:
    left = (retry_ns - now_ns) / 1e9
    return [Part("connecting" if left <= 0 else f"next attempt in {span(left)}")]


def _counts(known: Known, now_ns: int) -> list[Item]:
    stats, link = known.stats, known.link
    errors = stats.decode_errors + stats.callback_errors
    items: list[Item] = [
        (0, [Part(" "), Part("messages ", "head"), Part(f"{stats.messages:,}")]),
        (1, [Part("connections ", "head"), Part(f"{stats.connects:,}")]),
        (1, [Part("gaps ", "head"), Part(_gaps(link))]),
        (2, [Part("errors ", "head"), Part(f"{errors:,}", "warning" if errors else "")]),
    ]
    if link.synced_ns is not None:
        if known.synced:
            synced = Part(f"synced {ago(link.synced_ns, now_ns)}")
        else:
            synced = Part("not synced", "warning")
        items.insert(1, (0, [synced]))
    items.append((5, [Part("received ", "head"), Part(f"{stats.bytes_received:,} bytes")]))
    return items


def _gaps(link: Link) -> str:
    return f"{link.gaps:,}, {span(link.missed_s)} in all" if link.gaps else "none"


def _fitting(items: Iterable[Item], width: int, brush: Brush) -> Text:
    """Give a line of the items that there is room for, in their order."""
    items = list(items)
    taken = 0
    shown: set[int] = set()
    for number, (_, parts) in sorted(enumerate(items), key=lambda each: each[1][0]):
        takes = sum(width_of(part.text) for part in parts) + (len(_BETWEEN) if shown else 0)
        if taken + takes <= width or not shown:
            shown.add(number)
            taken += takes
    line = brush.line()
    for number, (_, parts) in enumerate(items):
        if number in shown:
            if line:
                line.append(_BETWEEN)
            line.append_text(brush.line(*parts))
    return brush.fit(line, width)
