"""`fastpos serve`, run as a user runs it: against the simulator, with signals."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fastpos import Fleet
from fastpos.cli import output
from fastpos.cli.accounts import Account
from fastpos.cli.main import main
from fastpos.cli.output import Output
from fastpos.cli.serve import serve
from fastpos.journal import Journal, read
from fastpos.simulator import Exchange
from tests.support.programs import finish, read_until, run, started
from tests.support.recording import until

pytestmark = pytest.mark.timeout(60)


class Rig:
    """A few exchanges, one for each account, and a file that names their accounts."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._exchanges: dict[str, Exchange] = {}
        self.file = folder / "accounts.toml"
        self.told = ""

    def __getitem__(self, name: str) -> Exchange:
        if name not in self._exchanges:
            self._exchanges[name] = self._stack.enter_context(Exchange())
        return self._exchanges[name]

    def write(self, **accounts: str) -> None:
        """Have these accounts in the file, each with what it says beside what they all need."""
        text = '[defaults]\nproxy = ""\nbroker = 1003\nreconnect = { initial = 0.02 }\n'
        for name, more in accounts.items():
            text += f'[accounts.{name}]\nurl = "{self[name].url}"\n{more}\n'
            if "token" not in more:
                text += 'api_key = { env = "KEY" }\n'
        self.file.write_text(text)

    def serve(self, *words: str) -> subprocess.Popen[str]:
        """Begin to serve, until all are ready, as is `told`; `KEY` is the key of all."""
        process = self._begun(*words)
        for _ in self._exchanges:
            self.told += read_until(process, "eady")
        return process

    def serve_until(self, text: str) -> subprocess.Popen[str]:
        """Begin to serve, until that is told."""
        process = self._begun()
        self.told += read_until(process, text)
        return process

    def _begun(self, *words: str) -> subprocess.Popen[str]:
        key = Exchange().api_key
        return self._stack.enter_context(started("serve", str(self.file), *words, KEY=key))

    def counts(self, name: str) -> tuple[int, int]:
        """How often an account has connected, and how often it has unsubscribed."""
        return self[name].counts["connect"], self[name].counts["unsub"]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(tmp_path, stack)


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> str:
    """Have it end in time, without complaint; give what it still printed."""
    process.send_signal(number)
    return finish(process, timeout=10)


@pytest.mark.parametrize(
    ("number", "threads"),
    [(signal.SIGTERM, ()), (signal.SIGINT, ("--callback-threads", "2", "--connect-threads", "2"))],
)
def test_it_tells_what_every_stream_does_and_ends_in_an_orderly_way(
    rig: Rig, number: int, threads: tuple[str, ...]
) -> None:
    rig.write(alice="", bob="")
    process = rig.serve("--connect-rate", "1000", *threads)
    id = rig["alice"].open_position()
    told = rig.told + read_until(process, "AccountUpdate")
    rig["alice"].tick()  # which is not told
    rig["alice"].place_order()
    told += read_until(process, "Order")
    rig["bob"].place_trigger()
    told += read_until(process, "Trigger")
    rig["bob"].drop()
    told += read_until(process, "subscribed again")
    told += end(process, number)
    at = r"  \d\d:\d\d:\d\d\.\d{3}  "
    for line in (
        rf"fastpos{at}INFO +serving 2 accounts of .*accounts\.toml",
        rf"alice{at}Ready +subscribed",
        rf"bob{at}Ready +subscribed",
        rf"alice{at}Position +CREATE  {id}  .*",
        rf"alice{at}Order +NEW .*",
        rf"bob{at}Trigger +NEW .*",
        rf"bob{at}Disconnect +the connection was lost.*",
        rf"bob{at}error +ConnectionFailed.*",
        rf"bob{at}Ready +subscribed again after .*",
        rf"alice{at}Disconnect +stopped; no further attempt",
        rf"bob{at}Disconnect +stopped; no further attempt",
        rf"fastpos{at}INFO +stopped",
    ):
        assert len(re.findall(f"^{line}$", told, re.M)) == 1, line
    assert "AdlPrice" not in told
    assert (rig.counts("alice"), rig.counts("bob")) == ((1, 1), (2, 1))
    assert rig["alice"].violations == rig["bob"].violations == []


