"""The rights that docs/workers.md gives a user of Redis are enough for all that is done there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("redis")

from fastpos.redis import RemoteStream
from fastpos.simulator import Exchange
from tests.support.programs import ROOT, read_until, run, started
from tests.support.recording import until
from tests.support.redis_server import RedisServer

PAGE = (ROOT / "docs" / "workers.md").read_text()


@pytest.fixture
def url() -> Iterator[str]:
    """Of a server where nobody else may do anything."""
    line = re.search(r"^ACL SETUSER (.*)$", PAGE, re.M)
    assert line is not None
    with RedisServer() as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", *line[1].split())
            client.execute_command("ACL", "SETUSER", "default", "off")
        yield server.url.replace("redis://", "redis://fastpos:password@")


def test_a_user_with_the_rights_of_the_page_can_do_all(url: str, tmp_path: Path) -> None:
    with Exchange() as exchange:
        file = tmp_path / "accounts.toml"
        file.write_text(
            f'[defaults]\nurl = "{exchange.url}"\nproxy = ""\nbroker = {exchange.broker}\n'
            '[accounts.alice]\napi_key = { env = "KEY" }\n'
        )
        there = {"FASTPOS_REDIS_URL": url, "KEY": exchange.api_key}
        with started("serve", str(file), **there) as worker:
            read_until(worker, "eady")
            orders: list[object] = []
            with RemoteStream(url, "alice", group="risk", on_order=orders.append) as stream:
                assert stream.wait_ready(20)
                exchange.place_order()
                until(lambda: orders, 20)
                shown = run("status", **there).stdout
            worker.terminate()
            assert worker.wait(20) == 0
    assert "1 workers, 256 of 256 shards owned, 1 accounts, 0 without an owner" in shown
    assert "risk (0, " in shown
