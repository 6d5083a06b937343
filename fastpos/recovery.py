"""What follows when a connection has ended: the stream ends for good, or waits and tries again.

Pure rules, without a clock or a thread. A stream ends for good when

* its credential is refused: by the upgrade (`AuthenticationError`), or where the subscription is
  refused `MAX_REFUSALS` times in a row, with no service in between. A callable is asked for another
  one first, once: somebody else may have renewed it meanwhile;
* it has no `ReconnectPolicy`;
* so many attempts in a row have failed as its policy allows.

Everything else is an outage. It began when the connection before it, or one that was in service for
`STABLE_AFTER`, ended: one that comes and goes within seconds, again and again, is part of it. While
it is short, waits are (see `ReconnectPolicy.delay`). They grow with each failure, and begin anew
after a connection that was in service for `reset_after`. Who is told to slow down (HTTP 429, 418)
waits for as long as he is told, or else in that growing way from `SLOW_DOWN` on.

A connection is *in service* from when it does what is wanted: it is subscribed, or paused.
"""

# Annotations are evaluated here: NamedTuple would compile each of them from its text.

from typing import NamedTuple

from .errors import (
    AuthenticationError,
    ConnectionFailed,
    FastposError,
    ReconnectExhausted,
    SubscriptionError,
)
from .reconnect import ReconnectPolicy

__all__ = ["Recovery", "Verdict"]

# A subscription refused so many times in a row is refused for good.
MAX_REFUSALS = 3
# A connection that was in service for so long was no part of the outage before it, seconds.
STABLE_AFTER = 5.0
# The least wait after an answer that means "slow down" and does not say for how long, seconds.
SLOW_DOWN = 1.0
SLOW_DOWN_STATUSES = (418, 429)


class Verdict(NamedTuple):
    """What follows. Of the first two one is None."""

    final: FastposError | None
    """What ends the stream."""
    retry_in_s: float | None
    """Seconds until the next attempt."""


class Recovery:
    """Judges how one stream's connections end. It belongs to the thread that reads.

    Args:
        policy: when to try again; None: never.
        renews: the credential is asked for at every connect, and may be another one then.
        now: what time it is, seconds of a monotonic clock, as everywhere here.
    """

    def __init__(self, policy: ReconnectPolicy | None, renews: bool, now: float) -> None:
        self._policy = policy
        self._renews = renews
        self._renewed = False  # after a refusal that would have been final
        self.attempts = 0
        """Connections tried since one was last in service."""
        self._tried = 0  # connections tried since the last subscription
        self._failures = 0  # since the waits began anew
        self._refusals = 0  # of the subscription, in a row
        self._stable_until = now  # when the present outage began
        self._in_service_since: float | None = None  # of the present connection

    def attempt(self) -> None:
        """A connection is tried."""
        self.attempts += 1
        self._tried += 1
        self._in_service_since = None

    def in_service(self, now: float) -> None:
        """The connection does what is wanted."""
        if self._in_service_since is None:
            self._in_service_since = now
        self.attempts = self._refusals = 0
        self._renewed = False

    def subscribed(self, now: float) -> int:
        """The connection is subscribed; give how many were tried for it."""
        tried, self._tried = self._tried, 0
        self.in_service(now)
        return tried

    def lasted(self, now: float) -> float:
        """Give the seconds for which the connection has been in service."""
        return 0.0 if self._in_service_since is None else now - self._in_service_since

    def judge(self, reason: str, error: FastposError | None, now: float) -> Verdict:
        """Say what follows from how the connection has ended.

        Args:
            reason: how, for a person.
            error: the failure, None where it was none.
            now: when it ended.
        """
        final = self._final(reason, error)
        if final is not None:
            return Verdict(final, None)
        return Verdict(None, self._delay(error, now))

    def _final(self, reason: str, error: FastposError | None) -> FastposError | None:
        policy = self._policy
        refusal = self._refusal(error)
        if refusal is not None:
            if policy is None or self._renewed or not self._renews:
                return refusal
            self._renewed = True
        if policy is None:
            return error or ConnectionFailed(reason)
        if policy.max_attempts is not None and self.attempts >= policy.max_attempts:
            exhausted = ReconnectExhausted(
                f"{self.attempts} attempts in a row have failed; the last: {reason}"
            )
            exhausted.__cause__ = error
            return exhausted
        return None

    def _refusal(self, error: FastposError | None) -> AuthenticationError | None:
        """Give what says that the credential is refused, if it is."""
        if isinstance(error, AuthenticationError):
            return error
        if isinstance(error, SubscriptionError) and error.reply is not None:
            self._refusals += 1
            if self._refusals >= MAX_REFUSALS:
                refusal = AuthenticationError(
                    f"the subscription was refused {self._refusals} times in a row: {error.reply}"
                )
                refusal.__cause__ = error
                return refusal
        return None

    def _delay(self, error: FastposError | None, now: float) -> float:
        policy, lasted = self._policy, self.lasted(now)
        assert policy is not None
        if lasted >= STABLE_AFTER:
            self._stable_until = now
        self._failures = 1 if lasted >= policy.reset_after else self._failures + 1
        delay = policy.delay(self._failures, now - self._stable_until)
        if isinstance(error, ConnectionFailed):
            if error.retry_after is not None:
                return max(delay, error.retry_after)
            if error.status in SLOW_DOWN_STATUSES:
                return max(policy.delay(self._failures), SLOW_DOWN)
        return delay
