"""The command line: ``fastpos demo``, ``watch``, ``record``, ``replay``, ``tail`` and others."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .. import __version__
from .._c import compiled, compiled_error
from ..errors import FastposError
from ..fleet import Fleet
from ..model.exchange import DEFAULT_URL
from ..net.tls import direct_error
from ..stream import PositionStream
from ..wire.inflate import inflater, native_error
from .follow import follow

__all__ = ["main"]

_PARTS = ("websocket-client", "isal", "orjson")
_EXTRAS = ("websockets", "python-socks", "httpx", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit status.

    0: done; 1: it failed; 2: wrong usage; 130: interrupted before its end, or for the second time.
    """
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, TextIOWrapper):  # a name that it can't hold is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=options.log_level.upper())
    try:
        status: int = options.run(options)
    except KeyboardInterrupt:
        # These have no other end; record and serve were asked once before.
        is_endless = options.run in (_watch, _tail, _simulate) or _is_endless_demo(options)
        status = 0 if is_endless else 130
    except BrokenPipeError:  # the reader of our output has gone
        status = 1
    except _WrongUsageError as error:
        print(f"fastpos: {error}", file=sys.stderr)
        status = 2
    except (FastposError, ImportError, OSError, ValueError) as error:
        print(f"fastpos: {error}", file=sys.stderr)
        status = 1
    try:
        sys.stdout.flush()
    except OSError:  # so that the interpreter does not try it again, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _is_endless_demo(options: argparse.Namespace) -> bool:
    return options.run is _demo and options.live and options.seconds is None


class _WrongUsageError(Exception):
    """An option's value can't be used."""


@contextmanager
def _options() -> Iterator[None]:
    """What is made of options meanwhile refuses them with a ValueError that names them."""
    try:
        yield
    except ValueError as error:
        raise _WrongUsageError(error) from error


