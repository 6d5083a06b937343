"""A pytest plugin: no credential is shown by a log record, an exception or a repr, in any test.

Whatever is given to a stream, a snapshot source, a proxy's URL or the simulator as a credential is
a secret until the test ends. Looked at are

* every log record, from DEBUG on, formatted with its traceback; websocket-client traces all that it
  does meanwhile;
* the message of every `FastposError` that is made, and all of every exception that reaches a user,
  in a callback or raised by a method of the stream or of the snapshot source: what it is, what led
  to it, and the variables in the frames of their tracebacks, but for those of the tests;
* the events that callbacks get, the first of each kind in each test, where nothing is compiled: the
  methods of a compiled class can't be replaced;
* what `repr` and `str` show of streams, their parts, settings and statistics, when a test ends.

A hit fails the test in which it happened. The test's report names the place and not the secret.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
import websocket

from fastpos import FastposError, PositionStream, rest
from fastpos._c import compiled
from fastpos.net import connection
from fastpos.net.connection import Connection
from fastpos.rest import AccountSnapshot
from fastpos.runtime.delivery import Delivery
from fastpos.simulator import Exchange
from fastpos.wire.credential import Credential

# What is shorter, or a mere word, may stand in a text for another reason.
SHORTEST = 6
# Events of one kind that are looked at in one test.
SAMPLE = 20
TESTS = Path(__file__).parent.parent

# Records that are not this library's: a server's or client's that a test runs at the far end, and
# httpcore's of what it was answered, which only its logger's level can prevent.
FOREIGN = re.compile(r"websockets\b|httpcore\.http11 .* receive_response_headers\.")


class Watch(logging.Handler):
    """Knows the secrets and notes where one is shown.

    Any thread may call; `_lock` guards the secrets and what was found.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._lock = threading.Lock()
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self._found: list[str] = []
        self._seen: Counter[type] = Counter()
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self._records = logging.Formatter("%(name)s %(levelname)s %(threadName)s %(message)s")

    def keep(self, secret: object) -> None:
        """Take `secret` for one, if it is any good."""
        if not isinstance(secret, str):
            return
        secret = secret.strip()  # where there is something around it, it is refused
        if len(secret) < SHORTEST or secret.isalpha():
            return
        with self._lock:
            if secret in self._secrets:
                return
            self._secrets |= {secret, quote(secret, safe="", errors="replace")}
            self._pattern = re.compile("|".join(map(re.escape, self._secrets)))

    def look(self, place: str, text: str) -> None:
        """Note `place` if `text` shows a secret."""
        pattern = self._pattern
        if pattern is not None and pattern.search(text):
            hidden = pattern.sub("<CREDENTIAL>", " ".join(text.split()))
            at = max(hidden.find("<CREDENTIAL>") - 100, 0)
            hidden = hidden[at : at + 250]
            with self._lock:
                self._found.append(f"{place}: {hidden}")

    def found(self) -> list[str]:
        """What was found since this was last asked."""
        with self._lock:
            found, self._found = self._found, []
            self._secrets = set()  # hypothesis tries everything as a credential, "price" too
            self._pattern = None
            self._seen.clear()
            self._alive.clear()
        return found

    def adopt(self, thing: object) -> None:
        """Look at what `repr` and `str` show of `thing` when the test ends."""
        self._alive.add(thing)

    # --- what is looked at --------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        text = shown_by(self._records.format, record)
        if not FOREIGN.match(text):
            self.look(f"log record of {record.name}", text)

    def error(self, place: str, error: BaseException) -> None:
        """Look at everything that a user can see of an exception and of its causes."""
        for link in chain_of(error):
            kind = type(link).__name__
            if not raised_by_a_test(link):
                shown = [shown_by(repr, link), shown_by(str, link), shown_by(repr, vars(link))]
                self.look(f"{kind} {place}", "\n".join(shown))
            for frame, line in traceback.walk_tb(link.__traceback__):
                code = frame.f_code
                if not Path(code.co_filename).is_relative_to(TESTS):
                    shown = [f"{n} = {shown_by(repr, v)}" for n, v in frame.f_locals.items()]
                    where = f"{code.co_filename}:{line} in {code.co_name}"
                    self.look(f"{kind} {place}, variables of {where}", "\n".join(shown))

    def event(self, name: str, event: Any) -> None:
        kind = type(event)
        self._seen[kind] += 1
        if self._seen[kind] <= SAMPLE:
            self.look(f"{kind.__name__} to {name}", shown_by(repr, event))
            if isinstance(getattr(event, "error", None), BaseException):
                self.error(f"in a {kind.__name__}", event.error)

    def show_all(self) -> None:
        """Look at what there is of streams and the like."""
        for thing in list(self._alive):
            for part in parts_of(thing):
                self.look(f"repr of {type(part).__name__}", shown_by(repr, part))
                self.look(f"str of {type(part).__name__}", shown_by(str, part))


def shown_by(show: Callable[[Any], str], thing: object) -> str:
    try:
        return show(thing)
    except Exception as error:  # tests have objects that can't be shown, on purpose
        return type(error).__name__


