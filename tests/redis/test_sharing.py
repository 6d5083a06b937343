"""`fastpos serve --redis`: three processes share 30 accounts, and things happen to them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.programs import run
from tests.support.redis_server import RedisServer
from tests.support.rig import free_port
from tests.workers import WITHIN, Trial

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there are no such signals here"),
    pytest.mark.xdist_group("sharing"),
]

ACCOUNTS = 30
# Beside all other tests (tests/workers.py wants 2 s): leases would have lasted for 3.5 s at least.
WITHIN_TERM = 3.0


@pytest.fixture(scope="module")
def shared() -> Iterator[Trial]:
    with ExitStack() as stack:
        yield Trial(stack, ACCOUNTS, rate=100.0)


@pytest.fixture
def trial(shared: Trial) -> Iterator[Trial]:
    """One whose three workers have about their parts each."""
    while len(shared.workers.processes) < 3:
        shared.add()
    shared.settle()
    yield shared
    assert shared.check() == []


@pytest.mark.parametrize(
    "kind",
    [
        "kill",
        "term",
        "stop",
        "restart",
        *(
            pytest.param(kind, marks=pytest.mark.long)
            for kind in ("cut", "cut all", "empty", "blip")
        ),
    ],
)
def test_whatever_happens_every_account_is_owned_again_soon(trial: Trial, kind: str) -> None:
    assert trial.round(kind) < (WITHIN_TERM if kind == "term" else WITHIN)


def test_an_owner_that_is_fenced_by_one_without_the_lease_begins_anew(trial: Trial) -> None:
    events = "fastpos:{account-7}:events"

    def last() -> tuple[int, str]:
        ((id, values),) = client.xrevrange(events, count=1)
        return int(id.partition("-")[0]), values["kind"]

    with trial.redis.client() as client:
        trial.workers.wait(lambda: client.exists(events), 10)
        epoch, _ = last()
        client.xadd(events, {"kind": "started", "record": "{}"}, f"{epoch + 1}-0")
        client.set("fastpos:{account-7}:epoch", epoch + 1)
        trial.workers.wait(lambda: last()[0] > epoch + 1 and last()[1] == "push", 10)
    trial.workers.wait(trial.workers.all_owned, 10)


def test_status_tells_who_has_what(trial: Trial) -> None:
    url = trial.redis.url
    done = run("status", "--redis", url, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    status = json.loads(done.stdout)
    parts = sorted(trial.workers.parts().values())
    assert sorted(each["accounts"] for each in status["workers"]) == parts
    assert sum(each["shards"] for each in status["workers"]) == status["shards"]["owned"] == 256
    names = {each["name"] for each in status["workers"]}
    assert sorted(each["name"] for each in status["accounts"]) == sorted(trial.workers.accounts)
    for each in status["accounts"]:
        assert each["owner"] in names
        assert each["owner"] == status["shards"]["owners"][str(each["shard"])]["owner"]
        assert each["records"] > 0
        assert each["last_age_s"] < 60
    with trial.redis.client() as client:
        client.xgroup_create("fastpos:{account-7}:events", "risk", "$")
    done = run("status", FASTPOS_REDIS_URL=url)
    assert "3 workers, 256 of 256 shards owned, 30 accounts, 0 without an owner" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("account-7 "))
    assert "risk (" in line
    assert len(done.stdout.splitlines()) == 1 + 2 + 3 + 2 + 30


def test_redis_has_no_secrets(trial: Trial) -> None:
    with trial.redis.client() as client:
        for key in client.scan_iter():
            shown = {
                "stream": client.xrange,
                "hash": client.hgetall,
                "string": client.get,
                "zset": lambda key: client.zrange(key, 0, -1),
            }[client.type(key)](key)
            assert "@worker" not in f"{key} {shown}", key


def test_an_account_that_is_added_is_served_by_one_and_what_is_removed_by_none(
    trial: Trial,
) -> None:
    workers = trial.workers
    text = workers.file.read_text()
    account = '[accounts.account-3]\napi_key = { env = "KEY_3" }\n'
    new = f'[accounts.new]\napi_key = {{ env = "KEY_{ACCOUNTS}" }}\n'
    workers.file.write_text(text.replace(account, "") + new)
    wanted = {"new", *workers.accounts} - {"account-3"}
    try:
        for process in workers.processes.values():
            process.send_signal(signal.SIGHUP)
        workers.wait(lambda: set(trial.crowd.owners()) == wanted, 10)
        workers.wait(lambda: workers.log_has("1 added, 1 removed"), 10)
        assert sum(workers.parts().values()) == ACCOUNTS
    finally:
        workers.file.write_text(text)
        for process in workers.processes.values():
            process.send_signal(signal.SIGHUP)
    workers.wait(lambda: set(trial.crowd.owners()) == set(workers.accounts), 10)
    workers.wait(lambda: workers.log_has("1 added, 1 removed", 2), 10)


def test_who_is_told_to_end_before_there_is_a_redis_ends(trial: Trial) -> None:
    workers = trial.workers
    workers.add("lonely", f"redis://127.0.0.1:{free_port()}/0")
    workers.wait(lambda: "can't be used" in workers.log("lonely").read_text(), 20)
    assert workers.terminate("lonely") == 0
    assert workers.log("lonely").read_text().count("ERROR") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--redis", "redis+sentinel://h"), "is not supported"),
        (("--redis", "http://user:secret@h"), "must begin with redis://"),
        (("--redis", "redis://h", "--redis-prefix", "{"), "prefix"),
    ],
)
def test_what_can_not_be_is_refused_in_clear_words(
    trial: Trial, words: tuple[str, ...], told: str
) -> None:
    done = run("serve", str(trial.workers.file), *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_status_says_when_there_is_nobody() -> None:
    done = run("status", "--redis", f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert done.returncode == 1
    assert "ConnectionError" in done.stderr
    assert "secret" not in done.stderr
    assert run("status").returncode == 2
    with RedisServer() as redis:
        done = run("status", "--redis", redis.url)
    assert "0 workers, 0 of 256 shards owned, 0 accounts" in done.stdout


def test_status_shows_what_others_have_written_as_far_as_it_can() -> None:
    with RedisServer() as redis:
        with redis.client() as client:
            client.xadd("fastpos:{a\x1b[31m\nb}:events", {"kind": "push", "record": "{}"})
            client.xadd("fastpos:{bob}:events", {"something": "else"})
            client.set("fastpos:{bob}:owner", b"\xff \xff")
            client.set("fastpos:{carol}:events", "no stream")
            client.hset("fastpos:{workers}:leases", "3", "no lease")
        done = run("status", "--redis", redis.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a\\x1b[31m\\nb" in done.stdout
    assert "\x1b" not in done.stdout
    assert "2 accounts" in done.stdout
