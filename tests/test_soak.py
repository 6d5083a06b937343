"""The bookkeeping of tests/soak.py, which must not overlook anything."""

from __future__ import annotations

import pytest

from tests.soak import Account, Sample, rise
from tests.support.ledger import noted

SENT = [(noted([1, 2, 3]), None), (noted([5, 6]), 1001), ([], None), (noted([8, 9, 10]), 1000)]


@pytest.mark.parametrize(("last", "right"), [([8, 9, 10], True), ([8, 9], False), ([], False)])
def test_all_is_accounted_for(last: list[int], right: bool) -> None:
    result = Account()
    came = [[1, 2], [5, 6], [], last]
    result.add(0, [(noted(numbers), numbers is last) for numbers in came], SENT, 10)
    assert (result.problems == []) == right
    assert result.received == 4 + len(last)
    assert result.lost_with_connection == 4 - len(last)  # number 3, and what is missing at the end
    assert result.pushed_in_gaps == 2  # 4 and 7


def test_rise_of_a_line() -> None:
    samples = [Sample(float(at), 100 + 2 * at + at % 2, 0, 0, 0, 0) for at in range(11)]
    risen, spread, middle = rise(samples, "resident")
    assert risen == pytest.approx(20, abs=0.5)
    assert spread == pytest.approx(0.5, abs=0.05)
    assert middle == pytest.approx(110.5, abs=0.1)