def password_in(proxy: object) -> str | None:
    """The password in a proxy's URL, as it stands there."""
    found = re.search(r"://[^:/@]*:([^@]*)@", proxy) if isinstance(proxy, str) else None
    return found[1] if found else None


def parts_of(thing: Any) -> Iterator[Any]:
    yield thing
    if isinstance(thing, PositionStream):
        yield thing.stats
        for owner in (thing, thing._settings):  # but not the user's own dict of headers
            yield from (part for part in vars(owner).values() if not isinstance(part, dict))
        yield [thread.name for thread in threading.enumerate()]


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """It, its causes and contexts, also those that are not to be shown."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            pending += [link.__cause__, link.__context__]
            yield link


def raised_by_a_test(error: BaseException) -> bool:
    """Whether it came from a function of the test's, which may say what it likes."""
    if isinstance(error, FastposError) or error.__traceback__ is None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return Path(frame.f_code.co_filename).is_relative_to(TESTS)


# --- where it looks -------------------------------------------------------------------------------


def install(watch: Watch) -> Callable[[], None]:
    """Have all that is looked at shown to `watch`; returns what takes it back."""
    patches = contextlib.ExitStack()

    def patch(
        owner: Any,
        name: str,
        before: Callable[..., object] | None = None,
        after: Callable[..., object] | None = None,
        raising: str = "",
    ) -> None:
        """Call `before` with the arguments, `after` with the result and them."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(*args: Any, **options: Any) -> Any:
            if before is not None:
                before(*args, **options)
            try:
                result = original(*args, **options)
            except BaseException as error:
                if raising:
                    watch.error(f"raised by {raising}", error)
                raise
            if after is not None:
                after(result, *args, **options)
            return result

        patches.enter_context(mock.patch.object(owner, name, call))

    def made(_: None, error: FastposError, *args: Any) -> None:
        watch.look(f"message of {type(error).__name__}", str(args[0]) if args else "")

    def given(thing: Any, *args: Any, **options: Any) -> None:
        for secret in args[1:3] if isinstance(thing, AccountSnapshot) else ():
            watch.keep(secret)
        for name in ("token", "api_key", "api_secret"):
            watch.keep(options.get(name))
        watch.keep(password_in(options.get("proxy")))

    def built(_: None, thing: Any, *_args: Any, **_options: Any) -> None:
        watch.adopt(thing)
        if isinstance(thing, Exchange):
            for secret in (thing.api_key, thing.api_secret, thing.token):
                watch.keep(secret)
        elif isinstance(thing, PositionStream) and thing._settings.proxy_address is not None:
            watch.keep(thing._settings.proxy_address.password)

    def connecting(_: Any, _url: str, headers: Any = None, **_options: Any) -> None:
        for name in ("token", "api-key"):
            watch.keep((headers or {}).get(name))

    def calling(_: Any, handlers: Any, event: Any, *_queued: bool) -> None:
        if handlers.functions:
            watch.event(handlers.name, event)

    patch(FastposError, "__init__", after=made)
    patch(Credential, "get", after=lambda value, _: watch.keep(value))
    patch(Connection, "__init__", before=connecting)
    if not compiled:  # else its methods can't be replaced
        patch(Delivery, "call", before=calling)
        patch(Delivery, "report", before=lambda _, error: watch.error("to on_error", error))
    for kind in (PositionStream, Exchange, AccountSnapshot):
        # What the simulator is given is the tests' own.
        raising = "" if kind is Exchange else "a constructor"
        patch(kind, "__init__", before=given, after=built, raising=raising)
    for module in (connection, rest):
        patch(module, "open_tunnel", before=lambda _, proxy, *_args: watch.keep(proxy.password))
    for name in ("run_forever", "wait_ready", "join", "start", "stop"):
        patch(PositionStream, name, raising=name)
    patch(AccountSnapshot, "__call__", raising="AccountSnapshot")
    return patches.close


# --- pytest's side --------------------------------------------------------------------------------

_watch = Watch()


def pytest_configure(config: pytest.Config) -> None:
    config.add_cleanup(install(_watch))
    root = logging.getLogger()
    root.addHandler(_watch)
    level = root.level
    root.setLevel(logging.DEBUG)
    # A record for each frame of a server or client that a test runs at the far end is none of ours.
    logging.getLogger("websockets").setLevel(logging.INFO)

    websocket.enableTrace(True, logging.NullHandler())

    def take_back() -> None:
        websocket.enableTrace(False)
        root.removeHandler(_watch)
        root.setLevel(level)
        logging.getLogger("websockets").setLevel(logging.NOTSET)

    config.add_cleanup(take_back)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Before the fixtures are torn down, and after that, when the streams have stopped."""
    _watch.show_all()
    try:
        yield
    finally:
        _watch.show_all()
    found = _watch.found()
    if found:
        pytest.fail("a credential is shown by\n  " + "\n  ".join(found), pytrace=False)