def test_as_json_each_line_is_an_object(rig: Rig) -> None:
    rig.write(alice='number = "decimal"', bob="token = { file = 'token' }\nreconnect = false")
    (rig.file.parent / "token").write_text(rig["bob"].token)
    process = rig.serve("--log-format", "json")
    rig["alice"].open_position(volume=3)
    told = rig.told + read_until(process, '"account"')
    rig["bob"].drop()
    told += read_until(process, '"ended"')
    told += end(process)
    lines = [json.loads(line) for line in told.splitlines()]
    for line in lines:
        assert [*line][:4] == ["time", "level", "stream", "event"]
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", line["time"])

    def of(stream: str | None) -> list[tuple[str, str]]:
        return [(each["level"], each["event"]) for each in lines if each["stream"] == stream]

    assert of(None) == [("info", name) for name in ("serving", "ending", "stopped")]
    names = ("ready", "position", "account", "disconnect")
    assert of("alice") == [("info", name) for name in names]
    assert of("bob") == [("info", "ready"), ("warning", "disconnect"), ("error", "ended")]
    shown: dict[str, Any] = {each["event"]: each for each in lines}
    assert (shown["position"]["volume"], shown["position"]["change"]) == ("3", "CREATE")
    assert shown["ended"]["error"] == "ConnectionFailed"
    assert shown["disconnect"]["reason"] == "stopped"


def test_a_hangup_has_the_file_read_again(rig: Rig) -> None:
    rig.write(alice="", bob="", carol="")
    process = rig.serve()
    rig.write(alice="", bob="ping_interval = 20", dave="")
    process.send_signal(signal.SIGHUP)
    told = read_until(process, "was read again")
    assert told.rstrip().endswith("1 added, 1 removed, 1 changed")
    for _ in ("bob", "dave"):
        told += read_until(process, "Ready")
    until(lambda: rig["carol"].counts["unsub"])
    # A faulty file changes nothing.
    rig.file.write_text("[accounts.alice]\nbroker = 7\n[accounts.erin]\napi_key = 'sesame-77'")
    process.send_signal(signal.SIGHUP)
    told += read_until(process, "the accounts stay as they were")
    assert told.count("ERROR") == 4
    for fault in ("accounts.alice: a cred", "accounts.erin.broker: is", "accounts.erin.api_key: a"):
        assert told.count(fault) == 1
    assert "sesame" not in told
    rig["alice"].place_order()
    read_until(process, "Order")
    assert [rig.counts(name) for name in ("alice", "bob", "carol", "dave")] == [
        *((1, 0), (2, 1), (1, 1), (1, 0))
    ]
    end(process)
    assert [rig.counts(name)[1] for name in ("alice", "bob", "carol", "dave")] == [1, 2, 1, 1]


def test_what_has_ended_begins_anew_when_the_file_is_read_again(rig: Rig) -> None:
    secret = rig.file.parent / "token"
    secret.write_text(rig["alice"].token)
    rig.write(alice='token = { file = "token" }', bob="")
    process = rig.serve()
    secret.write_text("no-such-token-1")  # it is read at every connect
    rig["alice"].drop()
    told = read_until(process, "alice has ended")
    assert "no-such-token" not in told
    secret.write_text(rig["alice"].token)
    process.send_signal(signal.SIGHUP)
    read_until(process, "Ready")
    end(process)
    assert rig.counts("bob") == (1, 1)


def stall(rig: Rig, process: subprocess.Popen[str]) -> None:
    rig["alice"].stall()


def stall_and_remove(rig: Rig, process: subprocess.Popen[str]) -> None:
    stall(rig, process)
    rig.write(bob="")
    process.send_signal(signal.SIGHUP)
    read_until(process, "was read again")


def read_nothing(rig: Rig, process: subprocess.Popen[str]) -> None:
    """More is told than the pipe holds; the pings go on."""
    for _ in range(2000):
        rig["alice"].push({"event": "UNHEARD_OF", "text": "x" * 200})
    pings = rig["alice"].counts["ping"]
    assert rig["alice"].wait_for("ping", 10, pings + 20)


