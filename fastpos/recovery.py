"""What follows when a connection has ended: the stream ends for good, or waits and tries again.

Pure rules, without a clock or a thread. A stream ends for good when

* its credential is refused, see below. A callable is asked for another one first, once: somebody
  else may have renewed it meanwhile;
* it has no `ReconnectPolicy`;
* so many attempts in a row have failed as its policy allows.

Everything else is an outage. It began when the connection before it, or one that was in service for
`STABLE_AFTER`, ended: one that comes and goes within seconds, again and again, is part of it. While
it is short, waits are (see `ReconnectPolicy.delay`). They grow with each failure, and begin anew
after a connection that was in service for `reset_after`. Who is told to slow down (HTTP 429, 418)
waits for as long as he is told, or else in that growing way from `SLOW_DOWN` on.

A connection is *in service* from when it does what is wanted: it is subscribed, or paused.

WHAT IS EVIDENCE AGAINST THE CREDENTIAL

A refusal is an upgrade that is refused because of it (`AuthenticationError`), a reply or a close
frame that speaks of it, or a reply that gives no reason ("sub fail"). Any other answer (it is busy,
a text that nobody understands, another HTTP status) ends a row of them, and so does service. No
answer says nothing. The credential is refused for good

* at once by the upgrade, and when `MAX_REFUSALS` in a row have spoken of it, but only while it was
  never accepted: what was good before may be refused by a login that has a bad moment;
* whether it was or not, when there were `MAX_REFUSALS`, and nothing else for `REFUSED_FOR`.
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
from .model.exchange import Said
from .reconnect import ReconnectPolicy

__all__ = ["Recovery", "Verdict"]

# So many refusals in a row, and for so long, seconds.
MAX_REFUSALS = 3
REFUSED_FOR = 60.0
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
        self._renewed = False  # after a refusal that would have been final; until service
        self.attempts: int = 0
        """Connections tried since one was last in service."""
        self._tried = 0  # connections tried since the last subscription
        self._failures = 0  # since the waits began anew
        self._credential: str | None = None  # of the present connection
        self._was_good = False  # a subscription with it was accepted
        # Of the refusals since there was any other answer: how many, how many of the last ones were
        # of the credential, and when the first was.
        self._refusals = 0
        self._of_credential = 0
        self._refused_since = now
        self._stable_until = now  # when the present outage began
        self._in_service_since: float | None = None  # of the present connection

    def attempt(self) -> None:
        """A connection is tried."""
        self.attempts += 1
        self._tried += 1
        self._in_service_since = None

    def uses(self, credential: str) -> None:
        """The connection is tried with this credential."""
        if credential != self._credential:
            self._credential, self._was_good = credential, False

    def in_service(self, now: float) -> None:
        """The connection does what is wanted."""
        if self._in_service_since is None:
            self._in_service_since = now
        self.attempts = 0

    def subscribed(self, now: float) -> int:
        """The connection is subscribed; give how many were tried for it."""
        tried, self._tried = self._tried, 0
        self._was_good = True
        self.in_service(now)
        return tried

    def lasted(self, now: float) -> float:
        """Give the seconds for which the connection has been in service."""
        return 0.0 if self._in_service_since is None else now - self._in_service_since

    def judge(
        self, reason: str, error: FastposError | None, now: float, said: Said | None = None
    ) -> Verdict:
        """Say what follows from how the connection has ended.

        Args:
            reason: how, for a person.
            error: the failure, None where it was none.
            now: when it ended.
            said: what the exchange had to say to it, None for nothing.
        """
        refusal = self._refusal(reason, error, now, said)
        final = self._final(reason, error, refusal)
        if final is not None:
            return Verdict(final, None)
        return Verdict(None, self._delay(error, now))

    def _final(
        self, reason: str, error: FastposError | None, refusal: AuthenticationError | None
    ) -> FastposError | None:
        policy = self._policy
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

    def _refusal(
        self, reason: str, error: FastposError | None, now: float, said: Said | None
    ) -> AuthenticationError | None:
        """Weigh how it ended; give what says that the credential is refused for good, if it is."""
        by_upgrade = isinstance(error, AuthenticationError)
        of_credential = by_upgrade or said is Said.CREDENTIAL
        refused = of_credential or said is Said.REFUSED
        # Who accepts a subscription only to refuse the credential at once has accepted nothing.
        at_once = refused and self.lasted(now) < STABLE_AFTER
        if self._in_service_since is not None and not at_once:
            self._refusals = self._of_credential = 0
            self._renewed = False
        if not refused:
            if said is not None or getattr(error, "status", None) is not None:
                self._refusals = self._of_credential = 0
            return None
        if not self._refusals:
            self._refused_since = now
        self._refusals += 1
        self._of_credential = self._of_credential + 1 if of_credential else 0
        refused_for = now - self._refused_since
        times = f"{self._refusals} times in a row"
        if self._refusals >= MAX_REFUSALS and refused_for >= REFUSED_FOR:
            times += f", for {refused_for:.0f} s"
        elif self._was_good or not (by_upgrade or self._of_credential >= MAX_REFUSALS):
            return None
        if isinstance(error, AuthenticationError):
            return error
        what = error.reply if isinstance(error, SubscriptionError) else reason
        refusal = AuthenticationError(f"the subscription was refused {times}: {what}")
        refusal.__cause__ = error
        return refusal

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
