"""The reader: connects, subscribes, reads until the connection ends, waits, begins again.

A push's way: `Connection.receive` gives it, inflated already or to be inflated in `_message_in`,
and `Delivery.pushes` does the rest. What is none is a pong or a reply (`_other`).

Threads: `run` is one thread, the reader thread; the other public methods are anybody's. `_state`,
a condition, guards what `__init__` lists below it. All else is the reader thread's own. With a
callback thread (dispatch.py) the user's functions call the public methods from there.
"""

from __future__ import annotations

import ssl
import threading
from contextlib import suppress
from time import monotonic, time_ns
from typing import Any, NoReturn

from orjson import loads

from ..errors import (
    AuthenticationError,
    ConnectionFailed,
    DecodeError,
    FastposError,
    ReconnectExhausted,
    SubscriptionError,
)
from ..fork import Forked, Home
from ..logs import fields, log
from ..model.events import Disconnect, Ready
from ..model.exchange import CONNECTED, SUBSCRIBED
from ..net.connection import CLOSE_TIMEOUT, Connection, ConnectionEnded
from ..net.proxy import proxy_from_environment
from ..settings import Settings
from ..wire.credential import read_reply
from ..wire.decoder import inflate_push
from ..wire.frames import INFLATED, TEXT
from ..wire.inflate import new_splitter
from .callbacks import Callbacks
from .delivery import Delivery
from .dispatch import Dispatcher
from .pinger import Heartbeat
from .snapshots import POLL_INTERVAL, Snapshots
from .stats import Counters, count

__all__ = ["Reader"]

# A subscription refused so many times in a row is refused for good.
MAX_REFUSALS = 3
# How long the server may stay after it said that the system closes, seconds.
SYSTEM_CLOSE_GRACE = 5.0
# A connection that stayed subscribed for so long was no part of the outage before it, seconds.
STABLE_AFTER = 1.0

GZIP_MAGIC = b"\x1f\x8b"

# Where the subscription stands on the present connection.
_OPENING, _GREETING, _SUBSCRIBING, _READY, _PAUSED = range(5)


