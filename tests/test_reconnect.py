"""The reconnect policy's arithmetic, and that a stream gives up where it says."""

from __future__ import annotations

import copy
import math
import pickle
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import ConnectionFailed, Disconnect, PositionStream, ReconnectExhausted
from fastpos import ReconnectPolicy as Policy

LONG = 1000.0  # seconds: an outage that is no short one


def waits(policy: Policy, count: int, outage_s: float = LONG) -> list[float]:
    return [policy.delay(failures, outage_s) for failures in range(1, count + 1)]


def test_the_waits_grow_up_to_the_maximum() -> None:
    assert waits(Policy(jitter=0), 9) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert waits(Policy(1, 100, 10, jitter=0), 4) == [1, 10, 100, 100]
    assert waits(Policy(initial=3, factor=1, jitter=0), 3) == [3, 3, 3]
    assert waits(Policy(initial=60, maximum=30, jitter=0), 2) == [30, 30]


def test_without_a_length_the_outage_is_a_long_one() -> None:
    assert Policy(jitter=0).delay(7) == 30


@pytest.mark.parametrize("outage_s", [0.0, 0.1, 4.999])
def test_waits_are_short_at_the_beginning_of_an_outage(outage_s: float) -> None:
    assert waits(Policy(jitter=0), 6, outage_s) == [0.5, 1, 1, 1, 1, 1]
    assert waits(Policy(initial=20, jitter=0), 2, outage_s) == [1, 1]


def test_the_first_retry_comes_within_a_second() -> None:
    assert 0 < Policy().delay(1, 0.0, lambda: 0.999) < Policy().delay(1, 0.0, lambda: 0.0) <= 1


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


def test_no_number_of_failures_is_too_many() -> None:
    for failures in (1_000, 1_024, 1_025, 1_026, 5_000, 10**9):
        assert Policy(jitter=0).delay(failures, LONG) == 30
        assert Policy(initial=1, maximum=7, factor=3.5, jitter=0).delay(failures, LONG) == 7


@pytest.mark.parametrize("failures", [1, 2, 1_024, 1_025, 5_000])
def test_no_wait_at_all_stays_none(failures: int) -> None:
    assert Policy(initial=0).delay(failures, LONG) == 0
    assert Policy(maximum=0).delay(failures, LONG) == 0


seconds = st.floats(0, 1e6)


@given(
    seconds, seconds, st.floats(1, 1e3), st.floats(0, 1), st.integers(1, 10**6), seconds,
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_every_wait_can_be_waited(
    initial: float,
    maximum: float,
    factor: float,
    jitter: float,
    failures: int,
    outage_s: float,
    rand: float,
) -> None:
    policy = Policy(initial, maximum, factor, jitter)
    wait = policy.delay(failures, outage_s, lambda: rand)
    longest = Policy(initial, maximum, factor, 0).delay(failures, outage_s)
    assert math.isfinite(wait)
    assert 0 <= wait <= longest <= maximum
    assert wait >= longest * (1 - jitter) * (1 - 1e-9)
    assert longest <= Policy(initial, maximum, factor, 0).delay(failures + 1, outage_s)
    if outage_s < 5:
        assert wait <= 1


# --- the arguments --------------------------------------------------------------------------------


NAMES = ["initial", "maximum", "factor", "jitter", "reset_after"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [-1, -0.001, math.nan, -math.inf])
def test_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Policy(**{name: value})


@pytest.mark.parametrize("name", ["initial", "maximum", "factor"])
def test_nobody_can_wait_for_ever(name: str) -> None:
    endless: dict[str, Any] = {name: math.inf}
    with pytest.raises(ValueError, match=name):
        Policy(**endless)


@pytest.mark.parametrize(
    ("name", "value"), [("factor", 0.99), ("jitter", 1.01), ("max_attempts", -1)]
)
def test_out_of_its_own_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Policy(**{name: value})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [None, "1", True, [1], 1j])
def test_no_number(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=name):
        Policy(**{name: value})


@pytest.mark.parametrize("value", ["3", 3.0, True, [3]])
def test_max_attempts_is_an_int_or_none(value: Any) -> None:
    with pytest.raises(TypeError, match="max_attempts"):
        Policy(max_attempts=value)
    assert Policy(max_attempts=None).max_attempts is None
    assert Policy(max_attempts=3).max_attempts == 3


def test_the_defaults() -> None:
    assert repr(Policy()) == (
        "ReconnectPolicy(initial=0.5, maximum=30.0, factor=2.0, jitter=1.0, max_attempts=None, "
        "reset_after=60.0)"
    )
    assert Policy().max_attempts is None
    assert Policy().reset_after == 60.0


def test_immutable() -> None:
    policy = Policy()
    for name in (*NAMES, "max_attempts", "other"):
        with pytest.raises(AttributeError):
            setattr(policy, name, 1)


def test_copies() -> None:
    policy = Policy(1, 2, 3, 0.5, 4, 5)
    for again in (copy.copy(policy), copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert repr(again) == repr(policy)


# --- giving up ------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Any:
    with socket.socket() as taken:  # bound and not listening: nobody else can be there
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("allowed", [1, 3])
def test_a_stream_gives_up_after_so_many_failed_attempts(allowed: int, closed_port: int) -> None:
    ends: list[Disconnect] = []
    stream = PositionStream(
        f"ws://127.0.0.1:{closed_port}/",
        api_key="k",
        broker=1,
        proxy="",
        on_disconnect=ends.append,
        on_error=lambda error: None,
        reconnect=Policy(initial=0, max_attempts=allowed),
    )
    with pytest.raises(ReconnectExhausted) as caught:
        stream.run_forever()
    assert isinstance(caught.value.__cause__, ConnectionFailed)
    assert len(ends) == allowed
    assert [end.retry_in_s for end in ends] == [0.0] * (allowed - 1) + [None]
    with pytest.raises(ReconnectExhausted):
        stream.join(0)


def test_without_a_policy_the_first_failure_is_the_last(closed_port: int) -> None:
    ends: list[Disconnect] = []
    stream = PositionStream(
        f"ws://127.0.0.1:{closed_port}/",
        api_key="k",
        broker=1,
        proxy="",
        on_disconnect=ends.append,
        reconnect=None,
    )
    with pytest.raises(ConnectionFailed):
        stream.run_forever()
    assert [end.retry_in_s for end in ends] == [None]
