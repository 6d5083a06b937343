"""The reconnect policy's arithmetic, and what follows when a connection has ended."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import (
    AuthenticationError,
    ConnectionFailed,
    FastposError,
    ReconnectExhausted,
    SubscriptionError,
)
from fastpos import ReconnectPolicy as Policy
from fastpos.model.exchange import Said
from fastpos.recovery import Recovery

LONG = 1000.0  # seconds: an outage that is no short one
EXACT = Policy(jitter=0)


@pytest.mark.parametrize(
    ("policy", "outage_s", "waits"),
    [
        # They grow up to the maximum,
        (EXACT, LONG, [0.5, 1, 2, 4, 8, 16, 30, 30, 30]),
        (Policy(1, 100, 10, jitter=0), LONG, [1, 10, 100, 100]),
        (Policy(initial=3, factor=1, jitter=0), LONG, [3, 3, 3]),
        (Policy(initial=60, maximum=30, jitter=0), LONG, [30, 30]),
        # but are short at the beginning of an outage, unless it was asked for.
        *((EXACT, short, [0.5, 1, 1, 1, 1, 1]) for short in (0.0, 0.1, 4.999)),
        (Policy(initial=20, jitter=0), 0.1, [20, 20, 20]),
        (Policy(initial=0), LONG, [0] * 5),
        (Policy(maximum=0), LONG, [0] * 5),
    ],
)
def test_waits(policy: Policy, outage_s: float, waits: list[float]) -> None:
    assert [policy.delay(n, outage_s) for n in range(1, len(waits) + 1)] == waits
    if outage_s == LONG:
        assert policy.delay(7) == policy.delay(7, LONG)  # without a length it is a long one


def test_no_number_of_failures_is_too_many() -> None:
    for failures in (1_000, 1_024, 1_025, 1_026, 5_000, 10**9):
        assert EXACT.delay(failures, LONG) == 30
        assert Policy(initial=1, maximum=7, factor=3.5, jitter=0).delay(failures, LONG) == 7
        assert Policy(initial=0).delay(failures, LONG) == Policy(maximum=0).delay(failures) == 0


def test_whole_numbers_are_taken_as_floats() -> None:
    policy = Policy(initial=3, maximum=50, factor=7, jitter=0)
    assert repr(policy) == repr(Policy(3.0, 50.0, 7.0, 0.0))
    for failures in (1, 2, 1000, 10**9):  # 7 to that power would take all the memory there is
        wait = policy.delay(failures)
        assert (type(wait), wait) == (float, {1: 3.0, 2: 21.0}.get(failures, 50.0))


@pytest.mark.parametrize(
    ("jitter", "rand", "expected"),
    [(0, 0.9, 16), (1.0, 0.0, 16), (1.0, 0.75, 4), (0.5, 0.5, 12), (0.5, 0.0, 16), (1.0, 1.0, 0)],
)
def test_jitter_is_taken_off(jitter: float, rand: float, expected: float) -> None:
    assert Policy(jitter=jitter).delay(6, LONG, lambda: rand) == pytest.approx(expected)


def test_full_jitter_spreads_over_the_whole_wait() -> None:
    drawn = [Policy().delay(6, LONG) for _ in range(400)]
    assert min(drawn) < 4
    assert max(drawn) > 12
    assert all(0 <= wait <= 16 for wait in drawn)
    # The first retry comes within a second.
    assert 0 < Policy().delay(1, 0.0, lambda: 0.999) < Policy().delay(1, 0.0, lambda: 0.0) <= 1


seconds = st.floats(0, 1e6)


@given(
    st.tuples(seconds, seconds, st.floats(1, 1e3)),
    st.floats(0, 1),
    st.integers(1, 10**6),
    seconds,
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=200, deadline=None)
def test_every_wait_can_be_waited(
    limits: tuple[float, float, float], jitter: float, failures: int, outage_s: float, rand: float
) -> None:
    initial, maximum, _ = limits
    exact = Policy(*limits, 0)
    wait = Policy(*limits, jitter).delay(failures, outage_s, lambda: rand)
    longest = exact.delay(failures, outage_s)
    assert math.isfinite(wait)
    assert 0 <= wait <= longest <= maximum
    assert wait >= longest * (1 - jitter) * (1 - 1e-9)
    assert longest <= exact.delay(failures + 1, outage_s)
    if outage_s < 5:
        assert wait <= max(1, initial)


# --- the arguments --------------------------------------------------------------------------------


NAMES = ["initial", "maximum", "factor", "jitter", "reset_after"]
HUGE = 10**400  # no float
# What is refused, by name; nobody can wait for ever.
WRONG: list[tuple[type[Exception], str, Any]] = [
    *((ValueError, name, value) for name in NAMES for value in (-1, -0.001, math.nan, -math.inf)),
    *((ValueError, name, v) for name in ("initial", "maximum", "factor") for v in (math.inf, HUGE)),
    *((ValueError, *pair) for pair in (("factor", 0.99), ("jitter", 1.01), ("max_attempts", -1))),
    *((TypeError, name, value) for name in NAMES for value in (None, "1", True, [1], 1j)),
    *((TypeError, "max_attempts", value) for value in ("3", 3.0, True, [3])),
]


@pytest.mark.parametrize(("error", "name", "value"), WRONG)
def test_what_is_refused(error: type[Exception], name: str, value: Any) -> None:
    with pytest.raises(error, match=name):
        Policy(**{name: value})


def test_a_policy_is_shown_copied_and_never_changed() -> None:
    assert repr(Policy()) == (
        "ReconnectPolicy(initial=0.5, maximum=30.0, factor=2.0, jitter=1.0, max_attempts=None, "
        "reset_after=60.0)"
    )
    assert Policy(max_attempts=None).max_attempts is None
    policy = Policy(1, 2, 3, 0.5, 4, 5)
    assert policy.max_attempts == 4
    for again in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert repr(again) == repr(policy)
    for name in (*NAMES, "max_attempts", "other"):
        with pytest.raises(AttributeError):
            setattr(policy, name, 1)


# --- what follows when a connection has ended -----------------------------------------------------

QUICK = Policy(initial=1.0, maximum=8.0, jitter=0.0, reset_after=60.0)
LOST = ConnectionFailed("lost")
REFUSED = SubscriptionError("refused", "'no'")
BY_UPGRADE = AuthenticationError("401")
# How a connection ends: the error, and what was said.
End = tuple[FastposError | None, Said | None]
CREDENTIAL: End = (REFUSED, Said.CREDENTIAL)
CLOSED: End = (None, Said.CREDENTIAL)
FAIL: End = (REFUSED, Said.REFUSED)
BUSY: End = (REFUSED, Said.BUSY)
ODD: End = (SubscriptionError("no answer"), Said.OTHER)
SILENCE: End = (SubscriptionError("no answer"), None)
DROP: End = (LOST, None)
EDGE: End = (ConnectionFailed("403", 403), None)
UPGRADE: End = (BY_UPGRADE, None)


class Life:
    """One stream's connections, one after the other; nothing of it takes time."""

    def __init__(self, policy: Policy | None = QUICK, renews: bool = False) -> None:
        self.now = 100.0
        self.credential = "key"
        self.recovery = Recovery(policy, renews, self.now)

    def ends(
        self,
        error: FastposError | None = LOST,
        said: Said | None = None,
        *,
        served: float | None = None,
        took: float = 0.0,
    ) -> FastposError | float | None:
        """A connection ends after so many seconds, or was in service for so many."""
        self.recovery.attempt()
        self.recovery.uses(self.credential)
        self.now += took
        if served is not None:
            self.recovery.subscribed(self.now)
            self.now += served
            assert self.recovery.lasted(self.now) == served
        final, retry_in_s = self.recovery.judge("it ended", error, self.now, said)
        assert (final is None) != (retry_in_s is None)
        self.now += retry_in_s or 0.0
        return final if retry_in_s is None else retry_in_s


