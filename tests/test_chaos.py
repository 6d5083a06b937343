"""Every fault of tests/chaos once, and whether a trial would see a stream that does it wrong."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

import fastpos.runtime.pinger
from fastpos.runtime.delivery import Delivery
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


def test_no_two_faults_have_one_name() -> None:
    assert len(BY_ID) == len(FAULTS)


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
@pytest.mark.parametrize("what", ["loses", "doubles", "swaps"])
def test_what_a_stream_does_to_one_event_is_seen(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """To the third one, before the fault."""
    deliver = Delivery.push
    events: list[tuple[Delivery, bytes, int]] = []

    def push(delivery: Delivery, text: bytes, received_ns: int) -> object:
        event = (delivery, text, received_ns)
        if b'"channel":"' in text:
            events.append(event)
            if len(events) == 3:
                if what == "doubles":
                    deliver(*event)
                else:
                    return None
            if len(events) == 4 and what == "swaps":
                deliver(*event)
                event = events[2]
        return deliver(*event)

    monkeypatch.setattr(Delivery, "pushes", lambda _self, _texts, start, _received_ns: start)
    monkeypatch.setattr(Delivery, "push", push)
    problems = _problems("corrupt gzip: data")
    assert "subscription 1: sent " in problems
    assert ("delivered twice: [3]" in problems) == (what == "doubles")


def _ledger(**sent: list[int]) -> Ledger:
    """Which events were sent on which connections (`c1`, …)."""
    ledger = Ledger()
    for number in range(1, max(map(max, sent.values())) + 1):
        on = [int(name[1:]) for name, numbers in sent.items() if number in numbers]
        assert ledger.next(on) == number
    return ledger


def test_ledger_of_a_connection_that_broke() -> None:
    ledger = _ledger(c1=[1, 2, 3, 4, 5], c2=[8, 9])
    assert (ledger.count, ledger.unsent) == (9, 2)
    for arrived in ([1, 2, 3, 4, 5], [1, 2], []):
        assert ledger.problems([arrived, [8, 9]], all_arrives=False) == []


def test_ledger_of_two_connections_at_a_time() -> None:
    """As with a half-open one, of whose end the server does not know."""
    ledger = _ledger(c1=[1, 2, 3, 4, 5, 6], c2=[4, 5, 6])
    assert ledger.problems([[1, 2], [4, 5, 6]], all_arrives=False) == []


def test_ledger_of_connections_that_ended_in_order() -> None:
    ledger = _ledger(c1=[1, 2, 3], c2=[5, 6])
    assert ledger.problems([[1, 2, 3], [5, 6]], all_arrives=True) == []
    assert ledger.problems([[1, 2], [5, 6]], all_arrives=True) != []


@pytest.mark.parametrize(
    "sessions",
    [
        [[1, 3], [8, 9]],  # a hole
        [[2, 3], [8, 9]],  # not from the subscription on
        [[2, 1], [8, 9]],
        [[1, 2, 2], [8, 9]],
        [[1, 2], [2, 8, 9]],
        [[1, 2, 6], [8, 9]],  # sent on none
        [[1, 2], [8]],  # the last one lives: all of it arrives
        [[1, 2], [9]],
        [[1, 2], []],
        [[8, 9], [1, 2]],
    ],
    ids=str,
)
@pytest.mark.parametrize("all_arrives", [False, True])
def test_ledger_sees_what_is_wrong(sessions: list[list[int]], all_arrives: bool) -> None:
    ledger = _ledger(c1=[1, 2, 3], c2=[8, 9])
    assert ledger.problems(sessions, all_arrives=all_arrives) != []


def test_ledger_sees_that_nothing_came_of_a_connection() -> None:
    ledger = _ledger(c1=[1, 2], c2=[3], c3=[4])
    assert ledger.problems([[1, 2], [4]], all_arrives=False) == []
    assert ledger.problems([[1, 2], [4]], all_arrives=True) != []


def test_clock_of_the_host_is_the_librarys() -> None:
    with Host() as host:
        before, monotonic = fastpos.runtime.pinger.time_ns(), time.monotonic()
        host.clock_offset_s = lambda: -3600.0
        assert before - 3601e9 < fastpos.runtime.pinger.time_ns() < before - 3590e9
        assert before / 1e9 - 3601 < time.time() < before / 1e9 - 3590
        assert 0 <= time.monotonic() - monotonic < 10
    assert fastpos.runtime.pinger.time_ns() >= before
    assert fastpos.runtime.pinger.time_ns is time.time_ns


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text("before\n<!-- faults -->\nold\n<!-- /faults -->\nafter\n")
    return path


def test_command_writes_the_table(readme: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--seed", "5", "--readme", str(readme), "bomb"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n<!-- faults -->\n")
    assert text.endswith("<!-- /faults -->\nafter\n")
    assert "old" not in text
    assert "`python -m tests.chaos --seed 5 --rounds 1 bomb`" in text
    assert "ping_interval=1" in text
    (row,) = [line for line in text.splitlines() if "inflates to more than" in line]
    assert row.startswith("| gzip bomb")
    assert row in capsys.readouterr().out


def test_command_fails_when_a_bound_is_missed(
    readme: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    late = dataclasses.replace(BY_ID["gzip bomb, 64 MiB in 64 KiB"], within=0.0)
    monkeypatch.setattr(run, "FAULTS", (late,))
    before = readme.read_text()
    assert run.main(["--readme", str(readme)]) == 1
    assert readme.read_text() == before
    assert "noticed after" in capsys.readouterr().out


def test_command_knows_its_faults() -> None:
    with pytest.raises(SystemExit):
        run.main(["meteorite"])


def test_order_and_parameters_are_the_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert first[: len(FAULTS)] != first[len(FAULTS) :]


def test_readme_without_marks(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing here")
    with pytest.raises(ValueError, match="<!-- faults -->"):
        report.put_into(path, "table")


def test_readme_has_every_fault(project: Path) -> None:
    text = (project / "README.md").read_text()
    section = text.partition(report.MARKS[0])[2].partition(report.MARKS[1])[0]
    for fault in FAULTS:
        assert f"| {fault.name}" in section
        assert fault.case in section
