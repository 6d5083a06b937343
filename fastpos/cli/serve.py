"""``fastpos serve``: a `Fleet` as a program, of the accounts that a file names.

With a Redis several of these share the accounts: each serves those that are in its shards
(redis/worker.py), and publishes what comes to them.

Threads: the main thread waits for what is asked for, by signals and by the other threads, and does
it, one after the other; what is served is its own. The fleet runs in a thread of its own. Streams
that are let go end on a few threads, as each may take seconds; what comes of that is asked of the
main thread. Signal handlers only ask. Where shards are lost the worker's threads close what is in
them, at once.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from time import sleep
from typing import TYPE_CHECKING

from ..clock import monotonic
from ..errors import FastposError, JournalError
from ..fleet import Fleet
from ..runtime.callbacks import CALLBACK_NAMES
from ..stream import PositionStream, cut
from .accounts import Account, AccountsError, read_accounts
from .output import LogHandler, Output
from .reference import FreshSnapshot
from .signals import heard

if TYPE_CHECKING:
    from ..journal import Journal
    from .monitor import Monitor
    from .sharing import Sharing

__all__ = ["check", "serve"]

# How long at the most each step of the end takes, seconds. Supervisors kill after 10, and the
# interpreter's own end may wait for 2 more (redis/sender.py).
# Streams say goodbye, and what they had is published; where others wait for the accounts, half of
# `HANDOVER` is for the exchange's answers, and the other for what has none to be cut.
GOODBYE, HANDOVER = 3.0, 2.0
# Redis is told that others may have the accounts.
LAST_WORDS = 1.0
# The last records and lines are written, and the last file of the journal is compressed.
LAST_RECORDS, LAST_LINES, LAST_FILE = 1.0, 0.5, 1.0
# So many streams that are let go end at once.
ENDING_THREADS = 16
# An account that is not subscribed so long after it began may take long, seconds.
EXPECTED = 10.0
# How long a signal that came just before a wait may have to wait, and how often connections that
# are being closed are looked at, seconds.
SLICE, LOOK = 0.5, 0.05
# What comes of a stream and is not written: a tick a second of each that has a position.
_LEFT_OUT = {"on_adl_price"}


def check(path: str) -> int:
    """Say what is wrong with a file of accounts; give the exit status."""
    accounts = _read(path)
    if accounts is not None:
        print(f"{path}: {_accounts(len(accounts))}, nothing is wrong")
    return int(accounts is None)


def serve(
    path: str,
    as_json: bool,
    fleet: Fleet,
    journal: Journal | None,
    sharing: Sharing | None = None,
    monitor: Monitor | None = None,
    per_account: bool = False,
) -> int:
    """Have a fleet serve the accounts of a file until a signal ends it; give the exit status.

    SIGTERM and SIGINT end it, SIGHUP has it read the file again.

    Args:
        path: the file.
        as_json: how its lines are written.
        fleet: which has no streams yet.
        journal: where what comes is written, None: nowhere.
        sharing: with whom the accounts are shared, None: with nobody.
        monitor: says over HTTP how it is, None: nobody does.
        per_account: whether it has accounts' names.

    Raises:
        OSError: nobody can be told any more what happens.
        JournalError: the journal can't be written.
    """
    with ExitStack() as stack:
        if monitor is not None:
            stack.callback(monitor.close)
        accounts = _read(path)
        if accounts is None:
            return 1
        if journal is not None:
            stack.callback(journal.open().close, LAST_FILE)
        program = _Program(path, as_json, fleet, journal, sharing)
        if monitor is not None:
            monitor.start(fleet, per_account, program.unready)
            program.note("monitor", f"metrics and health at {monitor.url}")
        return program.run(accounts)


def _read(path: str) -> dict[str, Account] | None:
    """Read a file of accounts, or say on standard error what is wrong with it."""
    try:
        return read_accounts(path)
    except AccountsError as error:
        for fault in error.faults:
            print(f"{path}: {fault}", file=sys.stderr)
    return None


class _Served:
    """An account that is served, or just let go."""

    def __init__(self, account: Account, journal: Journal | None, sharing: Sharing | None) -> None:
        self.account = account
        self.snapshot: FreshSnapshot | None = account.new_snapshot()
        if sharing is None:
            self.stream: PositionStream = account.new_stream(self.snapshot, journal)
            self.shard = 0
        else:
            self.stream = account.new_stream(self.snapshot, journal, sharing.publisher_of)
            self.shard = sharing.shard_of(account.name)
        self.is_leaving = False
        self.is_cut = False
        """Its connection was closed, as its shard was lost or another has published it."""
        self._expected_until = monotonic() + EXPECTED  # set to 0 by whoever calls its functions
        self.stream.on_ready(self._has_come)

    def _has_come(self, _: object) -> None:
        self._expected_until = 0.0

    @property
    def is_expected(self) -> bool:
        """Whether it has just begun, and will be subscribed soon."""
        return monotonic() < self._expected_until

    def cut(self) -> None:
        """Close its connection at once; for any thread."""
        self.is_cut = True
        self.stream.stop(0)

    @property
    def has_come(self) -> bool:
        """Whether it is subscribed, or has ended for good; for any thread."""
        if self.is_leaving or self.is_cut:
            return False
        with suppress(FastposError):
            return self.stream.wait_ready(0) or self.stream.join(0)
        return True

    @property
    def has_ended(self) -> bool:
        """Whether its stream has ended for good."""
        try:
            return self.stream.join(0)
        except FastposError:
            return True


class _Program:
    def __init__(
        self,
        path: str,
        as_json: bool,
        fleet: Fleet,
        journal: Journal | None,
        sharing: Sharing | None,
    ) -> None:
        self._path = path
        self._journal = journal
        self._sharing = sharing
        self._requests: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._fleet = fleet
        self._wanted: dict[str, Account] = {}
        self._served: dict[str, _Served] = {}
        self._in_shards: Counter[int] = Counter()  # how many of these each shard has
        self._unservable: frozenset[str] = frozenset()  # those whose secrets are not there, or so
        self._has_begun = False
        self._ending = False
        self._is_to_end = False  # set by the signal handler; seen before its request is
        self._lost: OSError | None = None
        self._output = Output(as_json, lambda error: self._ask(partial(self._lose, error)))

    def note(self, event: str, text: str) -> None:
        """Say something of the program."""
        self._output.note("info", event, text)

    def unready(self) -> str | None:
        """Say what is not subscribed yet, and has not ended for good, of what is to be served here;
        None: all is. For any thread."""
        sharing = self._sharing
        if not self._has_begun or self._ending:
            return "it is ending" if self._ending else "it is beginning"
        if sharing is not None and not sharing.has_its_part:
            return "it does not have its part of the accounts yet"
        wanted = [name for name in self._wanted if self._may_serve_name(name)]
        served = self._served
        missing = sum(
            name not in self._unservable
            and ((here := served.get(name)) is None or not here.has_come)
            for name in wanted
        )
        if missing:
            return f"{missing} of {_accounts(len(wanted))} are not subscribed yet"
        return None

    def run(self, accounts: dict[str, Account]) -> int:
        with self._listening():
            self._output.note(
                "info", "serving", f"serving {_accounts(len(accounts))} of {self._path}"
            )
            self._fleet.start()  # first, so that an account that can't begin is no other's trouble
            self._want(accounts)
            if self._sharing is not None:
                self._sharing.start(
                    self._expected, self._cut, self._settle, self._begin_anew, self._ask
                )
            self._has_begun = True
            ended = False
            while not (self._ending or ended):
                with suppress(Empty):
                    self._requests.get(timeout=SLICE)()
                ended = self._fleet.join(0)
            self._ending = True
            self._say_goodbye()
            is_recorded = self._has_recorded()
            self._output.note("info", "stopped", "stopped")
            self._output.close(LAST_LINES)
        if self._lost is not None:
            raise self._lost
        return int(ended or not is_recorded)

    def _say_goodbye(self) -> None:
        """End all streams, and let others have the accounts as soon as nothing is connected."""
        began = monotonic()
        self._fleet.stop(GOODBYE if self._sharing is None else HANDOVER)
        if self._sharing is None:
            return
        while self._is_connected:
            if monotonic() > began + GOODBYE:  # the leases run out once this has ended
                return
            sleep(LOOK)
        self._sharing.leave(LAST_WORDS)

    @property
    def _is_connected(self) -> bool:
        stats = self._fleet.stats
        return stats.ready > 0 or stats.connecting > 0

    def _has_recorded(self) -> bool:
        """Wait until all that came is in the journal; whether it is."""
        if self._journal is None or self._journal.flush(LAST_RECORDS):
            return True
        text = f"what came last could not be written in {self._journal.folder}"
        self._output.note("error", "journal_incomplete", text)
        return False

    # --- what is asked for ------------------------------------------------------------------

    def _ask(self, request: Callable[[], object]) -> None:
        """Have something done by the main thread; for any thread and any signal handler."""
        self._requests.put(request)

    def _end(self) -> None:
        self._ending = True
        self._output.note("info", "ending", "asked to end; another Ctrl-C ends it at once")

    def _lose(self, error: OSError) -> None:
        """Nothing can be written any more."""
        self._lost = error
        self._ending = True

    def _read_again(self) -> None:
        try:
            accounts = read_accounts(self._path)
        except AccountsError as error:
            for fault in error.faults:
                self._output.note("error", "accounts_refused", f"{self._path}: {fault}")
            self._output.note("error", "accounts_refused", "the accounts stay as they were")
            return
        old = self._wanted
        counts = {
            "added": len(accounts.keys() - old.keys()),
            "removed": len(old.keys() - accounts.keys()),
            "changed": sum(account != old.get(n, account) for n, account in accounts.items()),
        }
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        text = f"{self._path} was read again: {told}"
        self._output.note("info", "accounts_read", text, fields=counts)
        self._want(accounts)

    # --- what is served ---------------------------------------------------------------------

    def _want(self, accounts: dict[str, Account]) -> None:
        """Have these accounts served, and no others.

        What is served already is left alone, and begins anew if it has ended for good: it may have
        been refused, and its secret is another now.
        """
        self._wanted = accounts
        if self._sharing is not None:
            self._sharing.count(accounts)
        self._settle(again=True)

    def _settle(self, again: bool = False) -> None:
        """Serve what is wanted and in its shards, and nothing else.

        Args:
            again: what has ended for good begins anew.
        """
        leaving: SimpleQueue[_Served] = SimpleQueue()
        for name, served in self._served.items():
            if served.is_leaving:
                continue
            if (
                served.account != self._wanted.get(name)
                or not self._may_serve(served.shard)
                or served.is_cut
                or (again and served.has_ended)
            ):
                served.is_leaving = True
                leaving.put(served)
        for _ in range(min(leaving.qsize(), ENDING_THREADS)):
            threading.Thread(target=self._let_go, args=(leaving,), daemon=True).start()
        for name in self._wanted:
            self._add(name)
        if self._sharing is not None:
            free = [shard for shard in self._sharing.giving if not self._in_shards[shard]]
            self._sharing.are_free(free)

    def _may_serve(self, shard: int) -> bool:
        return self._sharing is None or self._sharing.has(shard)

    def _may_serve_name(self, name: str) -> bool:
        return self._sharing is None or self._sharing.has(self._sharing.shard_of(name))

    def _expected(self) -> int:
        """Count what will be subscribed soon; for any thread."""
        return sum(each.is_expected for each in tuple(self._served.values()))

    def _cut(self, shards: frozenset[int]) -> None:
        """Shards are lost: close what is in them; on a thread of the worker's."""
        lost = [served for served in tuple(self._served.values()) if served.shard in shards]
        for served in lost:
            served.is_cut = True
        cut([served.stream for served in lost])

    def _begin_anew(self, name: str) -> None:
        """Another has published an account: if its shard is here that one was held up in the midst
        of beginning, and has ended by now."""
        served = self._served.get(name)
        if served is not None and not served.is_leaving and self._may_serve(served.shard):
            served.cut()
            self._settle()

    def _add(self, name: str) -> None:
        """Serve an account, if it is wanted, in its shards, and its name is free."""
        account = self._wanted.get(name)
        if account is None or name in self._served or self._ending or self._is_to_end:
            return
        if not self._may_serve_name(name):
            return
        self._unservable -= {name}
        try:
            served = _Served(account, self._journal, self._sharing)
            for slot in CALLBACK_NAMES:
                if slot not in _LEFT_OUT:
                    getattr(served.stream, slot)(partial(self._output.event, name, slot))
            self._fleet.add(served.stream)
        except (ValueError, TypeError, JournalError) as error:
            # A secret went while the file was being read, or another writes in the journal.
            self._output.note("error", "ended", f"it can't be served: {error}", name)
            self._unservable |= {name}
            return
        self._served[name] = served
        self._in_shards[served.shard] += 1
        if not self._may_serve(served.shard):  # it was lost meanwhile
            served.cut()
            self._ask(self._settle)

    def _let_go(self, leaving: SimpleQueue[_Served]) -> None:
        """End streams, one after the other; on a thread of its own."""
        with suppress(Empty):
            while True:
                served = leaving.get_nowait()
                try:
                    self._fleet.remove(served.stream)
                    if served.snapshot is not None:
                        served.snapshot.close()
                finally:
                    self._ask(partial(self._gone, served))

    def _gone(self, served: _Served) -> None:
        """A stream that was let go has ended: its name is free."""
        name, shard = served.account.name, served.shard
        del self._served[name]
        self._in_shards[shard] -= 1
        if name not in self._wanted:
            self._output.note("info", "removed", "removed", name)
        if self._sharing is not None and not self._in_shards[shard]:
            self._sharing.are_free([shard])
        self._add(name)

    # --- the rest of the world --------------------------------------------------------------

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Take signals, and the library's log records, meanwhile."""
        log = logging.getLogger("fastpos")
        handler = LogHandler(self._output)
        log.addHandler(handler)
        log.propagate = False
        requests = {"SIGTERM": self._end, "SIGINT": self._end, "SIGHUP": self._read_again}
        asked = {name: partial(self._signalled, request) for name, request in requests.items()}
        try:
            with heard(asked):
                yield
        finally:
            log.propagate = True
            log.removeHandler(handler)

    def _signalled(self, request: Callable[[], object], number: int) -> None:
        if self._is_to_end and number == signal.SIGINT:  # again: somebody can't wait
            raise KeyboardInterrupt
        self._is_to_end |= request == self._end
        self._ask(request)


def _accounts(count: int) -> str:
    return f"{count} account{'' if count == 1 else 's'}"