SLOWED = Policy(initial=0.25, maximum=8.0, jitter=0.0)
FAILURES: list[dict[str, Any]] = [{}] * 12


# How connections end, one after the other, and the last of the waits that follow.
@pytest.mark.parametrize(
    ("policy", "ends", "waits"),
    [
        (QUICK, FAILURES, [1.0] * 5 + [8.0] * 7),  # at first the outage is short
        # One that does not last is part of the outage,
        *((QUICK, [{"served": served}] * 12, [8.0]) for served in (0.0, 0.875, 1.25, 4.5)),
        # one that did begins another, and after a minute the waits begin anew.
        (QUICK, [*FAILURES, {"served": 5.0}], [1.0]),
        (QUICK, [*FAILURES, {"served": 60.0}, {"took": 10.0}], [1.0, 2.0]),
        (Policy(initial=20.0, jitter=0.0), [{}] * 3, [20.0, 30.0, 30.0]),  # as was asked for
        *(
            (QUICK, [{"error": ConnectionFailed("busy", status, asked)}], [wait])
            for status in (503, 418, 429)
            for asked, wait in ((None, 1.0), (0.1, 1.0), (30.0, 30.0))
        ),
        *(  # who is told to slow down does
            (SLOWED, [{"error": ConnectionFailed("slow", status)}] * 7, [1, 1, 1, 2, 4, 8, 8])
            for status in (418, 429)
        ),
    ],
)
def test_what_is_waited(policy: Policy, ends: list[dict[str, Any]], waits: list[float]) -> None:
    life = Life(policy)
    assert [life.ends(**end) for end in ends][-len(waits) :] == waits


