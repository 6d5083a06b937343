"""Every fault once, and whether a trial would see a stream that does it wrong."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import fastpos.wire.session
from tests.chaos import report, run
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.host import Host
from tests.chaos.ledger import Ledger
from tests.chaos.trial import try_fault

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]

SEED = "1"
# Of each kind one: all of them take a minute.
QUICK = ("connection reset", "corrupt gzip: data", "garbage JSON: text")
BY_ID = {fault.id: fault for fault in FAULTS}


def _case(fault: Fault) -> object:
    return pytest.param(fault, id=fault.id, marks=() if fault.id in QUICK else pytest.mark.long)


@pytest.mark.parametrize("fault", [_case(fault) for fault in FAULTS])
def test_fault(fault: Fault) -> None:
    assert try_fault(fault, SEED).problems == []


def test_the_readme_has_every_fault(project: Path) -> None:
    assert len(BY_ID) == len(FAULTS)
    text = (project / "README.md").read_text()
    section = text.partition(report.MARKS[0])[2].partition(report.MARKS[1])[0]
    for fault in FAULTS:
        assert f"| {fault.name}" in section
        assert fault.case in section


# --- whether a trial can fail ---------------------------------------------------------------------


def _problems(name: str, **changes: object) -> str:
    return "; ".join(try_fault(dataclasses.replace(BY_ID[name], **changes), SEED).problems)


def test_late_is_wrong() -> None:
    assert "noticed after" in _problems("corrupt gzip: data", within=0.0)


@pytest.mark.long
@pytest.mark.parametrize("late", ["RETRY_WITHIN", "BACK_WITHIN"])
def test_late_return_is_wrong(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    monkeypatch.setattr(f"tests.chaos.trial.{late}", 0.0)
    assert " after " in _problems("connection reset")


@pytest.mark.long
def test_other_words_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.trial.PATIENCE", 0.1)
    problems = _problems("corrupt gzip: data", reason="broken")
    assert "nothing like 'broken' was said" in problems
    assert "not a push: bad deflate data" in problems


@pytest.mark.long
def test_an_event_that_did_not_come_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    follow = Ledger.next

    def leave_one_out(ledger: Ledger, connections: Sequence[int]) -> int:
        number = follow(ledger, connections)
        return follow(ledger, connections) if number == 3 else number

    monkeypatch.setattr(Ledger, "next", leave_one_out)
    assert "is not as it was sent" in _problems("corrupt gzip: data")


def test_the_hosts_clock_is_the_librarys() -> None:
    with Host() as host:
        before, monotonic = fastpos.wire.session.time_ns(), time.monotonic()
        host.clock_offset_s = lambda: -3600.0
        assert before - 3601e9 < fastpos.wire.session.time_ns() < before - 3590e9
        assert before / 1e9 - 3601 < time.time() < before / 1e9 - 3590
        assert 0 <= time.monotonic() - monotonic < 10
    assert fastpos.wire.session.time_ns is time.time_ns


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_the_table_if_all_went_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "README.md"
    before = "before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n"
    path.write_text(before)
    arguments = ["--seed", "5", "--readme", str(path), "bomb"]
    late = dataclasses.replace(BY_ID["gzip bomb, 64 MiB in 64 KiB"], within=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(run, "FAULTS", (late,))
        assert run.main(arguments) == 1
    assert path.read_text() == before
    assert "noticed after" in capsys.readouterr().out
    assert run.main(arguments) == 0
    text = path.read_text()
    assert text.startswith("before\n<!-- faults -->\n")
    assert text.endswith("<!-- /faults -->\nafter\n")
    assert "old" not in text
    assert "`python -m tests.chaos --seed 5 --rounds 1 bomb`" in text
    (row,) = [line for line in text.splitlines() if "inflates to more than" in line]
    assert row.startswith("| gzip bomb")
    assert row in capsys.readouterr().out


def test_the_order_is_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(seed: int) -> list[tuple[str, str]]:
        calls: list[tuple[str, str]] = []

        def record(fault: Fault, seed: str) -> object:
            calls.append((fault.id, seed))
            return run.Outcome(fault)

        monkeypatch.setattr(run, "try_fault", record)
        assert run.main(["--seed", str(seed), "--rounds", "2"]) == 0
        return calls

    first = tried(3)
    assert first == tried(3)
    assert first != tried(4)
    assert len(first) == 2 * len(FAULTS)