class _Parser(argparse.ArgumentParser):
    """One that repeats no URL's password in what it complains of."""

    def error(self, message: str) -> NoReturn:
        super().error(re.sub(r"//\S*@", "//***@", message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastpos",
        description="A futures account's positions, orders and triggers, pushed from an exchange.",
    )
    parser.add_argument("--version", action="version", version=f"fastpos {__version__}")
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="warning",
        help="how much to log to standard error (default: warning)",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="play a trader's day on the simulator, on this machine; needs no credentials",
    )
    demo.add_argument(
        "--seconds",
        type=_positive,
        help="go on for so long (default: some 5 seconds; with --live until q or Ctrl-C)",
    )
    demo.add_argument(
        "--live",
        action="store_true",
        help="show it as watch does, with a market that goes on, three positions in it",
    )
    _takes_form(demo)
    demo.set_defaults(run=_demo)

    watch = commands.add_parser(
        "watch",
        help="show what a real exchange pushes, until Ctrl-C: a live table on a terminal, else "
        "lines",
        epilog="The credential is taken from the environment: FASTPOS_TOKEN or FASTPOS_API_KEY. "
        "The table shows the unrealized profit and loss (uPNL) as price difference times "
        "contracts, which is no amount of a currency.",
    )
    _takes_exchange(watch)
    _takes_form(watch)
    watch.set_defaults(run=_watch)

    record = commands.add_parser(
        "record",
        help="write down what a real exchange pushes, until Ctrl-C or SIGTERM",
        epilog="The credential is taken from the environment: FASTPOS_TOKEN or FASTPOS_API_KEY. "
        "It is not written down. See also: fastpos replay.",
    )
    record.add_argument("directory", metavar="DIR", help="where; it is made if it is not there")
    _takes_exchange(record)
    record.add_argument("--name", default="recorded", help="the stream's (default: %(default)s)")
    record.add_argument(
        "--segment-bytes",
        type=_size,
        default=64 * 1024 * 1024,
        metavar="N",
        help="begin another file after so many bytes (default: %(default)s)",
    )
    record.add_argument(
        "--keep-bytes",
        type=_size,
        metavar="N",
        help="remove the oldest files while all have more bytes than this (default: never)",
    )
    record.set_defaults(run=_record)

    replay = commands.add_parser(
        "replay",
        help="print what was recorded, as watch would have; or play it to any client",
        epilog="The files are those of record, of serve --journal, and of a stream's journal=.",
    )
    replay.add_argument("path", metavar="DIR", help="the journal's folder, or one of its files")
    replay.add_argument(
        "--stream",
        metavar="NAME",
        help="only this stream (default: all, each line with the name first)",
    )
    replay.add_argument(
        "--speed",
        type=_speed,
        default=argparse.SUPPRESS,
        metavar="N|max",
        help="1 for the recorded pace, 10 for ten times as fast (default: max; with --serve 1)",
    )
    replay.add_argument(
        "--serve",
        type=_port,
        metavar="PORT",
        help="have the simulator play one stream to any client, on this machine; 0 for a free port",
    )
    replay.set_defaults(run=_replay)

    serve = commands.add_parser(
        "serve",
        help="serve many accounts, which a file names, and log what happens, until SIGTERM",
        epilog="SIGHUP has the file read again: accounts that were added, removed or changed in "
        "it begin, end or begin anew, and the others are not touched.",
    )
    serve.add_argument(
        "file", metavar="FILE", help="the accounts, in TOML; see docs/reference/accounts.md"
    )
    serve.add_argument(
        "--check", action="store_true", help="say all that is wrong with the file, and do no more"
    )
    serve.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="lines for people, or a JSON object on each (default: %(default)s)",
    )
    serve.add_argument(
        "--connect-rate",
        type=float,
        default=20.0,
        metavar="N",
        help="open so many connections a second at most (default: %(default)g)",
    )
    serve.add_argument(
        "--connect-threads",
        type=int,
        default=8,
        metavar="N",
        help="open so many connections at once at most (default: %(default)d)",
    )
    serve.add_argument(
        "--callback-threads",
        type=int,
        default=0,
        metavar="N",
        help="make the lines on so many threads, not on the one that reads (default: %(default)d)",
    )
    serve.add_argument(
        "--journal",
        metavar="DIR",
        help="write down what comes to all accounts, but for those that say journal= themselves",
    )
    serve.add_argument(
        "--metrics",
        type=_place,
        metavar="HOST:PORT",
        help="answer /metrics, /healthz, /readyz there; PORT alone: on 127.0.0.1; 0: a free one",
    )
    serve.add_argument(
        "--metrics-per-account",
        action="store_true",
        help="give each account's metrics for itself, with its name as a label",
    )
    _takes_redis(serve, "share the accounts with all others on this Redis, and publish there")
    serve.add_argument(
        "--redis-max-length",
        type=_count,
        default=100_000,
        metavar="N",
        help="keep about so many records of each account there; docs/capacity.md says how much "
        "memory that takes (default: %(default)d)",
    )
    serve.set_defaults(run=_serve)

    tail = commands.add_parser(
        "tail",
        usage="%(prog)s [-h] [--prefix PREFIX] [--group G] [--consumer C]\n"
        "                    [--plain | --json] [--ascii]\n"
        "                    [URL] NAME",
        help="show what is published to Redis of a stream, as watch does, until Ctrl-C",
        epilog="It begins with what is open. In a group it goes on where the group stopped, and "
        "acknowledges what it has shown.",
    )
    tail.add_argument(  # not "?" for the first: argparse loses it where an option stands before
        "words",
        nargs="+",
        metavar="[URL] NAME",
        help="the stream's name, and before it the URL of Redis or Valkey: redis://HOST:PORT/DB; "
        "one with a password should be in the environment: FASTPOS_REDIS_URL",
    )
    tail.add_argument(
        "--prefix", default="fastpos", help="what the keys begin with (default: %(default)s)"
    )
    tail.add_argument("--group", metavar="G", help="as a member of this group")
    tail.add_argument("--consumer", metavar="C", help="called so in it (default: host and process)")
    _takes_form(tail)
    tail.set_defaults(run=_tail)

    status = commands.add_parser(
        "status", help="show who serves which accounts, of those that are shared on a Redis"
    )
    _takes_redis(status, "which Redis")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(run=_status)

    simulate = commands.add_parser(
        "simulate", help="serve the simulator, with a position that ticks, until Ctrl-C"
    )
    simulate.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    simulate.add_argument(
        "--port", type=_port, default=0, help="0 for a free one (default: %(default)s)"
    )
    simulate.set_defaults(run=_simulate)

    info = commands.add_parser("info", help="show versions, and which C extensions are in use")
    info.set_defaults(run=_info)
    return parser