def test_a_callable_is_asked_again_before_a_refusal_is_final() -> None:
    life, refused = Life(renews=True), AuthenticationError("401")
    assert life.ends(refused) == 1.0
    assert life.ends(served=10.0) == 1.0  # it had been renewed
    life.credential = "another"
    assert life.ends(refused) == 1.0
    assert life.ends() is not refused
    assert life.ends(refused) is refused
    life = Life(renews=True)
    assert [type(life.ends(*CREDENTIAL)) for _ in range(3)] == [float] * 3
    assert isinstance(life.ends(*CREDENTIAL), AuthenticationError)
    assert Life(None, renews=True).ends(refused) is refused


# How the connections of a credential that never was in service end, and whether the last ends all.
NEVER_SERVED = [
    ([UPGRADE], True),
    ([CREDENTIAL] * 2, False),
    ([CREDENTIAL] * 3, True),
    ([CLOSED] * 3, True),
    ([CREDENTIAL, CLOSED, UPGRADE], True),
    ([CREDENTIAL, DROP, SILENCE, CREDENTIAL, (None, None), CREDENTIAL], True),
    *(([CREDENTIAL, CREDENTIAL, other, CREDENTIAL], False) for other in (FAIL, BUSY, ODD, EDGE)),
    *(([end] * 9, False) for end in (FAIL, BUSY, ODD, EDGE, DROP, SILENCE)),
]


@pytest.mark.parametrize(("ends", "is_final"), NEVER_SERVED)
def test_a_credential_that_never_served(ends: list[End], is_final: bool) -> None:
    life = Life()
    *before, last = (life.ends(*end) for end in ends)
    assert all(type(wait) is float for wait in before)
    assert isinstance(last, AuthenticationError) == is_final


# How connections end, again and again, each 6 s after the one before, once the credential has
# served; and after how many the stream does.
MINUTE = 11
SERVED = [
    ([UPGRADE], MINUTE),
    ([CREDENTIAL], MINUTE),
    ([CLOSED], MINUTE),
    ([FAIL], MINUTE),
    ([CREDENTIAL, FAIL, UPGRADE], MINUTE),
    ([CREDENTIAL, SILENCE], MINUTE),
    ([SILENCE, CREDENTIAL], MINUTE + 1),
    *(([CREDENTIAL] * 9 + [other], None) for other in (BUSY, ODD, EDGE)),
    *(([other], None) for other in (BUSY, ODD, EDGE, DROP, SILENCE)),
]


