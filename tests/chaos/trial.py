"""One stream, one fault: put it in, see that it is noticed, take it out, account for everything."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from time import monotonic, sleep

from fastpos import DecodeError
from tests.chaos.faults import BACK_WITHIN, RESET, RETRY_WITHIN, Fault, Loss, Seen
from tests.chaos.rig import Rig
from tests.support.ledger import compare, noted
from tests.support.recording import SOON, until

# Waits of a trial end so long after the bound that they are to keep, seconds: what is late is
# measured, and what never comes is told.
PATIENCE = SOON
# From the fault on, seconds. To the stream, the second or so since its start is of the outage too.
AWAY_AT_MOST = 3.5


@dataclass
class Outcome:
    """What was measured in one trial; seconds, None where there is no such thing."""

    fault: Fault
    noticed_in: float | None = None
    """As `Seen` says."""
    reason: str = ""
    """What the stream said of it."""
    retried_in: float | None = None
    """From the first end of a connection to the first attempt to have another."""
    back_in: float | None = None
    """From the server's return, or where it never went from the last end, to on_ready."""
    events: int = 0
    """How many there were."""
    unsent: int = 0
    """How many of them happened while no connection was subscribed."""
    broken_off: int = 0
    """How many were sent on a connection that broke, and did not come."""
    problems: list[str] = field(default_factory=list)
    """What is not as it should be."""


def try_fault(fault: Fault, seed: str, streams: int = 1, callback_threads: int = 0) -> Outcome:
    """Run one trial with so many streams, of which one has the fault; see `Rig`.

    Whatever goes wrong is in the outcome's `problems`.
    """
    driven = {"tls": fault.tls, "streams": streams, "callback_threads": callback_threads}
    outcome = Outcome(fault)
    try:
        with Rig(f"{seed} {fault.id}", **driven) as rig:
            _try(fault, rig, outcome)
            _account(fault, rig, outcome)
    except AssertionError as error:
        outcome.problems.append(str(error))
    return outcome


def _try(fault: Fault, rig: Rig, outcome: Outcome) -> None:
    recorder = rig.recorder
    rig.wait_events(rig.rng.randint(3, 20))
    rig.burst()
    began = monotonic()
    with fault.inject(rig):
        noticed_at = 0.0
        if fault.seen is not Seen.NOT:
            outcome.reason, noticed_at = _notice(fault, rig)
        if fault.away:
            # Not a wait for anything: for so long the server stays away.
            sleep(rig.rng.uniform(0.0, max(AWAY_AT_MOST - (monotonic() - began), 0.0)))
    returned = monotonic()
    ends = fault.seen in (Seen.END, Seen.ATTEMPT)
    if ends:
        recorder.wait("on_ready", fault.subscriptions, PATIENCE + BACK_WITHIN)
        lost_at, *_ = recorder.times["on_disconnect"]
        back_at = recorder.times["on_ready"][fault.subscriptions - 1]
        if not fault.away:
            returned = recorder.times["on_disconnect"][-1]
        attempts = [at for at in rig.host.lookups if at > lost_at]
        outcome.retried_in = attempts[0] - lost_at
        _keep(outcome, "first retry", outcome.retried_in, RETRY_WITHIN)
        outcome.back_in = max(back_at - returned, 0.0)
        _keep(outcome, "back", outcome.back_in, BACK_WITHIN)
    if fault.seen is Seen.ATTEMPT:
        began = max(at for at in rig.host.lookups if at <= noticed_at)
    if fault.retry_after:
        waited = next(at for at in rig.host.lookups if at > noticed_at) - noticed_at
        assert waited >= fault.retry_after - 0.01, f"tried again after {waited:.2f} s"
    if noticed_at:
        outcome.noticed_in = noticed_at - began
        _keep(outcome, "noticed", outcome.noticed_in, fault.within)
    rig.wait_events((0 if ends else len(rig.sessions[-1])) + rig.rng.randint(5, 15))
    rig.settle()


def _notice(fault: Fault, rig: Rig) -> tuple[str, float]:
    """Wait until the stream tells of the fault; give its words, and when they came."""
    recorder = rig.recorder
    name = "on_error" if fault.seen is Seen.MESSAGE else "on_disconnect"

    def told() -> list[tuple[str, float]]:
        texts = [
            getattr(event, "reason", None) or event.message for event in getattr(recorder, name)
        ]
        pairs = zip(texts, recorder.times[name], strict=False)
        return [pair for pair in pairs if re.fullmatch(fault.reason, pair[0])]

    try:
        until(told, fault.within + PATIENCE)
    except AssertionError:
        said = [
            getattr(event, "reason", None) or event.message for event in getattr(recorder, name)
        ]
        raise AssertionError(f"nothing like {fault.reason!r} was said, but: {said}") from None
    return told()[0]


def _keep(outcome: Outcome, what: str, measured: float, bound: float) -> None:
    if measured > bound:
        outcome.problems.append(f"{what} after {measured:.2f} s, not within {bound:g} s")


def _account(fault: Fault, rig: Rig, outcome: Outcome) -> None:
    """Hold what was told against what happened, once nothing more happens."""
    recorder, problems = rig.recorder, outcome.problems
    sessions = rig.sessions
    outcome.events = rig.market.events
    outcome.unsent = rig.market.unsent
    came = {number for session in sessions for number in session}
    outcome.broken_off = outcome.events - outcome.unsent - len(came)
    # Each connection was ended in order, or lives, unless the fault breaks it.
    sent = [
        (ranges, fault.loss is not Loss.BROKEN) for _, ranges in sorted(rig.market.sent.items())
    ]
    last = len(sessions) - 1
    problems += compare([(noted(s), at == last) for at, s in enumerate(sessions)], sent)
    if fault.loss is Loss.NONE and len(came) != outcome.events:
        problems.append(f"{outcome.events - len(came)} events are missing")
    ends = fault.seen in (Seen.END, Seen.ATTEMPT)
    if len(sessions) != (fault.subscriptions if ends else 1):
        problems.append(f"subscribed {len(sessions)} times")
    # The end that an attempt follows is none of the fault's.
    expected = [fault.reason if ends else "", fault.meanwhile]
    reasons = [event.reason for event in recorder.on_disconnect]
    for number, reason in enumerate(reasons):
        breaking = fault.seen is Seen.ATTEMPT and number == 0
        allowed = [RESET] if breaking else filter(None, expected)
        if not any(re.fullmatch(words, reason) for words in allowed):
            problems.append(f"unexpected disconnect: {reason}")
    ended_by = [event.error for event in recorder.on_disconnect]
    errors = [error for error in recorder.on_error if error not in ended_by]
    bad = [error for error in errors if isinstance(error, DecodeError)]
    if errors != bad or len(bad) != (fault.seen is Seen.MESSAGE or fault.reported):
        problems.append(f"unexpected errors: {errors}")
    problems += [f"the exchange complains: {text}" for text in rig.exchange.violations]
    problems += rig.neighbours.problems(0.0 if rig.callback_threads else fault.holds)