def _takes_redis(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--redis",
        metavar="URL",
        default=os.environ.get("FASTPOS_REDIS_URL") or None,
        help=f"{what}; a URL with a password should be in the environment: FASTPOS_REDIS_URL",
    )
    parser.add_argument(
        "--redis-prefix",
        metavar="PREFIX",
        default="fastpos",
        help="what all keys there begin with (default: %(default)s)",
    )


def _takes_exchange(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that connects to a real exchange; see `_stream_to`."""
    parser.add_argument("--url", default=DEFAULT_URL, help="default: %(default)s")
    parser.add_argument("--broker", type=int, required=True, help="the merchant's id")
    parser.add_argument("--proxy", help="URL of a proxy (default: from the environment)")


def _takes_form(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how events are shown; see `follow`."""
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--plain",
        dest="form",
        action="store_const",
        const="plain",
        default="table",
        help="a line an event, on a terminal too",
    )
    forms.add_argument(
        "--json", dest="form", action="store_const", const="json", help="a JSON object an event"
    )
    parser.add_argument(
        "--ascii", action="store_true", help="draw the table with letters that all terminals have"
    )


def _positive(text: str) -> float:
    return _number(text, float, "above 0", lambda value: 0 < value < float("inf"))


def _count(text: str) -> int:
    return _number(text, int, "from 1 on", lambda value: value >= 1)


def _size(text: str) -> int:
    return _number(text, int, "of bytes, at least 1", lambda value: value >= 1)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    return _number(text, float, "above 0, or max", lambda value: 0 < value < float("inf"))


def _port(text: str) -> int:
    return _number(text, int, "from 0 to 65535", lambda value: 0 <= value <= 65535)


def _place(text: str) -> tuple[str, int]:
    """Take PORT, HOST:PORT or [IPV6]:PORT."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (colon and not bare) or (":" in bare and bare == host):
        raise argparse.ArgumentTypeError(f"must be PORT, HOST:PORT or [IPV6]:PORT, not {text!r}")
    return bare or "127.0.0.1", _port(port)


_N = TypeVar("_N", int, float)


def _number(text: str, kind: Callable[[str], _N], what: str, is_right: Callable[[_N], bool]) -> _N:
    """Give an option's value; `what` says what is right."""
    try:
        value = kind(text)
    except ValueError:
        value = kind("0") - 1  # which never is
    if not is_right(value):
        raise argparse.ArgumentTypeError(f"must be a number {what}, not {text!r}")
    return value


