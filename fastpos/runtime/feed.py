"""One stream's part of what connections bring: what their events mean to its user.

Nothing here waits or reads; whoever drives the stream (driver.py) moves links and passes on what
they give: `new_link`, `take` for each event, `left` and `finish` when it is over. So many streams
can share whatever moves them.

A push's way: `Link.read` gives it, inflated, `take_pushes` has `Delivery` decode and deliver it.

Threads: the reader's, but for `paused`, which the ping thread calls, and the attributes, which
anybody may look at. `_subscribed_until` is written by both, each a whole value at its moment.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from time import time_ns
from typing import TYPE_CHECKING

from ..account.book import Book
from ..clock import monotonic
from ..errors import ConnectionFailed, DecodeError, FastposError
from ..logs import fields, log
from ..model.events import Disconnect, Ready, Stale
from ..net.connection import Connection
from ..net.proxy import proxy_from_environment
from ..recovery import Recovery, Verdict
from ..settings import Settings
from ..tracebacks import clears_locals
from ..wire.heartbeat import Heartbeat
from ..wire.session import (
    Closed,
    Event,
    Paused,
    Phase,
    Pong,
    Pushes,
    Session,
    Subscribed,
    Timing,
    Undecodable,
)
from .causes import Cause, cause_of
from .delivery import Delivery
from .link import Buffers, Link
from .lookout import TickLookout
from .pinger import Scheduled
from .snapshots import Snapshots
from .stats import Counters, count

if TYPE_CHECKING:
    from ..journal.recorder import Recorder, Several

__all__ = ["Feed"]


@cache
def _default_context() -> ssl.SSLContext:
    """For all streams that were given none: it reads all the authorities, and keeps them."""
    return ssl.create_default_context()


class Feed:
    """Makes a stream's connections, and tells its user what comes of them.

    Args:
        settings: the stream's arguments.
        delivery: takes the pushes, and calls the user's functions.
        counters: what is counted.
        snapshots: is told of gaps.
        heartbeat: is kept up to date.
        book: says whether ticks are to be expected.
        recorder: writes all of it down before it is done; None: nobody does.
    """

    __slots__ = (
        "_book", "_bytes", "_counters", "_delivery", "_heartbeat", "_label", "_lookout",
        "_messages", "_opened", "_recorder", "_recovery", "_settings", "_silent_s", "_snapshots",
        "_subscribed_until", "_timing", "_warned", "_was_ready",
    )  # fmt: skip

    def __init__(
        self,
        settings: Settings,
        delivery: Delivery,
        counters: Counters,
        snapshots: Snapshots,
        heartbeat: Heartbeat,
        book: Book,
        recorder: Recorder | Several | None = None,
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._label = f"{settings.name}, {settings.address}"
        self._delivery = delivery
        self._counters = counters
        self._snapshots = snapshots
        self._timing = Timing(
            settings.ping_interval, settings.pong_timeout, settings.subscribe_timeout
        )
        self._warned = False
        self._heartbeat = heartbeat
        self._book = book
        self._recovery = Recovery(settings.reconnect, settings.credential.renews, monotonic())
        self._subscribed_until: float | None = None  # when the last subscription ended
        # Of the present connection:
        self._was_ready = False
        self._opened = False
        self._lookout: TickLookout | None = None
        self._silent_s: float | None = None  # how long it had been silent when it ended
        self._messages = 0  # of those before it
        self._bytes = 0

    @property
    def name(self) -> str:
        """The stream's."""
        return self._settings.name

    @property
    def host(self) -> str:
        """What its connections go to."""
        return self._settings.address.host

    @property
    def connect_timeout(self) -> float:
        """How long opening a connection may take, seconds."""
        return self._settings.connect_timeout

    @property
    def has_position(self) -> bool:
        """Whether a position is known to be open."""
        return bool(self._book.positions)

    def open_journal(self) -> None:
        """A run is about to begin.

        Raises:
            JournalError: the journal can't be written.
        """
        if self._recorder is not None:
            self._recorder.open()

    def close_journal(self, failure: FastposError | None = None) -> Callable[[], None] | None:
        """The run has ended, or does not begin.

        Returns:
            What must be called yet, if anything: it waits for the disk, some seconds at most.
        """
        self._counters.gap_ends()
        if self._recorder is None:
            return None
        self._recorder.stopped(failure)
        return self._recorder.close()

    def begin(self) -> None:
        """A run begins."""
        settings = self._settings
        if self._recorder is not None:
            self._recorder.started(
                {
                    "url": str(settings.address),
                    "broker": settings.broker,
                    "number": settings.number.__name__,
                    "book": None if self._book.is_empty else self._book.dump(),
                }
            )
        self._recovery = Recovery(settings.reconnect, settings.credential.renews, monotonic())
        self._subscribed_until = None

    def attempt(self) -> None:
        """Another connection is tried."""
        self._recovery.attempt()
        if self._recorder is not None:
            self._recorder.connecting()
        self._was_ready = self._opened = False
        self._lookout = None
        self._silent_s = None
        self._messages, self._bytes = self._counters.messages, self._counters.bytes_received

    @clears_locals
    def new_link(self, wanted: bool, buffers: Buffers, wake: Callable[[Link], None]) -> Link:
        """Make the connection that is to be tried.

        Args:
            wanted: whether pushes are.
            buffers: see `Link`.
            wake: see `Link`.

        Raises:
            ConnectionFailed: there is no credential, or the proxy's URL makes no sense.
        """
        settings = self._settings
        self._counters.attempts += 1
        value = settings.credential.get()
        self._recovery.uses(value)
        proxy = settings.proxy_address
        if settings.proxy_from_environment:
            try:
                proxy = proxy_from_environment(settings.address)
            except ValueError as error:
                raise ConnectionFailed(str(error)) from error
        ssl_context = settings.ssl_context
        if settings.address.scheme == "wss":
            ssl_context = ssl_context or _default_context()
        elif not self._warned and not settings.address.is_loopback:
            self._warned = True
            log.warning(
                "%s: the credential travels in clear; use wss://",
                self._label,
                extra=self._fields("credential_in_clear"),
            )
        connection = Connection(
            settings.url,
            {**(settings.headers or {}), settings.credential.header: value},
            connect_timeout=settings.connect_timeout,
            ssl_context=ssl_context,
            proxy=proxy,
            source=settings.source,
            hide=settings.credential.hide,
        )

        def new_session(now: float) -> Session:
            return Session(
                settings.credential,
                value,
                settings.broker,
                self._timing,
                now,
                wanted=wanted,
                max_message_size=settings.max_message_size,
                heartbeat=self._heartbeat,
            )

        return Link(connection, new_session, buffers, wake)

    def look_out(self, link: Link) -> Scheduled | None:
        """Give what is to be looked after as long as `link` lasts, beside itself."""
        if self._recorder is not None:
            self._recorder.wake_by(link.ask_for_pong)
        timeout = self._settings.tick_timeout
        if timeout is not None:
            self._lookout = TickLookout(
                link,
                timeout,
                lambda: self._book.has_open_position,
                lambda: self._delivery.ticks,
            )
        return self._lookout

    def opened(self) -> None:
        """The connection is open."""
        self._opened = True
        self._counters.connects += 1
        if self._recorder is not None:
            self._recorder.connected()
        extra = self._fields("connected", attempt=self._recovery.attempts)
        log.info("%s: connected", self._label, extra=extra)

    def take(self, link: Link, event: Event) -> None:
        """Do what one of its events means."""
        if type(event) is Pushes:
            self.take_pushes(link, event.texts)
        elif type(event) is Subscribed:
            self._subscribed(link)
        elif type(event) is Pong:
            self._pong(link)
        elif type(event) is Paused:
            self._recovery.in_service(link.last_received)
        elif type(event) is Undecodable:
            self.count(link)
            self._delivery.received(link.last_received)
            self.undecodable(event.error, link.received_ns)

    def take_pushes(self, link: Link, texts: list[bytes]) -> None:
        """Deliver pushes."""
        counters, session = self._counters, link.session
        assert session is not None
        received_ns = link.received_ns
        counters.messages = self._messages + session.messages
        counters.bytes_received = self._bytes + link.bytes_received
        counters.last_message_ns = received_ns
        self._delivery.received(link.last_received)
        if self._recorder is None:
            closes = self._delivery.pushes(texts, received_ns)
        else:
            closes = self._recorded(self._recorder, texts, received_ns)
        if closes:
            log.info(
                "%s: the exchange says that it closes",
                self._label,
                extra=self._fields("system_close"),
            )
            link.system_closes()

    def _recorded(self, recorder: Recorder | Several, texts: list[bytes], received_ns: int) -> bool:
        """Deliver pushes that are written down."""
        errors = self._counters.decode_errors
        self._delivery.begun = 0  # for the ping thread, which may look at once
        entry = recorder.pushes(texts, received_ns)
        try:
            closes = self._delivery.pushes(texts, received_ns)
        finally:
            if entry is not None:
                are_json = self._counters.decode_errors == errors
                recorder.delivered(entry, self._delivery.begun, are_json)
        if recorder.has_news:
            self._check_recorder()
        return closes

    def _check_recorder(self) -> None:
        """Tell the user that nothing can be written, once each time; say what is known if asked."""
        recorder = self._recorder
        if recorder is None:
            return
        failure = recorder.new_failure()
        if failure is not None:
            self._delivery.report(failure)
        if recorder.wants_state:
            self._tell_state(recorder)

    def _tell_state(self, recorder: Recorder | Several) -> None:
        rules = self._snapshots.rules
        recorder.state(
            {
                **self._book.content(),
                "synced": rules.synced,
                "gap_s": rules.gap_s,
                "subscribed": rules.is_open,
            }
        )

    def _pong(self, link: Link) -> None:
        """All that was sent before it has been read: ticks that are missed now are missing."""
        self._check_recorder()
        since = None if self._lookout is None else self._lookout.confirmed()
        if since is not None:
            silent_s = monotonic() - since
            reason = f"no tick for {silent_s:.1f} s while a position is open"
            extra = self._fields("stale", reason=reason, silent_s=silent_s)
            log.warning("%s: %s", self._label, reason, extra=extra)
            event = Stale(reason=reason, silent_s=silent_s, received_ns=link.received_ns)
            self.stale(event)

    def count(self, link: Link) -> None:
        """Count what has come."""
        counters, session = self._counters, link.session
        if session is not None:
            messages = self._messages + session.messages
            if messages > counters.messages:
                counters.messages = messages
                counters.last_message_ns = link.received_ns
            counters.bytes_received = self._bytes + link.bytes_received

    def _subscribed(self, link: Link) -> None:
        now = monotonic()
        until = self._subscribed_until
        gap = None if until is None else max(now - until, 0.0)
        event = Ready(
            first=gap is None,
            gap_s=gap,
            attempts=self._recovery.subscribed(now),
            received_ns=link.received_ns,
        )
        after = "" if gap is None else f" after a gap of {gap:.1f} s"
        extra = self._fields("subscribed", gap_s=gap, attempt=event.attempts)
        log.info("%s: subscribed%s", self._label, after, extra=extra)
        self.ready(event, link)

    def paused(self) -> None:
        """Pushes came until now, and are not wanted any more."""
        if self._was_ready:  # else it is told of in `ready`, which is to come
            self._no_more_pushes(monotonic())
        self.interrupted()
        log.info("%s: paused", self._label, extra=self._fields("paused"))

    def left(self, link: Link | None) -> None:
        """The connection is over, and about to be closed."""
        if self._recorder is not None:
            self._recorder.wake_by(None)
        if link is not None:
            self.count(link)
            if link.session is not None:
                self._silent_s = monotonic() - link.last_received
                if link.session.ended_in is Phase.READY:
                    self._no_more_pushes(link.last_received)
        if self._was_ready:
            self._snapshots.end()

    def finish(self, closed: Closed, stopped: bool) -> Verdict:
        """Tell the user how the connection has ended, and say what follows.

        Args:
            closed: how it ended.
            stopped: it was to end, so nothing follows.
        """
        now = monotonic()
        verdict = Verdict(None, None)
        if not stopped:
            verdict = self._recovery.judge(closed.reason, closed.error, now, closed.said)
        for error in (closed.error, verdict.final):
            if error is not None:
                error.stream = self.name
        self._tell(closed, "stopped" if stopped else closed.reason, verdict.retry_in_s, now)
        return verdict

    def _tell(self, closed: Closed, reason: str, retry_in: float | None, now: float) -> None:
        lasted, silent_s = self._recovery.lasted(now), self._silent_s
        event = Disconnect(
            reason=reason,
            close_code=closed.close_code,
            error=closed.error,
            retry_in_s=retry_in,
            received_ns=time_ns(),
        )
        what = "disconnected" if self._opened else "not connected"
        plan = "no further attempt" if retry_in is None else f"next attempt in {retry_in:.1f} s"
        extra = self._fields(
            "disconnected" if self._opened else "connect_failed",
            reason=reason,
            close_code=closed.close_code,
            error=None if closed.error is None else type(closed.error).__name__,
            attempt=self._recovery.attempts,
            retry_in_s=retry_in,
            in_service_s=lasted,
            silent_s=silent_s,
        )
        if silent_s is not None:
            what += f" (in service for {lasted:.1f} s, silent for the last {silent_s:.1f} s)"
        log.info("%s: %s: %s; %s", self._label, what, reason, plan, extra=extra)
        self.disconnected(event)

    # --- what is told, and what it does to the account; a replay comes in here, too -------------

    def ready(self, event: Ready, link: Link | None = None) -> None:
        """Pushes come from now on; or they would, where `link` says that they are not wanted."""
        self._counters.subscriptions += 1
        self._counters.gap_ends()
        self._was_ready = True
        if self._recorder is not None:
            self._recorder.subscribed(event)
        self._snapshots.begin(event.gap_s)
        if self._recorder is not None and self._recorder.follows_state:
            self._tell_state(self._recorder)
        session = None if link is None else link.session
        if session is not None and session.phase is not Phase.READY:
            # Seen after `begin`: what is paused from here on, the ping thread tells of.
            self._no_more_pushes(monotonic())
            self.interrupted()
        self._delivery.tell("on_ready", event)

    def _no_more_pushes(self, at: float) -> None:
        """They came until then."""
        self._subscribed_until = at
        self._counters.gap_begins(at)

    def interrupted(self) -> None:
        """Pushes are not wanted any more."""
        if self._recorder is not None:
            self._recorder.paused(self._delivery.begun)
        self._snapshots.interrupt()

    def stale(self, event: Stale) -> None:
        """There is silence that should not be."""
        if self._recorder is not None:
            self._recorder.stale(event)
        self._counters.stales += 1
        self._delivery.tell("on_stale", event)

    def undecodable(self, error: DecodeError, received_ns: int) -> None:
        """A message came that was of no use."""
        if self._recorder is not None:
            self._recorder.undecodable(error, received_ns)
        self._delivery.report(error)

    def disconnected(self, event: Disconnect, cause: Cause | None = None) -> None:
        """A connection has ended, or could not be made.

        Args:
            event: what is told.
            cause: why, where the event does not tell.
        """
        if self._recorder is not None:
            self._recorder.disconnected(event)
        count(self._counters.disconnects, event.reason)
        count(self._counters.causes, (cause or cause_of(event)).value)
        self._delivery.tell("on_disconnect", event)
        if isinstance(event.error, FastposError) and event.retry_in_s is not None:
            self._delivery.report(event.error)
        self._check_recorder()

    def _fields(self, event: str, **values: object) -> dict[str, object]:
        settings = self._settings
        return fields(event, stream=settings.name, url=str(settings.address), **values)