@pytest.mark.long
@pytest.mark.parametrize("trouble", [stall, stall_and_remove, read_nothing])
def test_it_ends_in_time_whatever_the_trouble(
    rig: Rig, trouble: Callable[[Rig, subprocess.Popen[str]], None]
) -> None:
    rig.write(alice="ping_interval = 0.1\npong_timeout = 100", bob="")
    process = rig.serve()
    trouble(rig, process)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0
    assert time.monotonic() - began < 10
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert rig.counts("bob") == (1, 1)


def test_who_is_told_to_end_while_accounts_begin_begins_no_more_of_them(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KEY", "key")
    rig.write(alice="", bob="", carol="")
    begun: list[str] = []
    new_stream = Account.new_stream

    def begin(account: Account, *arguments: Any) -> Any:
        begun.append(account.name)
        signal.raise_signal(signal.SIGTERM)
        return new_stream(account, *arguments)

    monkeypatch.setattr(Account, "new_stream", begin)
    assert serve(str(rig.file), False, Fleet(), None) == 0
    assert begun == ["alice"]
    assert "asked to end" in capfd.readouterr().out


def test_a_second_interrupt_ends_it_at_once(rig: Rig) -> None:
    rig.write(alice="")
    process = rig.serve()
    stall(rig, process)
    process.send_signal(signal.SIGINT)
    read_until(process, "asked to end")
    process.send_signal(signal.SIGINT)
    assert "stopped" not in finish(process, 130)


def test_output_that_nobody_reads_any_more_ends_it_quietly(rig: Rig) -> None:
    rig.write(alice="")
    process = rig.serve()
    assert process.stdout is not None
    process.stdout.close()
    rig["alice"].open_position()
    assert process.wait(15) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert rig.counts("alice") == (1, 1)


def kinds(folder: Path, name: str) -> list[str]:
    return [record.kind for record in read(folder, stream=name) if record.kind != "push"]


RUN = ["started", "connected", "subscribed", "disconnected", "stopped"]


def test_all_accounts_write_in_one_journal(rig: Rig) -> None:
    folder = rig.file.parent / "sessions"
    rig.write(alice="", bob="", carol="journal = false")
    process = rig.serve("--journal", str(folder))
    for _ in range(300):
        rig["alice"].place_order()
        rig["bob"].place_trigger()
    assert rig["alice"].json_ping(form="text") == rig["bob"].json_ping(form="text") == 1
    assert rig["alice"].wait_for("pong")
    assert rig["bob"].wait_for("pong")
    began = time.monotonic()
    end(process)  # all that came before is written
    assert time.monotonic() - began < 10
    for name in ("alice", "bob"):
        assert kinds(folder, name) == RUN
        assert sum(each.kind == "push" for each in read(folder, stream=name)) == 300
    assert {each.stream for each in read(folder)} == {"alice", "bob"}
    assert not [*folder.glob("*.jsonl")]  # the last is closed


def test_who_is_added_later_writes_in_it_too(rig: Rig) -> None:
    folder = rig.file.parent / "sessions"
    rig.write(alice="", bob="")
    process = rig.serve("--journal", str(folder))
    rig.write(alice="", bob="ping_interval = 20", dave="")
    process.send_signal(signal.SIGHUP)
    for _ in ("bob", "dave"):
        read_until(process, "Ready")
    end(process)
    assert (kinds(folder, "alice"), kinds(folder, "dave")) == (RUN, RUN)
    assert kinds(folder, "bob") == RUN + RUN


def test_a_stalled_exchange_takes_nothing_from_the_journal(rig: Rig) -> None:
    folder = rig.file.parent / "sessions"
    rig.write(alice="ping_interval = 0.1\npong_timeout = 100", bob="")
    process = rig.serve("--journal", str(folder))
    rig["bob"].place_order()
    read_until(process, "Order")
    rig["alice"].stall()
    began = time.monotonic()
    end(process)
    assert time.monotonic() - began < 10
    assert kinds(folder, "bob") == RUN
    assert sum(each.kind == "push" for each in read(folder)) == 1


def test_the_file_may_say_where_each_writes(rig: Rig) -> None:
    rig.write(alice='journal = "hers"', bob="", carol='journal = "all"')
    text = rig.file.read_text().replace("[defaults]", '[defaults]\njournal = "all"')
    rig.file.write_text(text)
    folder = rig.file.parent
    process = rig.serve("--journal", str(folder / "all"))  # the same folder, named twice
    end(process)
    assert {each.stream for each in read(folder / "hers")} == {"alice"}
    assert {each.stream for each in read(folder / "all")} == {"bob", "carol"}


def test_a_journal_that_another_writes_is_told(rig: Rig) -> None:
    folder = rig.file.parent / "sessions"
    rig.write(alice="")
    with Journal(folder):
        done = run("serve", str(rig.file), "--journal", str(folder), KEY=Exchange().api_key)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"fastpos: another journal writes in {folder}")
        assert rig.counts("alice") == (0, 0)
        rig.write(alice='journal = "sessions"', bob="")
        process = rig.serve_until("Ready")
        assert re.search("^alice .* can't be served: another journal writes in", rig.told, re.M)
    process.send_signal(signal.SIGHUP)  # now it is free
    assert re.search("^alice .* subscribed$", read_until(process, "Ready"), re.M)
    end(process)
    assert (rig.counts("alice"), rig.counts("bob")) == ((1, 1), (1, 1))


