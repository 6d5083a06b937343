"""What was measured, and how it is compared.

A row holds its measurements in seconds: for a rate, seconds a frame in each round; for a
latency, every sample; for an idle stream, CPU seconds a second; for a fleet, CPU seconds a frame
in each round; for figures that stand for themselves, how long each round took.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Group", "Row", "native_missing", "percentile"]


def percentile(samples: Iterable[float], percent: float) -> float:
    """The smallest sample that `percent` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


@dataclass
class Row:
    label: str
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    """For a mean over several frames: the rounds of each."""
    extra: dict[str, float] = field(default_factory=dict)
    """More columns: the name, with its unit, and the number."""
    missing: str = ""
    """Why this row was not measured, if it was not."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Group:
    name: str
    title: str
    kind: Literal["rate", "latency", "idle", "fleet", "figures"]
    rows: dict[str, Row]
    against: tuple[str, ...] = ()
    """Whom the rows are compared with, besides the first of them."""

    @property
    def measured(self) -> dict[str, Row]:
        return {name: row for name, row in self.rows.items() if not row.missing}

    @property
    def baselines(self) -> list[str]:
        """The first peer, and those of `against` that were measured."""
        if self.kind == "figures":
            return []
        measured = self.measured
        return [*list(measured)[:1], *(name for name in self.against if name in measured)]

    def ratio(self, name: str, baseline: str) -> float:
        """How many times better `name` is: 2.0 needs half the time."""
        row, base = self.rows[name], self.rows[baseline]
        if self.kind in ("rate", "fleet"):
            # Rounds that ran side by side met the same noise.
            pairs = zip(base.seconds, row.seconds, strict=True)
            return statistics.median(theirs / ours for theirs, ours in pairs)
        if self.kind == "latency":
            return percentile(base.seconds, 99) / percentile(row.seconds, 99)
        return base.median / row.median

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column titles, and a line of cells for each row; the first two cells are texts."""
        measured = self.measured
        ratio_of = {"rate": "", "latency": "p99 ", "idle": "CPU ", "fleet": "CPU "}.get(self.kind)
        lines, columns = [], [*self._columns(), *(f"{ratio_of}vs {n}" for n in self.baselines)]
        for name, row in measured.items():
            ratios = [f"{self.ratio(name, base):.2f}x" for base in self.baselines]
            lines.append([row.label, *self._cells(row), *ratios])
        return ["" if self.kind == "figures" else "peer", *columns], lines

    def notes(self) -> list[str]:
        return [f"{row.label}: skipped, {row.missing}" for row in self.rows.values() if row.missing]

    def _columns(self) -> list[str]:
        first: Mapping[str, Any] = next(iter(self.measured.values()), Row("")).__dict__
        if self.kind == "rate":
            return ["frames/s", "µs a frame", *first["parts"], *first["extra"]]
        if self.kind == "latency":
            return ["p50 ms", "p90 ms", "p99 ms"]
        if self.kind == "figures":
            return list(first["extra"])
        per = {"idle": "a second", "fleet": "a frame"}[self.kind]
        return [f"CPU µs {per}", *first["extra"]]

    def _cells(self, row: Row) -> list[str]:
        if self.kind == "rate":
            parts = [f"{statistics.median(rounds) * 1e6:.2f}" for rounds in row.parts.values()]
            more = map(_short, row.extra.values())
            return [f"{1 / row.median:,.0f}", f"{row.median * 1e6:.2f}", *parts, *more]
        if self.kind == "latency":
            return [f"{percentile(row.seconds, p) * 1e3:.3f}" for p in (50, 90, 99)]
        if self.kind == "figures":
            return [*map(_short, row.extra.values())]
        if self.kind == "fleet":
            return [f"{row.median * 1e6:.1f}", *map(_short, row.extra.values())]
        return [f"{row.median * 1e6:.0f}", *(f"{value:.0f}" for value in row.extra.values())]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def _short(value: float) -> str:
    """Three digits of it, and all of those before the point."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def native_missing(groups: Iterable[Group]) -> str:
    """Why fastpos's compiled parts were not measured in some of the groups; empty if they were."""
    reasons = {
        row.missing
        for group in groups
        for name, row in group.rows.items()
        if name.startswith("fastpos-native") and row.missing
    }
    return "; ".join(sorted(reasons))
