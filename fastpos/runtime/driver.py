"""What drives one stream: a thread that opens, reads, delivers and waits, and a ping thread.

What the bytes mean is the session's (wire/session.py), what that means to the user feed.py's, and
what anybody may ask run.py's. Here is only when things happen.

Threads: `run` is one thread, the reader.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from ..errors import FastposError
from ..wire.session import CLOSE_TIMEOUT, Closed
from .link import Buffers, Link
from .run import Control, Parts, Run, unexpected
from .snapshots import POLL_INTERVAL

__all__ = ["Driver"]


class Driver(Control):
    """Runs a stream on whatever thread calls `run`."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._own_thread = parts.dispatcher

    def run(self, run: Run) -> None:
        """Run until `stop`.

        Raises:
            FastposError: what ended the stream.
        """
        failure: FastposError | None = None
        try:
            self.feed.begin()
            self._with_threads(run)
            if run.interruption is not None:
                raise run.interruption
        except FastposError as error:
            failure = error
            raise
        except BaseException as error:  # Ctrl-C, sys.exit() in a callback, a mistake of ours
            said = f"{type(error).__name__}: {error}".removesuffix(": ")  # a Ctrl-C says nothing
            failure = FastposError(f"the stream was ended by {said}")
            failure.advising("Start it again where it is to go on; what ended it is the __cause__.")
            failure.__cause__ = error
            if not self.owner.is_another:
                self._leave_callbacks()
            raise
        finally:
            if not self.owner.is_another:  # else all of it is the parent's (see fork.py)
                try:
                    run.pinger.stop()
                finally:  # also if a second Ctrl-C came, wherever that was
                    run.pinger.leave()
                    if self._own_thread is not None:
                        self._own_thread.leave()
                    run.failure = failure
                    try:
                        wait = self.feed.close_journal(failure)
                        if wait is not None:
                            wait()
                    finally:
                        run.ended = True
                        self._changes.notify()

    def _with_threads(self, run: Run) -> None:
        stop = partial(self._stop, run)
        run.pinger.watch(self.lookout)

        def interrupted(error: BaseException) -> None:
            run.interruption = error
            stop()

        if self._own_thread is None:
            run.pinger.start(f"fastpos-ping-{run.number}", interrupted)
            self._connect_and_reconnect(run)
            return
        name = f"fastpos-callbacks-{run.number}"
        self._own_thread.start(name, self._delivery.call_queued, stop)
        try:
            run.pinger.start(f"fastpos-ping-{run.number}", interrupted)
            self._connect_and_reconnect(run)
        except FastposError as error:
            run.failure = error
            self._changes.notify()
            self._own_thread.finish()
            raise
        self._own_thread.finish()

    def _leave_callbacks(self) -> None:
        """End the callback thread, but do not wait long: Ctrl-C does not reach a callback on it."""
        if self._own_thread is not None:
            self._delivery.mute()
            self._own_thread.discard()
            with suppress(BaseException):  # that is what is being raised
                self._own_thread.finish(CLOSE_TIMEOUT)

    def _connect_and_reconnect(self, run: Run) -> None:
        buffers = Buffers()
        while not run.stopping:
            self.feed.attempt()
            final, retry_in = self._serve(run, buffers)
            self._check_process()
            if final is not None:
                raise final
            if retry_in is not None:
                self._changes.wait_for(lambda: run.stopping, retry_in)

    def _serve(self, run: Run, buffers: Buffers) -> tuple[FastposError | None, float | None]:
        """Have one connection, from opening it to its end; give what follows, see `Verdict`."""
        link: Link | None = None
        try:
            link = self.new_link(buffers, run.pinger)
            self._check_process()
            self.link = link
            closed = self._converse(run, link)
        except FastposError as error:
            closed = Closed(error.message, None, error)
        except Exception as error:
            if self.owner.is_another:
                raise
            # A mistake of ours must not end the feed.
            if link is not None:
                link.fail(error)
            closed = unexpected(error)
        except BaseException:  # Ctrl-C: leave in an orderly way
            if self.owner.is_another:
                raise
            run.stopping = True
            if link is not None:
                link.close()
            raise
        finally:
            if not self.owner.is_another:
                try:
                    self.link = None
                    self.feed.left(link)
                finally:
                    if link is not None:
                        link.end()
        return self.feed.finish(closed, run.stopping)

    def _converse(self, run: Run, link: Link) -> Closed:
        """Open a connection and read until it ends; say how it did."""
        if run.stopping:
            return Closed("stopped")
        closed = link.open()
        if closed is not None:
            return closed
        self.feed.opened()
        run.pinger.watch(link)
        lookout = self.feed.look_out(link)
        if lookout is not None:
            run.pinger.watch(lookout)
        run.pinger.ask(self._follow)  # whatever was asked while there was no session
        snapshots = self.snapshots
        while True:
            closed = self.read(run, link, POLL_INTERVAL if snapshots.pending else None)
            if closed is not None:
                return closed
            if snapshots.pending and not run.stopping:
                self.poll_snapshots()