@pytest.mark.parametrize(("ends", "count"), SERVED)
def test_a_credential_that_served_is_refused_for_a_minute(
    ends: list[End], count: int | None
) -> None:
    life = Life(Policy(initial=6.0, factor=1.0, jitter=0.0))
    life.ends(served=10.0)
    told = [life.ends(*ends[number % len(ends)]) for number in range(count or 50)]
    assert [type(wait) for wait in told[:-1]] == [float] * (len(told) - 1)
    assert isinstance(told[-1], AuthenticationError) == (count is not None)


def test_a_minute_without_three_refusals_is_none() -> None:
    life = Life(Policy(initial=0.0))
    assert life.ends(*FAIL) == 0.0
    assert life.ends(*FAIL, took=100.0) == 0.0
    final = life.ends(*FAIL, took=0.5)
    assert isinstance(final, AuthenticationError)
    assert final.message == "the subscription was refused 3 times in a row, for 100 s: 'no'"
    assert final.__cause__ is REFUSED


def test_what_ends_it_says_what_was_said() -> None:
    life = Life()
    *_, final = (life.ends(*CREDENTIAL) for _ in range(3))
    assert final.message == "the subscription was refused 3 times in a row: 'no'"
    assert final.__cause__ is REFUSED  # type: ignore[union-attr]
    life = Life()
    *_, final = (life.ends(*CLOSED) for _ in range(3))
    assert final.message == "the subscription was refused 3 times in a row: it ended"
    assert Life().ends(*UPGRADE) is BY_UPGRADE


def test_service_ends_a_row_of_refusals() -> None:
    life = Life()
    for _ in range(9):
        assert type(life.ends(*FAIL, took=30.0)) is float
        life.ends(served=0.125)


def test_who_accepts_only_to_refuse_at_once_has_accepted_nothing() -> None:
    life = Life(Policy(initial=6.0, factor=1.0, jitter=0.0))
    ends = [life.ends(*CLOSED, served=1.0) for _ in range(10)]
    assert isinstance(ends[-1], AuthenticationError)
    life = Life(Policy(initial=6.0, factor=1.0, jitter=0.0))
    assert [life.ends(*CLOSED, served=10.0) for _ in range(20)] == [6.0] * 20, "tokens that expire"


def test_another_credential_has_not_served() -> None:
    life = Life(Policy(initial=0.0))
    life.ends(served=10.0)
    assert life.ends(*UPGRADE) == 0.0
    life.credential = "another"
    assert life.ends(*UPGRADE) is BY_UPGRADE


@pytest.mark.parametrize("error", [LOST, None, SubscriptionError("no answer"), REFUSED])
def test_without_a_policy_the_first_failure_is_the_last(error: FastposError | None) -> None:
    final = Life(None).ends(error)
    if error is None:  # a clean close
        assert isinstance(final, ConnectionFailed)
        assert final.message == "it ended"
    else:
        assert final is error


@pytest.mark.parametrize("allowed", [1, 3])
@pytest.mark.parametrize("error", [LOST, None])
def test_so_many_attempts_and_no_more(allowed: int, error: FastposError | None) -> None:
    life = Life(Policy(initial=0.0, max_attempts=allowed))
    for _ in range(2):  # a service makes the count begin anew
        assert [life.ends(error) for _ in range(allowed - 1)] == [0.0] * (allowed - 1)
        life.ends(error, served=0.125)
    for _ in range(allowed - 1):
        life.ends(error)
    final = life.ends(error)
    assert isinstance(final, ReconnectExhausted)
    assert final.message == f"{allowed} attempts in a row have failed; the last: it ended"
    assert final.__cause__ is error


def test_a_paused_connection_is_in_service() -> None:
    life = Life(Policy(initial=0.0, max_attempts=2))
    for _ in range(5):
        life.recovery.attempt()
        life.recovery.in_service(life.now)
        life.recovery.in_service(life.now + 1)
        assert life.recovery.lasted(life.now + 2) == 2.0
        assert life.recovery.judge("dropped", LOST, life.now + 2) == (None, 0.0)
    assert life.recovery.subscribed(life.now) == 5


def test_a_credential_was_not_accepted_by_a_pause() -> None:
    life = Life()
    life.recovery.uses(life.credential)
    life.recovery.in_service(life.now)
    assert life.ends(*UPGRADE) is BY_UPGRADE
