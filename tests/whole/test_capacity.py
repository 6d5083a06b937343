"""docs/capacity.md is what `python -m benchmarks.capacity` makes of benchmarks/results.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.programs import ROOT, run

RESULTS = (ROOT / "benchmarks" / "results.md").read_text()
FLEET = re.compile(
    r"(streams in a process, TLS.*?\| fastpos, native, Fleet \| [\d.]+ \| )[\d.]+", re.S
)


def made(folder: Path, results: str) -> tuple[int, str, str]:
    """The exit status, the page, and what is said of other figures."""
    file, page = folder / "results.md", folder / "capacity.md"
    file.write_text(results)
    words = ["--results", str(file), "--output", str(page)]
    done = run("-m", "benchmarks.capacity", *words, where=ROOT)
    return done.returncode, page.read_text() if page.exists() else "", done.stderr


def row(page: str, title: str) -> list[str]:
    """The cells of a row."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {title}"))
    return [cell.strip(" *") for cell in line.strip("|").split("|")[1:]]


def test_the_page_is_of_the_figures_that_are_there() -> None:
    done = run("-m", "benchmarks.capacity", "--check", where=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_figure_makes_another_page_and_that_is_noticed(tmp_path: Path) -> None:
    status, before, _ = made(tmp_path, RESULTS)
    assert status == 0
    slower, replaced = FLEET.subn(r"\g<1>659", RESULTS)
    assert replaced == 1
    status, after, _ = made(tmp_path, slower)
    assert status == 0
    first, second = (row(page, "**workers**")[-1] for page in (before, after))
    assert as_number(second) > as_number(first)
    (tmp_path / "results.md").write_text(RESULTS)
    words = ["--results", str(tmp_path / "results.md"), "--output", str(tmp_path / "capacity.md")]
    done = run("-m", "benchmarks.capacity", "--check", *words, where=ROOT)
    assert done.returncode == 1
    assert "python -m benchmarks.capacity" in done.stderr


def as_number(text: str) -> int:
    return int(text.replace(",", ""))


@pytest.mark.parametrize(
    ("group", "there", "instead"),
    [
        ("takeover", "## 300 accounts", "## Some accounts"),
        ("takeover", "| SIGTERM of one |", "| another |"),
        ("publisher-rate", "| Redis CPU µs |", "| another |"),
        ("publisher-size", "| in Redis' memory |", "| another |"),
        ("fleet-tls", "| fastpos, native, Fleet |", "| another |"),
        ("closing", "| closed a second |", "| another |"),
        ("fleet-tls", FLEET, r"\g<1>much"),
    ],
)
def test_a_figure_that_is_missing_is_named_and_nothing_is_made(
    tmp_path: Path, group: str, there: str | re.Pattern[str], instead: str
) -> None:
    wanted = re.compile(re.escape(there)) if isinstance(there, str) else there
    changed, found = wanted.subn(instead, RESULTS)
    assert found
    status, page, said = made(tmp_path, changed)
    assert (status, page) == (1, "")
    assert said.endswith(f": python -m benchmarks.report --update {group}\n")


def test_one_worker_may_be_missing_and_the_others_have_room(tmp_path: Path) -> None:
    _, page, _ = made(tmp_path, RESULTS)
    (most,) = re.findall(r"at\s+most\s+([\d,]+)\s+accounts", page)
    accounts, workers = row(page, "accounts of each"), row(page, "workers of each")
    assert len(accounts) == len(workers) == 3
    for each, number in zip(accounts, workers, strict=True):
        assert as_number(each) / (as_number(number) - 1) <= as_number(most)
