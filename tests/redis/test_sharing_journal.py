"""`fastpos serve --redis --journal`: what can't be sent is sent later, also by the next process."""

from __future__ import annotations

import json
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastpos.journal import read
from fastpos.simulator import Exchange
from tests.support.programs import read_until, started
from tests.support.recording import KEY, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.timeout(60)


def numbers(redis: RedisServer, name: str) -> list[int]:
    """What is published of the pushes."""
    with redis.client() as client:
        found = client.xrange(f"fastpos:{{{name}}}:events")
    records = [json.loads(values["record"]) for _, values in found]
    return [each["json"]["n"] for each in records if "n" in each.get("json", {})]


def written(folder: Path) -> int:
    """How many pushes are in a journal."""
    return sum(b'"n":' in record.text for record in read(folder) if record.kind == "push")


def test_what_a_killed_worker_could_not_send_is_sent_by_the_next(tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(persistent=True))  # which is killed
        exchanges = {name: stack.enter_context(Exchange(api_key=KEY)) for name in ("alice", "bob")}
        text = '[defaults]\nproxy = ""\nbroker = 1003\n'
        for name, exchange in exchanges.items():
            text += f'[accounts.{name}]\nurl = "{exchange.url}"\napi_key = {{ env = "KEY" }}\n'
        file, shared, own = tmp_path / "accounts.toml", tmp_path / "all", tmp_path / "own"
        file.write_text(text + 'journal = "own"\n')  # bob's
        words = ("serve", str(file), "--redis", redis.url, "--journal", str(shared))

        def push(*those: int) -> None:
            for exchange in exchanges.values():
                for number in those:
                    exchange.push({"channel": "numbers", "n": number})

        def serving() -> subprocess.Popen[str]:
            process = stack.enter_context(started(*words, KEY=KEY))
            for _ in exchanges:
                read_until(process, "eady")
            return process

        process = serving()
        push(*range(10))
        until(lambda: all(numbers(redis, name) == [*range(10)] for name in exchanges))
        redis.kill()
        push(*range(10, 20))
        until(lambda: written(shared) == written(own) == 20)
        process.kill()
        process.wait()
        redis.start()
        process = serving()
        push(20)
        until(lambda: all(numbers(redis, name)[-1:] == [20] for name in exchanges))
        for name in exchanges:
            assert numbers(redis, name) == [*range(21)]
