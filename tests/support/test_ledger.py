"""The bookkeeping of chaos and soak, which must not overlook anything."""

from __future__ import annotations

import pytest

from tests.support.ledger import begins_with, compare, count, noted

Numbers = list[list[int]]


def test_numbers_are_kept_as_runs() -> None:
    assert noted([3, 4, 5, 9, 10]) == [[3, 5], [9, 10]]
    assert count(noted([3, 4, 5, 9, 10])) == 5
    assert noted([3, 3]) == [[3, 3], [3, 3]]
    assert noted([4, 3]) == [[4, 4], [3, 3]]


WHOLE = [3, 4, 5, 9, 10]


@pytest.mark.parametrize("part", [WHOLE[:size] for size in range(6)])
def test_a_beginning(part: list[int]) -> None:
    assert begins_with(noted(WHOLE), noted(part))


@pytest.mark.parametrize(
    "part",
    [
        [4, 5],  # the first is missing
        [3, 5],  # one in between
        [3, 4, 9],
        [3, 4, 4, 5],  # one came twice
        [3, 5, 4],
        [3, 4, 5, 9, 10, 11],  # nobody sent it
        [3, 4, 5, 6],
        [3, 4, 5, 9, 10, 12],
    ],
)
def test_no_beginning(part: list[int]) -> None:
    assert not begins_with(noted(WHOLE), noted(part))


def problems(came: Numbers, sent: Numbers, ordered: tuple[int, ...] = ()) -> list[str]:
    """The last subscription lives; of the connections these were ended in order."""
    last = len(came) - 1
    return compare(
        [(noted(numbers), at == last) for at, numbers in enumerate(came)],
        [(noted(numbers), at in ordered) for at, numbers in enumerate(sent)],
    )


@pytest.mark.parametrize(
    ("came", "sent", "ordered"),
    [
        # A connection broke: what was sent last is missing, or all of it.
        ([[1, 2, 3, 4, 5], [8, 9]], [[1, 2, 3, 4, 5], [8, 9]], ()),
        ([[1, 2], [8, 9]], [[1, 2, 3, 4, 5], [8, 9]], ()),
        ([[], [8, 9]], [[1, 2, 3, 4, 5], [8, 9]], ()),
        ([[1, 2], [4]], [[1, 2], [3], [4]], ()),
        # Two at a time, as with a half-open one, of whose end the server does not know.
        ([[1, 2], [4, 5, 6]], [[1, 2, 3, 4, 5, 6], [4, 5, 6]], ()),
        # They ended in order.
        ([[1, 2, 3], [5, 6]], [[1, 2, 3], [5, 6]], (0, 1)),
        ([[1, 2], [5, 6], [], [8, 9]], [[1, 2, 3], [5, 6], [], [8, 9]], (1, 3)),
        ([[]], [], ()),
    ],
)
def test_what_is_right(came: Numbers, sent: Numbers, ordered: tuple[int, ...]) -> None:
    assert problems(came, sent, ordered) == []


@pytest.mark.parametrize(
    "came",
    [
        [[1, 3], [8, 9]],  # a hole
        [[2, 3], [8, 9]],  # not from the subscription on
        [[2, 1], [8, 9]],
        [[1, 2, 2], [8, 9]],
        [[1, 2], [2, 8, 9]],
        [[1, 2], [8, 9], [8, 9]],
        [[1, 2, 6], [8, 9]],  # sent on none
        [[1, 2], [8]],  # the last one lives: all of it arrives
        [[1, 2], [9]],
        [[1, 2], []],
        [[8, 9], [1, 2]],
    ],
    ids=str,
)
def test_what_is_wrong(came: Numbers) -> None:
    assert problems(came, [[1, 2, 3], [8, 9]]) != []


@pytest.mark.parametrize("came", [[[1, 2], [8, 9]], [[8, 9]], [[], [8, 9]]], ids=str)
def test_what_is_wrong_if_the_connection_was_ended_in_order(came: Numbers) -> None:
    sent = [[1, 2, 3], [8, 9]]
    assert problems(came, sent) == []
    assert problems(came, sent, (0,)) != []
    assert problems([[1, 2, 3]], sent, (1,)) != []
