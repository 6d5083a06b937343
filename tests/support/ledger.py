"""What became of numbered events: those that were sent, held against those that came.

An event is *sent on a connection* when the exchange put it there while that was subscribed. What
of it arrives depends on the connection's end:

- on a connection that lives, and on one that the server ends in order, all of it;
- on one that breaks, all of it up to some event: the rest is lost in the network, and nobody can
  know how far it got. Never is one missing before another that came.

An event that happened while no connection was subscribed was sent on none. The exchange repeats
nothing, so it is lost to every client.
"""

from __future__ import annotations

from collections.abc import Iterable

Ranges = list[list[int]]
"""Numbers in the order in which they came: [first, last] of each run of consecutive ones."""


def note(ranges: Ranges, number: int) -> None:
    """Add a number, in its place in the order of arrival."""
    if ranges and ranges[-1][1] + 1 == number:
        ranges[-1][1] = number
    else:
        ranges.append([number, number])


def noted(numbers: Iterable[int]) -> Ranges:
    ranges: Ranges = []
    for number in numbers:
        note(ranges, number)
    return ranges


def count(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def begins_with(whole: Ranges, part: Ranges) -> bool:
    """Whether `whole`, as a sequence of numbers, begins with `part`."""
    if not part:
        return True
    at = len(part) - 1
    if len(whole) <= at or whole[:at] != part[:at]:
        return False
    (first, last), (begin, end) = part[at], whole[at]
    return first == begin and last <= end


def compare(
    came: Iterable[tuple[Ranges, bool | None]], sent: Iterable[tuple[Ranges, bool]]
) -> list[str]:
    """Say what is wrong with what came; nothing, if all is as the top of this file says.

    Args:
        came: after each of the client's subscriptions, and whether that lives still; None where
            the client ended it, and took as much of it as it liked.
        sent: on each connection, and whether the server ended it in order. A later subscription
            is on a later connection; one whose answer the client never saw is passed over.
    """
    problems: list[str] = []
    left = list(sent)

    def pass_over(whole: Ranges, ordered: bool) -> None:
        if whole and ordered:
            problems.append(f"nothing came of {whole[-3:]}")

    for numbers, lives in came:
        # A subscription of no events may have been none: the connection may have failed.
        if not numbers and not (lives and any(whole for whole, _ in left)):
            continue
        while left:
            whole, ordered = left.pop(0)
            complete = whole == numbers
            if complete or (
                begins_with(whole, numbers) and (lives is None or not (lives or ordered))
            ):
                break
            pass_over(whole, ordered)
        else:
            problems.append(f"{numbers[-3:]} is not as it was sent")
            return problems
    for connection in left:
        pass_over(*connection)
    return problems