class Reader:
    """Runs a stream on whatever thread calls `run`.

    Args:
        settings: the stream's arguments.
        callbacks: of which on_ready and on_disconnect are called from here.
        delivery: takes the pushes.
        counters: what is counted.
        heartbeat: is told of connections and pongs.
        snapshots: is told of gaps, and given time while it wants some.
        dispatcher: the callback thread, None where the user's functions are called on this one.
        home: the process that this runs in.
    """

    def __init__(
        self,
        settings: Settings,
        callbacks: Callbacks,
        delivery: Delivery,
        counters: Counters,
        heartbeat: Heartbeat,
        snapshots: Snapshots,
        dispatcher: Dispatcher | None,
        home: Home,
    ) -> None:
        self._settings = settings
        self._callbacks = callbacks
        self._delivery = delivery
        self._counters = counters
        self._heartbeat = heartbeat
        self._sync = snapshots
        self._dispatcher = dispatcher
        self._home = home
        self._ssl_context = settings.ssl_context
        self._warned = False

        self._attempts = 0  # connections tried since one was last in service
        self._tried = 0  # connections tried since the last subscription
        self._failures = 0  # since the waits began anew
        self._refusals = 0  # of the subscription, in a row
        self._stable_until = 0.0  # when the present outage began
        self._was_ready = False  # on the present connection
        # Since when the present connection does what is wanted: it is subscribed, or paused.
        self._in_service_since: float | None = None
        self._counted = 0  # bytes of the present connection that are in the counters
        self._opened = False  # whether the present connection was
        self._silent_s: float | None = None  # how long it had been silent when it ended

        self._state = threading.Condition()
        self._stopping = False
        self._ended = True
        self._failure: FastposError | None = None  # what ended the last run
        self._interruption: BaseException | None = None  # a Ctrl-C that came to another thread
        self._phase = _OPENING
        self._wanted = True  # False between pause() and resume()
        self._thread: threading.Thread | None = None  # that runs it
        self._connection: Connection | None = None
        self._unanswered = 0  # times "unsub" was sent on it without an answer, which is allowed
        self._heard_until: float | None = None  # when the last subscription ended
        self._value = ""  # the credential that this connection uses

    # --- anybody's --------------------------------------------------------------------------

    def begin(self, thread: threading.Thread) -> None:
        """Make ready for `run` on `thread`.

        Raises:
            RuntimeError: a run is under way.
        """
        with self._state:
            if not self._ended:
                raise RuntimeError("the stream is running already")
            if self._dispatcher is not None and self._dispatcher.is_alive:
                raise RuntimeError("a callback of the stream's last run is still running")
            self._ended = self._stopping = False
            self._failure = self._interruption = None
            self._thread = thread

    def wait_ready(self, timeout: float | None) -> bool:
        """Wait until the stream is subscribed; False when the time is up or it has ended.

        Raises:
            FastposError: what ended it.
            RuntimeError: it would have to wait, and this is the thread that it would wait for.
        """

        def is_known() -> bool:
            # The run may not have ended yet because of a callback that calls this.
            return (
                self._phase == _READY or self._ended or self._stopping or self._failure is not None
            )

        with self._state:
            if self._thread is threading.current_thread() and not is_known():
                raise RuntimeError("wait_ready() on the reader thread would wait for itself")
            self._state.wait_for(is_known, timeout)
            if self._failure is not None:
                raise self._failure
            return self._phase == _READY

    def wait_ended(self, timeout: float | None) -> bool:
        """Wait until the run has ended; False when the time is up."""
        with self._state:
            return self._state.wait_for(lambda: self._ended, timeout)

    @property
    def failure(self) -> FastposError | None:
        """What ended the last run, None if it was `stop`."""
        return self._failure

    def never_began(self) -> None:
        """Take `begin` back."""
        with self._state:
            self._ended = True
            self._thread = None
            self._state.notify_all()

    @property
    def thread(self) -> threading.Thread | None:
        """The thread of the last run."""
        return self._thread

    @property
    def is_current(self) -> bool:
        """Whether this is asked in a run that is under way: on its thread or the callbacks'."""
        if self._ended:
            return False
        if self._dispatcher is not None and self._dispatcher.is_current:
            return True
        return self._thread is threading.current_thread()

    def stop(self) -> None:
        """Ask the run to end: unsubscribe, send a close frame, begin nothing new."""
        if self._dispatcher is not None and not self._ended:
            # Before the reader can know: of what it tells then, on_disconnect is to be called.
            self._dispatcher.discard()
        with self._state:
            if self._ended or self._stopping:
                return
            self._stopping = True
            self._delivery.halt()
            phase, self._phase = self._phase, _PAUSED
            connection, message = self._connection, self._message("unsub")
            self._state.notify_all()

        def farewell() -> None:
            if connection is None:
                return
            if phase == _OPENING:
                connection.abort("stopped")
                return
            if phase in (_SUBSCRIBING, _READY):
                _try_send(connection, message)
            connection.close()

        if self._thread is threading.current_thread():
            # This may be a signal handler that interrupted the sending of something.
            self._heartbeat.dismiss(farewell)
        else:
            self._heartbeat.dismiss(None)
            farewell()

    def abort(self) -> None:
        """End the connection at once, after `stop`; not on the reader thread."""
        with self._state:
            connection = self._connection
        if connection is not None:
            connection.abort("stopped")

    def pause(self) -> None:
        """Unsubscribe and keep the connection."""
        with self._state:
            self._wanted = False
            paused = self._phase == _READY
            if paused:
                self._heard_until = monotonic()
                self._sync.interrupt()
                self._unsubscribe()
        if paused:
            log.info("%s: paused", self._settings.address, extra=self._fields("paused"))

    def resume(self) -> None:
        """Subscribe again."""
        with self._state:
            self._wanted = True
            if self._phase == _PAUSED and not self._stopping and self._connection is not None:
                self._subscribe(self._connection)

    # Both are called under `_state`, so that what goes out is in the order of the phases; they
    # do not wait.

    def _subscribe(self, connection: Connection) -> None:
        self._phase = _SUBSCRIBING
        timeout = self._settings.subscribe_timeout
        self._heartbeat.limit(connection, timeout, self._no_answer(SUBSCRIBED))
        _try_send(connection, self._message("sub"))

    def _unsubscribe(self) -> None:
        self._phase = _PAUSED
        if self._connection is not None:
            self._unanswered += 1
            _try_send(self._connection, self._message("unsub"))

    def _message(self, event: str) -> str:
        settings = self._settings
        return settings.credential.message(event, self._value, settings.broker)

    # --- one connection after the other -----------------------------------------------------

    def run(self, number: int) -> None:
        """Run until `stop`, with a ping thread of the same number.

        Raises:
            FastposError: what ended the stream.
        """
        failure: FastposError | None = None
        self._attempts = self._tried = self._failures = self._refusals = 0
        self._stable_until = monotonic()
        self._heard_until = None
        try:
            self._run(number)
            if self._interruption is not None:
                raise self._interruption
        except FastposError as error:
            failure = error
            raise
        except BaseException as error:  # Ctrl-C, sys.exit() in a callback, a mistake of ours
            self._leave_callbacks()
            failure = FastposError(f"the stream was ended by {type(error).__name__}: {error}")
            failure.__cause__ = error
            raise
        finally:
            if not self._home.elsewhere:  # else all of it is the parent's (see fork.py)
                self._heartbeat.stop()
                with self._state:
                    self._ended = True
                    self._failure = failure
                    self._phase = _OPENING
                    self._state.notify_all()

    def _run(self, number: int) -> None:
        if self._dispatcher is None:
            self._heartbeat.start(f"fastpos-ping-{number}", self._interrupted)
            self._connect_and_reconnect()
            return
        self._dispatcher.start(f"fastpos-callbacks-{number}", self._delivery.call_queued, self.stop)
        try:
            self._heartbeat.start(f"fastpos-ping-{number}", self._interrupted)
            self._connect_and_reconnect()
        except FastposError as error:
            with self._state:
                self._failure = error
                self._state.notify_all()
            self._dispatcher.finish()
            raise
        self._dispatcher.finish()

    def _interrupted(self, error: BaseException) -> None:
        self._interruption = error
        self.stop()

    def _leave_callbacks(self) -> None:
        """End the callback thread, but do not wait long: Ctrl-C does not reach a callback on it."""
        if self._dispatcher is not None:
            self._delivery.mute()
            self._dispatcher.discard()
            with suppress(BaseException):  # that is what is being raised
                self._dispatcher.finish(CLOSE_TIMEOUT)

    def _connect_and_reconnect(self) -> None:
        while not self._stopping:
            self._stay_home()
            self._attempts += 1
            self._tried += 1
            self._was_ready = False
            self._in_service_since = None
            self._counted = 0
            self._opened = False
            self._silent_s = None
            ended = self._serve()
            lasted = self._lasted()
            retry_in = None
            final: FastposError | None = None
            if not self._stopping:
                final = self._final(ended)
                if final is None:
                    retry_in = self._delay(ended, lasted)
            self._tell(ended, retry_in, lasted)
            if final is not None:
                raise final
            if retry_in is not None:
                self._pause_for(retry_in)

    def _stay_home(self) -> None:
        if self._home.elsewhere:
            raise Forked

    def _pause_for(self, seconds: float) -> None:
        deadline = monotonic() + seconds
        with self._state:
            while not self._stopping and (remaining := deadline - monotonic()) > 0:
                # In slices, as a Ctrl-C that comes just before a wait does not end it.
                self._state.wait(min(remaining, 0.5))

    def _serve(self) -> ConnectionEnded:
        """Have one connection, from opening it to its end; say how it ended."""
        connection: Connection | None = None
        try:
            connection = self._new_connection()
            self._stay_home()
            with self._state:
                if self._stopping:
                    return ConnectionEnded("stopped")
                self._phase = _OPENING
                self._connection = connection
                self._unanswered = 0
            connection.open()
            self._counters.connects += 1
            self._opened = True
            extra = self._fields("connected", attempt=self._attempts)
            log.info("%s: connected", self._settings.address, extra=extra)
            with self._state:
                self._heartbeat.watch(connection)
                if self._stopping:
                    return ConnectionEnded("stopped")
                self._phase = _GREETING
                self._heartbeat.limit(
                    connection, self._settings.subscribe_timeout, self._no_answer(CONNECTED)
                )
            self._read(connection)
        except ConnectionEnded as ended:
            return ended
        except FastposError as error:
            if connection is not None:
                connection.close()
            return ConnectionEnded(str(error), None, error)
        except Exception as error:
            if self._home.elsewhere:
                raise
            # A mistake of ours must not end the feed.
            reason = f"unexpected {type(error).__name__}: {error}"
            failure = FastposError(reason)
            failure.__cause__ = error
            return ConnectionEnded(reason, None, failure)
        except BaseException:  # Ctrl-C: leave in an orderly way
            if self._home.elsewhere:
                raise
            with self._state:
                subscribed = self._phase in (_SUBSCRIBING, _READY)
                self._stopping = True
            if connection is not None:
                if subscribed:
                    _try_send(connection, self._message("unsub"))
                connection.close()
            raise
        finally:
            if not self._home.elsewhere:
                self._leave(connection)

    def _leave(self, connection: Connection | None) -> None:
        self._heartbeat.unwatch()
        with self._state:
            if self._phase == _READY and connection is not None:
                self._heard_until = connection.last_heard
            if self._was_ready:
                self._sync.end()
            self._connection = None
            self._phase = _OPENING
        if connection is not None:
            self._counters.bytes_received += connection.bytes_received - self._counted
            if self._opened:
                self._silent_s = monotonic() - connection.last_heard
            connection.end()

    def _new_connection(self) -> Connection:
        settings = self._settings
        value = settings.credential.get()
        with self._state:
            self._value = value
        proxy = settings.proxy_address
        if settings.proxy_from_environment:
            try:
                proxy = proxy_from_environment(settings.address)
            except ValueError as error:
                raise ConnectionFailed(str(error)) from error
        if settings.address.scheme == "wss":
            if self._ssl_context is None:  # reading the authorities takes a while: do it once
                self._ssl_context = ssl.create_default_context()
        elif not self._warned and not settings.address.is_loopback:
            self._warned = True
            log.warning(
                "%s: the credential travels in clear; use wss://",
                settings.address,
                extra=self._fields("credential_in_clear"),
            )
        return Connection(
            settings.url,
            {**(settings.headers or {}), settings.credential.header: value},
            connect_timeout=settings.connect_timeout,
            max_message_size=settings.max_message_size,
            ssl_context=self._ssl_context,
            proxy=proxy,
            splitter=new_splitter(),
            hide=settings.credential.hide,
        )

    def _lasted(self) -> float:
        """Give the seconds for which the connection that has just ended was in service."""
        if self._in_service_since is None:
            return 0.0
        now = monotonic()
        lasted = now - self._in_service_since
        if lasted >= STABLE_AFTER:
            self._stable_until = now
        return lasted

    def _final(self, ended: ConnectionEnded) -> FastposError | None:
        """Give the error that ends the stream, None if it is to go on."""
        error, policy = ended.error, self._settings.reconnect
        if isinstance(error, AuthenticationError):
            return error
        if isinstance(error, SubscriptionError) and error.reply is not None:
            self._refusals += 1
            if self._refusals >= MAX_REFUSALS:
                final = AuthenticationError(
                    f"the subscription was refused {self._refusals} times in a row: {error.reply}"
                )
                final.__cause__ = error
                return final
        if policy is None:
            return error or ConnectionFailed(ended.reason)
        if policy.max_attempts is not None and self._attempts >= policy.max_attempts:
            exhausted = ReconnectExhausted(
                f"{self._attempts} attempts in a row have failed; the last: {ended.reason}"
            )
            exhausted.__cause__ = error
            return exhausted
        return None

    def _delay(self, ended: ConnectionEnded, lasted: float) -> float:
        policy = self._settings.reconnect
        assert policy is not None
        self._failures = 1 if lasted >= policy.reset_after else self._failures + 1
        delay = policy.delay(self._failures, monotonic() - self._stable_until)
        if isinstance(ended.error, ConnectionFailed) and ended.error.retry_after is not None:
            delay = max(delay, ended.error.retry_after)
        return delay

    def _tell(self, ended: ConnectionEnded, retry_in: float | None, lasted: float) -> None:
        reason = "stopped" if self._stopping else ended.reason
        count(self._counters.disconnects, reason)
        event = Disconnect(
            reason=reason,
            close_code=ended.close_code,
            error=ended.error,
            retry_in_s=retry_in,
            received_ns=time_ns(),
        )
        what = "disconnected" if self._opened else "not connected"
        plan = "no further attempt" if retry_in is None else f"next attempt in {retry_in:.1f} s"
        extra = self._fields(
            "disconnected" if self._opened else "connect_failed",
            reason=reason,
            close_code=ended.close_code,
            error=None if ended.error is None else type(ended.error).__name__,
            attempt=self._attempts,
            retry_in_s=retry_in,
            in_service_s=lasted,
            silent_s=self._silent_s,
        )
        if self._silent_s is not None:
            what += f" (in service for {lasted:.1f} s, silent for the last {self._silent_s:.1f} s)"
        log.info("%s: %s: %s; %s", self._settings.address, what, reason, plan, extra=extra)
        self._delivery.tell(self._callbacks.on_disconnect, event)
        if ended.error is not None and retry_in is not None:
            self._delivery.report(ended.error)

    # --- reading ----------------------------------------------------------------------------

    def _read(self, connection: Connection) -> NoReturn:
        """Read until the connection ends, which is told by an exception."""
        while True:
            self._stay_home()
            for opcode, payload in connection.receive(
                POLL_INTERVAL if self._sync.pending else None
            ):
                if opcode == INFLATED:
                    self._pushes(payload, connection)
                elif not self._stopping:  # else only the peer's close frame matters
                    self._message_in(opcode, payload, connection)
            self._counters.bytes_received += connection.bytes_received - self._counted
            self._counted = connection.bytes_received
            if self._sync.pending and not self._stopping:
                for name, event in self._sync.poll():
                    if isinstance(event, FastposError):
                        self._delivery.report(event)
                    else:
                        self._delivery.tell(name, event)

    def _pushes(self, texts: list[bytes], connection: Connection) -> None:
        """Take pushes that are inflated already."""
        counters, delivery, received_ns = self._counters, self._delivery, connection.received_ns
        counters.last_message_ns = received_ns
        counters.messages += len(texts)
        delivery.received(connection.last_heard)
        run: list[bytes] = []
        for text in texts:
            if _is_push(text):
                run.append(text)
                continue
            self._deliver(run, connection)
            run.clear()
            if not self._stopping:
                self._other(text, connection)
        self._deliver(run, connection)

    def _deliver(self, texts: list[bytes], connection: Connection) -> None:
        if texts and not self._stopping and self._delivery.pushes(texts, connection.received_ns):
            self._system_close(connection)

    def _message_in(self, opcode: int, payload: Any, connection: Connection) -> None:
        """Take a message as it came."""
        self._counters.messages += 1
        self._counters.last_message_ns = connection.received_ns
        self._delivery.received(connection.last_heard)
        try:
            if opcode == TEXT:
                text = payload.encode()
            elif payload[:2] == GZIP_MAGIC:
                text = inflate_push(payload, self._settings.max_message_size)
            elif b'"channel"' in payload:
                raise DecodeError("not a push: not gzip", payload)
            else:  # a reply or a pong as deployments may send them
                text = payload
        except DecodeError as error:
            refused = error.with_traceback(None)
        else:
            if _is_push(text):
                self._deliver([text], connection)
            else:
                self._other(text, connection)
            return
        # Not within `except`, which would be the context of what is raised in a callback.
        self._delivery.refuse(refused)

    def _system_close(self, connection: Connection) -> None:
        log.info(
            "%s: the exchange says that it closes",
            self._settings.address,
            extra=self._fields("system_close"),
        )
        self._heartbeat.limit(
            connection,
            SYSTEM_CLOSE_GRACE,
            ConnectionFailed("the exchange said that it closes, and did not"),
        )

    def _other(self, text: bytes, connection: Connection) -> None:
        """Take what is no push: a pong, a reply, or a mistake."""
        value = _parsed(text)
        if type(value) is dict and "pong" in value:
            self._heartbeat.pong()
        elif value is None and text.lstrip()[:1] == b"{":  # bare text is no JSON either
            self._delivery.pushes([text], connection.received_ns)  # which reports it
        elif not self._reply(text, connection):
            self._delivery.pushes([text], connection.received_ns)

    def _reply(self, text: bytes, connection: Connection) -> bool:
        """Take what is neither push nor pong; False if it is no reply to anything.

        Raises:
            SubscriptionError: it refuses the subscription.
        """
        reply = read_reply(text)
        with self._state:
            phase = self._phase
            if phase == _GREETING:
                if reply != CONNECTED:
                    raise SubscriptionError(
                        f"greeted with {self._shown(reply)} instead of {CONNECTED}"
                    )
                self._heartbeat.unlimit()
                if self._wanted:
                    self._subscribe(connection)
                else:
                    self._phase = _PAUSED
                    self._in_service()
                return True
            if phase != _SUBSCRIBING:  # the answer to "unsub" is not documented
                return phase == _PAUSED or reply in (CONNECTED, SUBSCRIBED)
            if reply == SUBSCRIBED:
                self._heartbeat.unlimit()
                self._phase = _READY
                if not self._wanted:  # paused while the answer was on its way
                    self._in_service()
                    self._unsubscribe()
                    return True
                # Under the lock: who waits for this may pause at once, and that comes after it.
                event = self._subscribed(connection)
                self._state.notify_all()
            elif reply == CONNECTED:
                return True
            elif self._unanswered and "unsub" in reply.lower():
                self._unanswered -= 1
                return True
            else:
                shown = self._shown(reply)
                raise SubscriptionError(f"the subscription was refused: {shown}", shown)
        after = "" if event.gap_s is None else f" after a gap of {event.gap_s:.1f} s"
        extra = self._fields("subscribed", gap_s=event.gap_s, attempt=event.attempts)
        log.info("%s: subscribed%s", self._settings.address, after, extra=extra)
        self._delivery.tell(self._callbacks.on_ready, event)
        return True

    # Both are called under `_state`.

    def _in_service(self) -> None:
        if self._in_service_since is None:
            self._in_service_since = monotonic()
        self._attempts = self._refusals = 0

    def _subscribed(self, connection: Connection) -> Ready:
        self._counters.subscriptions += 1
        self._was_ready = True
        gap = None if self._heard_until is None else max(monotonic() - self._heard_until, 0.0)
        event = Ready(
            first=gap is None,
            gap_s=gap,
            attempts=self._tried,
            received_ns=connection.received_ns,
        )
        self._tried = 0
        self._in_service()
        self._sync.begin(gap)
        return event

    def _fields(self, event: str, **values: object) -> dict[str, object]:
        return fields(event, url=str(self._settings.address), **values)

    def _shown(self, reply: str) -> str:
        return repr(self._settings.credential.hide(reply))

    def _no_answer(self, expected: str) -> SubscriptionError:
        timeout = self._settings.subscribe_timeout
        return SubscriptionError(f"no {expected!r} from the exchange within {timeout:g} s")


def _is_push(text: bytes) -> bool:
    if text.startswith(b'{"channel"'):
        return True
    value = _parsed(text)
    return type(value) is dict and "channel" in value


def _parsed(text: bytes) -> Any:
    try:
        return loads(text)
    except ValueError:
        return None


def _try_send(connection: Connection, message: str) -> None:
    with suppress(OSError):  # the reader notices by itself when the connection has failed
        connection.send(message)
