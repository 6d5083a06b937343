"""Every fault once, and whether a trial would see a stream that does it wrong."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pytest

import fastpos.wire.session
from tests.chaos.faults import FAULTS, MARKS, Fault, Loss, during
from tests.chaos.host import Host
from tests.chaos.market import Market
from tests.chaos.rig import Rig
from tests.chaos.trial import try_fault

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]

SEED = "1"
# Of each kind one: all of them take a minute and a half, alone and in a fleet each.
QUICK = ("connection reset", "corrupt gzip: data", "garbage JSON: text")
BY_ID = {fault.id: fault for fault in FAULTS}


# How the stream is driven: so many are there, and so many threads call their functions.
HOSTS = {"alone": (1, 0), "fleet": (10, 0), "pool": (10, 2)}
# Where these threads make a difference.
POOLED = (*QUICK, "a user's function takes long", "`stop()` overlaps the next `start()`")


def _case(fault: Fault, host: str) -> object:
    marks = () if fault.id in QUICK and host != "pool" else pytest.mark.long
    return pytest.param(fault, *HOSTS[host], id=f"{fault.id}-{host}", marks=marks)


@pytest.mark.parametrize(
    ("fault", "streams", "callback_threads"),
    [
        _case(fault, host)
        for host in HOSTS
        for fault in FAULTS
        if host != "pool" or fault.id in POOLED
    ],
)
def test_fault(fault: Fault, streams: int, callback_threads: int) -> None:
    assert try_fault(fault, SEED, streams, callback_threads).problems == []


def test_the_page_has_every_fault(project: Path) -> None:
    assert len(BY_ID) == len(FAULTS)
    text = (project / "docs" / "explanation" / "faults.md").read_text()
    section = text.partition(MARKS[0])[2].partition(MARKS[1])[0]
    for fault in FAULTS:
        assert f"| {fault.name}" in section
        assert fault.case in section


def test_a_trial_sees_what_is_late_and_what_did_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    happen = Market._happen

    def lose_one(market: Market) -> bool:
        market.events += market.events == 2  # number 3 is sent nowhere, and 4 counts as sent
        return happen(market)

    monkeypatch.setattr(Market, "_happen", lose_one)
    late = dataclasses.replace(BY_ID["corrupt gzip: data"], within=0.0, loss=Loss.NONE)
    problems = "; ".join(try_fault(late, SEED).problems)
    assert "noticed after" in problems
    assert "events are missing" in problems


def test_a_trial_sees_what_a_neighbour_suffers() -> None:
    def drop(rig: Rig) -> None:
        market = rig.neighbours.markets[1]
        market.exchange.drop()
        market.happen()
        assert market.exchange.wait_for_subscribers(1)

    spreading = dataclasses.replace(BY_ID["pings of the exchange's own: text"], inject=during(drop))
    problems = "; ".join(try_fault(spreading, SEED, streams=4).problems)
    assert "neighbour-1: the connection was lost" in problems
    assert "neighbour-1: not every event came" in problems
    assert "neighbour-0" not in problems


def test_the_hosts_clock_is_the_librarys() -> None:
    with Host() as host:
        before, monotonic = fastpos.wire.session.time_ns(), time.monotonic()
        host.clock_offset_s = lambda: -3600.0
        assert before - 3601e9 < fastpos.wire.session.time_ns() < before - 3590e9
        assert before / 1e9 - 3601 < time.time() < before / 1e9 - 3590
        assert 0 <= time.monotonic() - monotonic < 10
    assert fastpos.wire.session.time_ns is time.time_ns
