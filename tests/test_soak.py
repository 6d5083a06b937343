"""The bookkeeping of tests/soak.py, which must not overlook anything."""

from __future__ import annotations

import pytest

from tests.soak import Account, Ranges, Sample, begins_with, count, note, rise


def noted(*numbers: int) -> Ranges:
    ranges: Ranges = []
    for number in numbers:
        note(ranges, number)
    return ranges


def test_numbers_are_kept_as_runs() -> None:
    assert noted(3, 4, 5, 9, 10) == [[3, 5], [9, 10]]
    assert count(noted(3, 4, 5, 9, 10)) == 5
    assert noted(3, 3) == [[3, 3], [3, 3]]
    assert noted(4, 3) == [[4, 4], [3, 3]]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ((), True),
        ((3,), True),
        ((3, 4, 5), True),
        ((3, 4, 5, 9), True),
        ((3, 4, 5, 9, 10), True),
        ((4, 5), False),  # the first is missing
        ((3, 5), False),  # one in between
        ((3, 4, 9), False),
        ((3, 4, 4, 5), False),  # one came twice
        ((3, 5, 4), False),
        ((3, 4, 5, 9, 10, 11), False),  # nobody sent it
        ((3, 4, 5, 6), False),
        ((3, 4, 5, 9, 10, 12), False),
    ],
)
def test_begins_with(part: tuple[int, ...], expected: bool) -> None:
    assert begins_with(noted(3, 4, 5, 9, 10), noted(*part)) is expected


SENT = [(noted(1, 2, 3), None), (noted(5, 6), 1001), (noted(), None), (noted(8, 9, 10), 1000)]
LAST = (noted(8, 9, 10), True)


def account(*sessions: tuple[Ranges, bool]) -> Account:
    result = Account()
    result.add(0, list(sessions), SENT, 10)
    return result


def test_all_is_accounted_for() -> None:
    result = account((noted(1, 2), False), (noted(5, 6), False), (noted(), False), LAST)
    assert result.problems == []
    assert result.received == 7
    assert result.lost_with_connection == 1  # number 3
    assert result.pushed_in_gaps == 2  # 4 and 7


@pytest.mark.parametrize(
    "sessions",
    [
        [(noted(1, 3), False), (noted(5, 6), False), LAST],
        [(noted(1, 2), False), (noted(5), False), LAST],  # it was closed in order
        [(noted(1, 2), False), LAST],  # all of that is missing
        [(noted(5, 6), False), (noted(1, 2), False), LAST],
        [(noted(1, 2), False), (noted(5, 6), False), (noted(5, 6), False), LAST],
        [(noted(1, 2), False), (noted(5, 6), False), (noted(8, 9), True)],
        [(noted(1, 2), False), (noted(5, 6), False)],  # the last one is missing
    ],
)
def test_what_is_not_accounted_for(sessions: list[tuple[Ranges, bool]]) -> None:
    assert account(*sessions).problems != []


def test_rise_of_a_line() -> None:
    samples = [Sample(float(at), 100 + 2 * at + at % 2, 0, 0, 0, 0) for at in range(11)]
    risen, spread, middle = rise(samples, "resident")
    assert risen == pytest.approx(20, abs=0.5)
    assert spread == pytest.approx(0.5, abs=0.05)
    assert middle == pytest.approx(110.5, abs=0.1)
