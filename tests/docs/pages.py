"""Runs the blocks of a page, in order, in a folder of their own, against the simulator.

What a reader would do: each Python block is a program, each sh block a script, each `$` line of a
console block a command; what a script exports and where it changes to holds for those below it.
The URLs of the exchange and of Redis, and YOUR-API-KEY and its like, are the simulator's; ports are
free ones.

A program is done when it ends. One that subscribes and goes on gets a Ctrl-C when the simulator has
played a day to it, it has read all of that, and what it is to print has come. Anything else that
goes on needs a line `^C` in its output, or stays in the background until the page ends. A traceback
of anything but the Ctrl-C is a failure, and so is a wrong word to the exchange.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from math import inf
from pathlib import Path

from fastpos.simulator import Exchange
from tests.docs.blocks import Block
from tests.docs.shown import pattern_of
from tests.support.programs import ROOT
from tests.support.redis_server import RedisServer
from tests.support.rig import kept_port

__all__ = ["PageFailed", "run_page"]

PATIENCE = 30.0
"""Seconds for what is to come, of each program."""
GRACE = 0.3
"""Seconds for one that may end by itself, where all it is to print has come."""
_PORT = re.compile(
    r"(?:(?:127\.0\.0\.1|localhost|0\.0\.0\.0):|--port[ =]|port=|--metrics[ =])(\d{4,5})"
)
_ASKED = re.compile(r"http://127\.0\.0\.1:(\d+)")
_PROMPTS = re.compile(r"^(?:(?:>>>|\.\.\.) )+", re.M)
# The library's word about a machine that is slow, which no page shows.
_SLOW = re.compile(r"^[^\n]*: on_\w+ callback \S+ (?:took|has been) [^\n]*\n", re.M)
_REDIS = "redis://127.0.0.1:6379/0"
_FORGOTTEN = re.compile(r"Exception ignored in.*\n(.*\n)*?KeyboardInterrupt")
_INTERRUPTED = (0, -signal.SIGINT, 128 + signal.SIGINT)


class PageFailed(AssertionError):
    """A block did not do what the page says."""


class Program:
    """A process with all that it prints; a thread reads it, and `_changed` guards the text."""

    def __init__(self, what: str, words: list[str], where: Path, environment: dict[str, str]):
        self.what = what
        self.may_fail = False  # at a Ctrl-C, as some programs do
        self._changed = threading.Condition()
        self._text = ""
        self._matched = 0  # up to where the text was compared
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=where,
            env=environment,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._text += _SLOW.sub("", _PROMPTS.sub("", line))
                self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return self._text

    @property
    def has_ended(self) -> bool:
        """Whether it has, and all of its output is here."""
        return self.process.poll() is not None and not self._reader.is_alive()

    def shows(self, shown: str) -> bool:
        """Whether this is what came next; it is passed over then."""
        with self._changed:
            found = pattern_of(shown).match(self._text, self._matched)
            if found is not None:
                self._matched = found.end()
            return found is not None

    def rest(self) -> str:
        """What came and was not compared yet."""
        with self._changed:
            return self._text[self._matched :]

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def await_end(self, timeout: float) -> None:
        """Wait until it has ended, at most so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
            self._reader.join(timeout)

    def interrupt(self) -> int:
        """Send a Ctrl-C to it and what it has started; give the exit status."""
        assert self.process.stdin is not None
        before, deadline, times = len(self.text), time.monotonic() + PATIENCE, 0
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                raise PageFailed(f"{self.what}: a Ctrl-C does not end it\n{self.text}")
            # Again, as a person would, where Python shows and forgets the first: it came while a
            # `__del__` was called.
            if times == 0 or (times == 1 and _FORGOTTEN.search(self.text, before)):
                times += 1
                with suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGINT)
                with suppress(BrokenPipeError):  # a Python prompt ends at the end of what is typed
                    self.process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
        self._reader.join(PATIENCE)
        return self.process.returncode

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Page:
    """What the blocks of a page share: the folder, the environment, the simulator.

    Args:
        text: of all blocks.
        where: the folder.
        exchange: which is running.
        environment: of all processes, above that of this one.
        is_long: whether what takes long is run too.
    """

    def __init__(
        self,
        text: str,
        where: Path,
        exchange: Exchange,
        environment: dict[str, str],
        is_long: bool,
        stack: ExitStack,
    ):
        self._where = self._now = where
        self._exchange = exchange
        self._is_long = is_long
        self._background: list[Program] = []
        self._stack = stack
        self._pings = itertools.count(1)  # none twice, or the simulator takes offence
        self._python = ""  # the last Python program, for what continues it
        kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTPOS_")}
        self._environment = {
            **kept,
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "80",
            **environment,
        }
        self._places = {
            "wss://futuresws.exchange1.com/position_order/ws": exchange.url,
            "https://futuresopenapi.exchange1.com": exchange.rest_url,
            "YOUR-API-KEY": exchange.api_key,
            "YOUR-API-SECRET": exchange.api_secret,
            "YOUR-TOKEN": exchange.token,
        }
        if _REDIS in text:
            self._places[_REDIS] = stack.enter_context(RedisServer()).url
        self._ports: set[str] = set()  # of what runs on the page
        for port in set(_PORT.findall(text.replace(_REDIS, ""))):
            self._places[port] = str(stack.enter_context(kept_port()))
            self._ports.add(self._places[port])
        self._any_place = re.compile("|".join(map(re.escape, self._places)))

    def here(self, text: str) -> str:
        """Give a text of the page with this machine's places in it."""
        return self._any_place.sub(lambda found: self._places[found[0]], text)

    def run(self, block: Block, shown: str | None) -> None:
        """Run a block, or write it; `shown` is what it is to print, None if the page is silent."""
        says = block.says
        if "prints" in says:
            shown = f"…\n{says['prints']}\n…\n"
        if "file" in says:
            path = self._now / says["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.here(block.text), encoding="utf-8")
        elif "output of" in says:
            self._await(self._of(says["output of"], block), block, self.here(block.text))
        elif not block.is_run or ("long" in says and not self._is_long):
            pass
        elif block.language == "pycon":
            self._talk(block)
        elif "to" in says:
            self._interrupt(self._of(says["to"], block), block)
        elif block.language == "console":
            for command, printed, is_interrupted in _commands(self.here(block.text)):
                self._one(block, self._shell(command), printed, is_interrupted)
        elif block.language == "sh":
            self._one(block, self._shell(self.here(block.text)), shown)
        else:
            self._python = f"{self._python}\n\n{block.text}" if "continues" in says else block.text
            script = self._now / "program.py"
            script.write_text(self.here(self._python), encoding="utf-8")
            self._one(block, ["python", str(script)], shown)

    def end(self) -> None:
        """End what is in the background, as a Ctrl-C does."""
        for program in reversed(self._background):
            if not program.has_ended:
                well = program.interrupt() in _INTERRUPTED or program.may_fail
                _check(well, program, "it failed at a Ctrl-C")

    def _shell(self, text: str) -> list[str]:
        # What it exports, and where it changes to, is left where the next one begins.
        left = self._where.parent / "environment"
        return ["bash", "-c", f'set -e\n{text}\nenv -0 >"{left}"']

    def _one(
        self, block: Block, words: list[str], shown: str | None, is_interrupted: bool = False
    ) -> None:
        if "before" in block.says:
            self._act(block.says["before"])
        for port in self._ports.intersection(_ASKED.findall(" ".join(words))):
            _await_listener(int(port))
        # What has just ended may still seem to be there, so only connections that come count.
        before = len(self._exchange.connections)
        streams = int(block.says.get("streams", 1))
        program = Program(str(block), words, self._now, self._environment)
        self._stack.callback(program.kill)
        deadline = time.monotonic() + (20 * PATIENCE if "long" in block.says else PATIENCE)
        shown = shown and self.here(shown)
        has_shown, has_lived, is_over = not shown, False, False
        pongs, next_day = inf, 0.0
        while not is_over and not program.has_ended:
            is_there = self._exchange.wait_for(lambda: self._subscribers(before) >= streams, 0.05)
            if is_there and time.monotonic() > next_day and (pongs == inf or not has_shown):
                pongs = self._live(block)
                # Another one only where this one was not seen, as it came too soon.
                next_day = time.monotonic() + (0.5 if block.says.get("streams") == "0" else 5.0)
            has_lived = self._exchange.counts["pong"] >= pongs
            has_shown = has_shown or program.shows(shown or "")
            is_started = bool(shown) and (is_there or is_interrupted or "background" in block.says)
            is_over = has_shown and (has_lived or is_started)
            if time.monotonic() > deadline:
                _check(False, program, "it went on and on", None if has_shown else shown)
        if "background" in block.says:
            _check(is_over, program, "it has ended", shown)
            program.may_fail = "fails" in block.says
            self._background.append(program)
            return
        if is_over and not is_interrupted:
            program.await_end(GRACE)
        if is_over and not program.has_ended:
            before = program.text
            status = program.interrupt()
            _check(status in _INTERRUPTED, program, f"it ended with {status} at a Ctrl-C")
        else:
            status, before = program.process.returncode, program.text
            _check(not is_interrupted, program, "it has ended before the Ctrl-C")
            _check(bool(status) == ("fails" in block.says), program, f"it ended with {status}")
            if shown is not None:
                has_shown = (has_shown and shown != "") or program.shows(shown)
                whole = shown.rstrip().endswith("…") or not program.rest()
                _check(has_shown and whole, program, "it printed something else", shown)
        _check("Traceback" not in before or "fails" in block.says, program, "it has a traceback")
        self._take_over(self._where.parent / "environment")

    def _take_over(self, left: Path) -> None:
        if left.exists():
            said = left.read_text().rstrip("\0").split("\0")
            self._environment = dict(line.split("=", 1) for line in said)
            self._now = Path(self._environment["PWD"])
            left.unlink()

    def _talk(self, block: Block) -> None:
        """Type the lines of a Python prompt, and compare what it answers."""
        program = self._of(block.says.get("to", ""), block)
        typed, shown = "", ""
        for line in [*self.here(block.text).splitlines(), ">>> "]:
            if line.startswith((">>> ", "... ", ">>>", "...")):
                if shown:
                    program.type(typed)
                    self._await(program, block, shown)
                    typed = shown = ""
                typed += line[4:] + "\n"
            else:
                shown += line + "\n"
        program.type(typed)

    def _interrupt(self, program: Program, block: Block) -> None:
        """Do what a console's `^C` is to what runs in the background."""
        status = program.interrupt()
        _check(status in _INTERRUPTED, program, f"it ended with {status} at a Ctrl-C")
        shown = self.here(block.text).partition("^C\n")[2]
        matches = program.shows(shown) and not program.rest()
        _check(matches, program, "it printed something else", shown)
        self._background.remove(program)

    def _await(self, program: Program, block: Block, shown: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not program.shows(shown):
            if time.monotonic() > deadline or program.has_ended:
                _check(program.shows(shown), program, f"{block} did not come", shown)
                return
            time.sleep(0.02)

    def _of(self, name: str, block: Block) -> Program:
        for program in reversed(self._background):
            if name in " ".join(map(str, program.process.args)):  # type: ignore[arg-type]
                return program
        raise PageFailed(f"{block}: nothing with {name!r} runs in the background")

    def _subscribers(self, after: int) -> int:
        """How many are subscribed, of the connections after so many."""
        connections = self._exchange.connections[after:]
        return sum(each.alive and each.subscribed for each in connections)

    def _live(self, block: Block) -> int:
        """Have things happen; all are read when the exchange has counted so many pongs."""
        exchange = self._exchange
        if "meanwhile" in block.says:
            self._act(block.says["meanwhile"])
        else:
            play_day(exchange)
        pongs = exchange.counts["pong"]
        return pongs + exchange.json_ping(next(self._pings), form="text")

    def _act(self, statement: str) -> None:
        exec(statement, {"exchange": self._exchange})


def _await_listener(port: int) -> None:
    """Wait for a server: a page that starts one and asks it has subscribed before it listens."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # after which who asks says what is wrong
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)


def play_day(exchange: Exchange) -> None:
    """A day: what comes of it is in each callback that has a channel."""
    position = exchange.open_position(side="BUY", volume=3)
    exchange.update_position(position, volume=2)
    order = exchange.place_order(volume=10, price=61001)
    exchange.fill_order(order, volume=4)
    exchange.fill_order(order)
    exchange.cancel_order(exchange.place_order())
    exchange.cancel_trigger(exchange.place_trigger())
    exchange.tick()
    exchange.close_position(position)


def _commands(text: str) -> list[tuple[str, str, bool]]:
    """The commands of a console: each with what it prints, and whether a Ctrl-C ends it."""
    found: list[tuple[str, str, bool]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], "", False))
        elif line.startswith("> ") and found:
            command, shown, _ = found[-1]
            found[-1] = (f"{command}\n{line[2:]}", shown, False)
        elif found:
            command, shown, _ = found[-1]
            found[-1] = (
                (command, shown, True) if line == "^C" else (command, f"{shown}{line}\n", False)
            )
    return found


def _check(well: object, program: Program, what: str, shown: str | None = None) -> None:
    if not well:
        wanted = f"\n--- the page shows\n{shown}" if shown else ""
        raise PageFailed(f"{program.what}: {what}{wanted}\n--- not compared yet\n{program.rest()}")


def _of_this_environment() -> dict[str, str]:
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "https_proxy": "http://127.0.0.1:9",  # nobody reaches a real exchange
        "no_proxy": "127.0.0.1,localhost",
    }


def _of_a_newcomer() -> dict[str, str]:
    """The environment before there is a virtual one."""
    python = Path(sys.base_prefix) / "bin"
    mine = str(Path(sys.executable).parent)
    rest = [each for each in os.environ["PATH"].split(os.pathsep) if each != mine]
    return {"PATH": os.pathsep.join([str(python), *rest]), "PYTHONPATH": ""}


def run_page(blocks: list[Block], where: Path, *, is_long: bool = False) -> None:
    """Run all blocks of a page in a folder of `where`.

    A page that installs something is begun in a fresh checkout, where the long tests are run.

    Raises:
        PageFailed: one did not do what the page says.
    """
    if is_long and any("long" in block.says for block in blocks):
        environment = _of_a_newcomer()
        subprocess.run(["git", "clone", "-q", str(ROOT), str(where / "page")], check=True)
    else:
        environment = _of_this_environment()
        (where / "page").mkdir()
    with ExitStack() as stack:
        exchange = stack.enter_context(Exchange())
        text = "\n".join(block.text for block in blocks)
        page = Page(text, where / "page", exchange, environment, is_long, stack)
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            if "output" not in block.says:
                page.run(block, after.text if after and "output" in after.says else None)
        page.end()
        if exchange.violations:
            raise PageFailed(f"the exchange heard what is not allowed: {exchange.violations}")
