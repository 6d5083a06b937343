"""Measures everything in one run and writes what the README shows.

    python -m benchmarks.report [--quick] [--output FOLDER] [--readme README.md] [GROUP ...]
    python -m benchmarks.report --update [--quick] [--output FOLDER] GROUP ...

FOLDER gets results.md, results.json and chart.svg. It is this one unless told; where only some
groups are asked for, nothing is written unless told. `--update` puts the tables of those groups
into the results.md that is there, in the place of the same or at the end, and writes nothing else:
below each stands that it was measured by itself. Of README.md, what stands between
`<!-- benchmarks -->` and `<!-- /benchmarks -->` is replaced with the summary.
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path

from benchmarks.chart import draw
from benchmarks.groups import FULL, GROUPS, QUICK, Bench
from benchmarks.machine import describe
from benchmarks.results import Group, native_missing, percentile
from benchmarks.spec import Unavailable
from benchmarks.tables import as_markdown, as_text
from fastpos.cli.terminal import StatusLine, how_far

__all__ = ["main"]

_MARKS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")
_FOLLOWS = "docs/capacity.md is made of results.md: python -m benchmarks.capacity"
_SUMMARY = {
    "burst-plain": "frames/s, TCP",
    "burst-tls": "frames/s, TLS",
    "latency-busy-burst-plain": "p99 beside a busy thread, TCP",
    "latency-busy-burst-tls": "p99 beside a busy thread, TLS",
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--update", action="store_true", help="only these tables of results.md")
    options = parser.parse_args(arguments)
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no such group: {', '.join(sorted(unknown))}")

    if options.update and (options.readme or not options.groups):
        parser.error("--update is for some groups, and not for the README")
    groups = _measure(options.groups or list(GROUPS), quick=options.quick)
    flags = [flag for flag in ("update", "quick") if getattr(options, flag)]
    words = [*(f"--{flag}" for flag in flags), *options.groups]
    command = " ".join(["python -m benchmarks.report", *words])
    machine = {**describe(), "Command": f"`{command}`"}
    output = options.output or (None if options.groups else Path(__file__).parent)
    if options.update:
        page = (output or Path(__file__).parent) / "results.md"
        _write(page, _updated(page.read_text(encoding="utf-8"), groups, machine))
        print(_FOLLOWS)
    elif output is not None:
        output.mkdir(parents=True, exist_ok=True)
        _write(output / "results.json", _as_json(groups, machine))
        _write(output / "results.md", _as_page(groups, machine))
        _write(output / "chart.svg", draw(groups))
        print(_FOLLOWS)
    if options.readme is not None:
        _write(options.readme, _with_summary(options.readme, groups, machine))
    print(_warning(groups), file=sys.stderr, end="")


def _measure(names: list[str], *, quick: bool) -> dict[str, Group]:
    groups = {}
    began = time.monotonic()
    with Bench(QUICK if quick else FULL) as bench, StatusLine() as status:
        for number, name in enumerate(names):
            start = time.monotonic()
            # Not while a group is measured: that would be measured too.
            far = how_far(number, len(names), start - began)
            status.show(f"group {number + 1} of {len(names)}, {far}: {name}")
            try:
                group = groups[name] = GROUPS[name].run(bench)
            except Unavailable as reason:
                status.write(f"{name}: skipped, {reason}\n\n")
                continue
            with status.aside():
                print(f"{group.title} ({time.monotonic() - start:.0f} s)\n{as_text(group)}\n")
    return groups


def _as_json(groups: dict[str, Group], machine: dict[str, str]) -> str:
    content = {"machine": machine, "groups": [group.as_json() for group in groups.values()]}
    # Nanoseconds are enough for any of these numbers.
    rounded = json.loads(json.dumps(content), parse_float=lambda text: round(float(text), 9))
    return json.dumps(rounded, separators=(",", ":")) + "\n"


def _as_page(groups: dict[str, Group], machine: dict[str, str]) -> str:
    head = "# Benchmark results\n\nHow they are measured: `benchmarks/__init__.py`.\n"
    where = "\n".join(f"- {name}: {value}" for name, value in machine.items())
    tables = [as_markdown(group) for group in groups.values() if group.measured]
    return "\n".join([head, _warning(groups), where + "\n", _summary(groups), *tables])


def _updated(page: str, groups: dict[str, Group], machine: dict[str, str]) -> str:
    """The page with these tables in the place of those with the same title, or at its end."""
    head, *tables = re.split(r"^(?=## )", page, flags=re.MULTILINE)
    of = {table.partition("\n")[0]: table.rstrip() + "\n" for table in tables}
    for group in groups.values():
        if group.measured:
            note = f"- Measured by itself, {machine['Date']}: {machine['Command']}\n"
            of[f"## {group.title}"] = f"{as_markdown(group)}\n{note}"
    return "\n".join([head.rstrip() + "\n", *of.values()])


def _warning(groups: dict[str, Group]) -> str:
    """That fastpos's compiled parts were not measured, if it is so."""
    reason = native_missing(groups.values())
    return f"**fastpos, native, was NOT measured: {reason}**\n" if reason else ""


def _summary(groups: dict[str, Group]) -> str:
    """The table for those who read one: a line for each client."""
    shown = {name: title for name, title in _SUMMARY.items() if name in groups}
    if not shown:
        return ""
    lines = ["| | " + " | ".join(shown.values()) + " |", "|---|" + "---:|" * len(shown)]
    for peer in GROUPS["burst-plain"].peers:
        cells = []
        for name in shown:
            row = groups[name].rows[peer]
            if row.missing:
                cells.append("")
            elif groups[name].kind == "rate":
                cells.append(f"{1 / row.median:,.0f}")
            else:
                cells.append(f"{percentile(row.seconds, 99) * 1e3:.0f} ms")
        if any(cells):
            lines.append(f"| {groups[next(iter(shown))].rows[peer].label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _with_summary(readme: Path, groups: dict[str, Group], machine: dict[str, str]) -> str:
    before, start, rest = readme.read_text(encoding="utf-8").partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not start or not end:
        raise SystemExit(f"{readme} has no {' … '.join(_MARKS)}")
    made = f"{machine['CPU']}, {machine['Python']}, {machine['Date']}; {machine['Command']}."
    return f"{before}{start}\n\n{_warning(groups)}{_summary(groups)}\n{made}\n\n{end}{after}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