def _demo(options: argparse.Namespace) -> int:
    # Here, because it needs the extra.
    from .demo import DemoFailed, live_demo, run_demo  # noqa: PLC0415

    if options.live:
        live_demo(options.form, options.ascii, options.seconds)
        return 0
    try:
        run_demo(options.seconds, _show, as_json=options.form == "json")
    except DemoFailed as error:
        print(f"fastpos: the demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _has_credential() -> bool:
    given = [name for name in ("FASTPOS_TOKEN", "FASTPOS_API_KEY") if os.environ.get(name)]
    if len(given) != 1:
        print("fastpos: set FASTPOS_TOKEN or FASTPOS_API_KEY, one of them", file=sys.stderr)
    return len(given) == 1


def _stream_to(options: argparse.Namespace, **more: Any) -> PositionStream:
    """Make a stream to the exchange of the options, with the environment's credential."""
    with _options():
        return PositionStream(
            options.url,
            token=os.environ.get("FASTPOS_TOKEN") or None,
            api_key=os.environ.get("FASTPOS_API_KEY") or None,
            broker=options.broker,
            proxy=options.proxy,
            **more,
        )


def _watch(options: argparse.Namespace) -> int:
    if not _has_credential():
        return 2
    follow(_stream_to(options), options.form, options.ascii)
    return 0


def _tail(options: argparse.Namespace) -> int:
    *urls, name = options.words
    url: str = urls[0] if urls else os.environ.get("FASTPOS_REDIS_URL", "")
    wrong = None
    if len(urls) > 1:
        wrong = "give a URL and a NAME, or a NAME"
    elif "://" in name:
        wrong = "give the NAME of the stream, after the URL"
    elif not url:
        wrong = "give a URL before the NAME, or set FASTPOS_REDIS_URL"
    if wrong is not None:
        print(f"fastpos: {wrong}", file=sys.stderr)
        return 2
    from ..redis import RemoteStream  # noqa: PLC0415 -- needs the extra

    with _options():
        stream = RemoteStream(url, name, options.prefix, options.group, options.consumer)
    follow(stream, options.form, options.ascii)
    return 0


def _record(options: argparse.Namespace) -> int:
    from ..journal import Journal  # noqa: PLC0415 -- others need not load it
    from .record import record  # noqa: PLC0415

    if not _has_credential():
        return 2
    journal = Journal(
        options.directory, segment_bytes=options.segment_bytes, keep_bytes=options.keep_bytes
    )
    record(_stream_to(options, name=options.name, journal=journal), journal, _show)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from .recorded import replay_to, serve_day  # noqa: PLC0415

    if options.serve is None:
        speed = getattr(options, "speed", None)
        # Where the lines themselves are on the terminal, they say how far it has come.
        replay_to(_show, options.path, options.stream, speed, not sys.stdout.isatty())
    else:
        speed = getattr(options, "speed", 1.0)
        serve_day(_show, options.path, options.stream, speed, options.serve)
    return 0


def _serve(options: argparse.Namespace) -> int:
    from .serve import check, serve  # noqa: PLC0415 -- others need not load it

    with _options():
        fleet = Fleet(
            connect_rate=options.connect_rate,
            connect_threads=options.connect_threads,
            callback_threads=options.callback_threads,
        )
    if options.check:
        return check(options.file)
    journal = None
    if options.journal is not None:
        from ..journal.journal import journal_at  # noqa: PLC0415

        journal = journal_at(options.journal)  # an account may name the same folder
    sharing = None
    if options.redis is not None:
        from .sharing import Sharing  # noqa: PLC0415 -- needs the extra

        with _options():
            sharing = Sharing(
                options.redis, options.redis_prefix, options.connect_rate, options.redis_max_length
            )
    monitor = None
    if options.metrics is not None:
        from .monitor import Monitor  # noqa: PLC0415 -- needs the extra

        monitor = Monitor(*options.metrics)
    return serve(
        options.file,
        options.log_format == "json",
        fleet,
        journal,
        sharing,
        monitor,
        options.metrics_per_account,
    )


def _status(options: argparse.Namespace) -> int:
    from .status import read_status, table  # noqa: PLC0415 -- needs the extra

    if options.redis is None:
        print("fastpos: give --redis, or set FASTPOS_REDIS_URL", file=sys.stderr)
        return 2
    with _options():
        status = read_status(options.redis, options.redis_prefix)
    _show(json.dumps(status, indent=1) if options.json else table(status))
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from ..simulator import Exchange  # noqa: PLC0415 (needs the extra)

    with Exchange(options.host, options.port) as exchange:
        _show(f"url      {exchange.url}")
        _show(f"broker   {exchange.broker}")
        _show(f"api key  {exchange.api_key}")
        _show(f"token    {exchange.token}")
        _show(f"rest     {exchange.rest_url}  (secret {exchange.api_secret})")
        _show("Ctrl-C ends it.")
        position = exchange.open_position()
        exchange.start_ticking()
        volume = 12
        while not threading.Event().wait(5.0):
            volume = volume % 20 + 1
            exchange.update_position(position, volume=volume)
    return 0


def _info(options: argparse.Namespace) -> int:
    _show(f"fastpos           {__version__}")
    _show(f"package           {Path(__file__).resolve().parent.parent}")
    _show(f"compiled          {'yes' if compiled else 'no'}{_why(compiled_error)}")
    _show(f"inflater          {inflater}{_why(native_error)}")
    _show(f"tls               {'ssl module' if direct_error else 'direct'}{_why(direct_error)}")
    for name in _PARTS + _EXTRAS:
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "not installed"
        _show(f"{name:<17} {found}")
    _show(f"python            {platform.python_implementation()} {platform.python_version()}")
    _show(f"openssl           {ssl.OPENSSL_VERSION}")
    return 0


def _why(error: str | None) -> str:
    return f" ({error})" if error else ""


def _show(text: str) -> None:
    print(f"{text}\n", end="", flush=True)  # in one piece, as the demo's stream prints too
