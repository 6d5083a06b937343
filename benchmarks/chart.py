"""The README's chart: an SVG of bars, written by hand, legible on light and on dark.

An image does not learn which of the two its page is, so the colours are of middle brightness
and there is no background.
"""

from collections.abc import Callable
from html import escape

from benchmarks.results import Group, Row, percentile

__all__ = ["draw"]

_INK = "#768390"
_OTHERS = "#8b98a5"
_OURS = "#2f9e6e"
_WIDTH, _LABELS, _BAR, _GAP = 820, 262, 16, 6


def draw(groups: dict[str, Group]) -> str:
    """Bars for the bursts' rates and for the latency beside a busy thread, where measured."""
    parts: list[str] = []
    top = 8
    for name, title, value, unit in (
        ("burst-plain", "Frames a second, plain TCP (more is better)", _rate, ""),
        ("burst-tls", "Frames a second, TLS (more is better)", _rate, ""),
        ("latency-busy-burst-plain", "p99 latency beside a busy thread, bursts of 50, plain TCP "
         "(less is better)", _p99, " ms"),
        ("latency-busy-burst-tls", "p99 latency beside a busy thread, bursts of 50, TLS "
         "(less is better)", _p99, " ms"),
    ):  # fmt: skip
        if name in groups and groups[name].measured:
            bars, top = _panel(groups[name], title, value, unit, top)
            parts += bars
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'width="{_WIDTH}" height="{top}" font-family="system-ui, sans-serif" font-size="13" '
        f'fill="{_INK}">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _rate(row: Row) -> float:
    return 1 / row.median


def _p99(row: Row) -> float:
    return percentile(row.seconds, 99) * 1e3


def _panel(
    group: Group, title: str, value: Callable[[Row], float], unit: str, top: int
) -> tuple[list[str], int]:
    """The group's SVG elements below `top`, and where they end."""
    parts = [f'<text x="0" y="{top + 12}" font-weight="600">{escape(title)}</text>']
    top += 24
    longest = max(value(row) for row in group.measured.values())
    space = _WIDTH - _LABELS - 90
    for name, row in group.measured.items():
        number = value(row)
        width = max(1, round(space * number / longest))
        colour = _OURS if name.startswith("fastpos") else _OTHERS
        middle = top + _BAR - 4
        parts += [
            f'<text x="{_LABELS - 8}" y="{middle}" text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{_LABELS}" y="{top}" width="{width}" height="{_BAR}" rx="2" '
            f'fill="{colour}"/>',
            f'<text x="{_LABELS + width + 6}" y="{middle}">{number:,.0f}{unit}</text>',
        ]
        top += _BAR + _GAP
    return parts, top + 14