def test_check_says_all_that_is_wrong_and_opens_nothing(rig: Rig) -> None:
    rig.write(alice="", bob="")
    done = run("serve", str(rig.file), "--check", KEY="k")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{rig.file}: 2 accounts, nothing is wrong\n"
    rig.write(alice="pong = 1", bob="pong_timeout = -1")
    for words in (("--check",), ()):
        done = run("serve", str(rig.file), *words, KEY="k")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            f"{rig.file}: accounts.alice.pong: there is no such key",
            f"{rig.file}: accounts.bob.pong_timeout: must be more than 0 and at most 86400 "
            "seconds, not -1",
        ]
    assert rig.counts("alice") == rig.counts("bob") == (0, 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "FILE"),
        ("x --log-format xml", "xml"),
        ("x --connect-rate 0", "connect_rate must be above 0"),
        ("x --connect-rate nan", "connect_rate must be above 0"),
        ("x --connect-threads 0", "connect_threads must be from 1"),
        ("x --callback-threads -1", "callback_threads must be from 0"),
        ("x --callback-threads 1.5", "--callback-threads: invalid int value: '1.5'"),
        ("x --callback-threads two --check", "--callback-threads: invalid int value: 'two'"),
    ],
)
def test_wrong_usage_is_refused(words: str, said: str) -> None:
    done = run("serve", *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_the_fleet_is_what_the_command_line_says(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def look(path: str, as_json: bool, fleet: Fleet, *more: object) -> int:
        with fleet:
            names.extend(thread.name for thread in threading.enumerate())
        return 0

    monkeypatch.setattr("fastpos.cli.serve.serve", look)
    assert main(["serve", "accounts.toml", "--callback-threads", "3"]) == 0
    assert sum(name.startswith("fastpos-callbacks-") for name in names) == 3


@pytest.mark.parametrize("trouble", ["nobody reads", "a full disk", "told not to wait"])
def test_lines_that_can_not_be_written_are_counted(
    monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as writer:
        monkeypatch.setattr(sys, "stdout", writer)
        monkeypatch.setattr(output, "MAX_WAITING", 1_000_000)
        written = Output(True, pytest.fail)
        if trouble == "nobody reads":
            monkeypatch.setattr(output, "MAX_WAITING", 100)
        elif trouble == "told not to wait":
            os.set_blocking(writing, False)
        else:
            room, tried, write = threading.Event(), threading.Event(), os.write

            def refuse(descriptor: int, data: memoryview) -> int:
                if descriptor == writing and not room.is_set():
                    tried.set()
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(descriptor, data)

            monkeypatch.setattr(os, "write", refuse)
        for number in range(3000):
            written.note("info", "number", "x" * 500, fields={"number": number})
        if trouble == "a full disk":
            assert tried.wait(5)
            room.set()
            written.note("info", "number", "x", fields={"number": 3000})
        numbers, left_out = [], 0
        while len(numbers) + left_out < 3000 + (trouble == "a full disk"):
            line = json.loads(reader.readline())
            if line["event"] == "number":
                numbers.append(line["number"])
            else:
                assert line["event"] == "lines_left_out"
                left_out += line["lines"]
        assert (left_out > 0) == (trouble != "told not to wait")
        assert numbers == sorted(numbers)
        written.close(5)
