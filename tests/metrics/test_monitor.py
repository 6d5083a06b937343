"""`fastpos serve --metrics`: what it answers over HTTP, and to whom it does not listen."""

from __future__ import annotations

import errno
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import urlsplit

import pytest

pytest.importorskip("prometheus_client")

from fastpos import Fleet, PositionStream
from fastpos.cli import monitor
from fastpos.cli.main import main
from fastpos.cli.monitor import MOST, Monitor
from fastpos.journal import Journal
from fastpos.simulator import Exchange
from tests.support.bench import Bench
from tests.support.crowd import Crowd
from tests.support.programs import finish, read_until, run, started
from tests.support.recording import SOON, until
from tests.support.redis_server import RedisServer
from tests.support.rig import free_port
from tests.support.scraped import Scrape, ask
from tests.support.workers import Workers

pytestmark = pytest.mark.timeout(60)


def status(url: str, path: str, method: str = "GET") -> int:
    return ask(url, path, method)[0]


# --- the server alone -----------------------------------------------------------------------------


class Monitored:
    """A fleet with a stream, and a monitor of it."""

    def __init__(self, stream: PositionStream, stack: ExitStack) -> None:
        self.unready: str | None = "not yet"
        self.fleet = stack.enter_context(Fleet([stream]))
        assert self.fleet.wait_ready(SOON)
        self.monitor = Monitor("127.0.0.1", 0)
        stack.callback(self.monitor.close)
        self.url = self.monitor.url
        self.monitor.start(self.fleet, False, lambda: self.unready)

    @property
    def place(self) -> tuple[str, int]:
        where = urlsplit(self.url)
        return where.hostname or "", where.port or 0

    def hang(self) -> socket.socket:
        """A client that begins a request and does not end it."""
        client = socket.create_connection(self.place, SOON)
        client.sendall(b"GET /metr")
        return client


@pytest.fixture
def monitored(bench: Bench) -> Iterator[Monitored]:
    with ExitStack() as stack:
        yield Monitored(bench.new(), stack)


def test_it_answers_with_metrics_health_and_readiness(monitored: Monitored) -> None:
    code, headers, body = ask(monitored.url, "/metrics")
    assert code == 200
    assert headers["content-type"].startswith("text/plain; version=")
    scrape = Scrape(body.decode())
    assert scrape("fastpos_up") == 1
    assert (scrape("process_resident_memory_bytes") or 1) > 0
    assert ask(monitored.url, "/healthz")[::2] == (200, b"ok\n")
    assert ask(monitored.url, "/readyz")[::2] == (503, b"not yet\n")
    monitored.unready = None
    assert ask(monitored.url, "/readyz")[::2] == (200, b"ok\n")
    monitored.fleet.stop()
    assert ask(monitored.url, "/healthz")[::2] == (503, b"the fleet does not run\n")


def test_head_is_the_same_without_a_body(monitored: Monitored) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/nowhere"):
        code, headers, body = ask(monitored.url, path, "HEAD")
        assert (code, body) == (status(monitored.url, path), b"")
        assert int(headers["content-length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/nowhere"])
def test_other_methods_are_refused(monitored: Monitored, method: str, path: str) -> None:
    code, headers, _ = ask(monitored.url, path, method)
    assert (code, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/healthz/x", "/../etc/passwd"])
def test_nothing_else_is_there(monitored: Monitored, path: str) -> None:
    assert status(monitored.url, path) == 404


def test_what_prometheus_asks_for_is_compressed_and_openmetrics(monitored: Monitored) -> None:
    wants = [("Accept", "application/openmetrics-text; version=1.0.0"), ("Accept-Encoding", "gzip")]
    code, headers, body = ask(monitored.url, "/metrics", headers=wants)
    assert (code, headers["content-encoding"]) == (200, "gzip")
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body[:2] == b"\x1f\x8b"


def test_clients_that_hang_are_no_others_trouble(monitored: Monitored) -> None:
    hanging = [monitored.hang() for _ in range(3 * MOST)]
    for _ in range(5):
        assert status(monitored.url, "/metrics") == status(monitored.url, "/healthz") == 200
    assert threading.active_count() < 2 * MOST + 20
    for client in hanging:
        client.close()


def test_a_request_that_is_being_answered_is_not_cut_off_for_others(
    monitored: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "MOST", 3)
    asked, may_answer, found = threading.Semaphore(0), threading.Event(), list[int]()

    def slow(_: Fleet) -> str | None:
        asked.release()
        assert may_answer.wait(SOON)
        return None

    monkeypatch.setattr(monitor, "_unhealthy", slow)
    clients = [
        threading.Thread(target=lambda: found.append(status(monitored.url, "/healthz")))
        for _ in range(3)
    ]
    for client in clients:
        client.start()
        assert asked.acquire(timeout=SOON)
    for _ in range(5):  # one too many
        with pytest.raises(ConnectionError):
            status(monitored.url, "/readyz")
    may_answer.set()
    for client in clients:
        client.join()
    assert found == [200] * 3


def test_where_no_descriptor_is_free_it_does_not_turn_in_circles(
    monitored: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []

    def accept(_: object) -> None:
        tried.append(time.monotonic())
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(TCPServer, "get_request", accept)
        with socket.create_connection(monitored.place, SOON):
            until(lambda: len(tried) > 2)
    assert tried[2] - tried[0] >= monitor.POLL
    assert status(monitored.url, "/healthz") == 200


def test_a_client_that_says_nothing_is_cut_off(
    monitored: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor._Handler, "timeout", 0.1)
    client = monitored.hang()
    client.settimeout(SOON)
    assert client.recv(100) == b""
    client.close()


def test_nonsense_is_answered_or_cut_off(
    monitored: Monitored, capsys: pytest.CaptureFixture[str]
) -> None:
    where = urlsplit(monitored.url)
    for nonsense in (
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\xff\n",
        b"GET " + b"x" * 70000 + b"\n",
    ):
        with socket.create_connection((where.hostname, where.port), SOON) as client:
            client.sendall(nonsense)
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert status(monitored.url, "/healthz") == 200
    assert capsys.readouterr().err == ""


def test_a_loop_that_is_held_up_is_not_healthy(
    bench: Bench, monitored: Monitored, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(monitored.url, "/healthz") == 200
    monkeypatch.setattr(monitor, "STUCK", 0.7)
    [stream] = monitored.fleet.streams.values()
    stream.on_order(bench.gate)
    bench.push(1)
    assert bench.entered.wait(SOON)
    until(lambda: status(monitored.url, "/healthz") == 503)
    assert b"has not turned for" in ask(monitored.url, "/healthz")[2]
    assert status(monitored.url, "/metrics") == 200
    bench.open.set()
    until(lambda: status(monitored.url, "/healthz") == 200)


def test_a_mistake_of_ours_is_an_error_500_and_in_the_log(
    monitored: Monitored, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> str | None:
        raise ZeroDivisionError

    monkeypatch.setattr(monitor, "_unhealthy", lambda _: fail())
    assert ask(monitored.url, "/healthz")[::2] == (500, b"see the log\n")
    assert "ZeroDivisionError" in caplog.text


def test_it_listens_on_other_addresses_if_told() -> None:
    try:
        probe = Monitor("::1", 0)
    except OSError:
        pytest.skip("there is no IPv6 here")
    assert probe.url.startswith("http://[::1]:")
    probe.close()
    for host in ("0.0.0.0", "localhost"):
        probe = Monitor(host, 0)
        probe.close()
    with pytest.raises(OSError, match=r"--metrics can't listen on 192\.0\.2\.1:0: "):
        Monitor("192.0.2.1", 0)


# --- the option -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["x", ":9", "70000", "-1", "::1:9464", "127.0.0.1:", "a:b", "[]:1"]
)
def test_a_place_that_is_none_is_wrong_usage(
    place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(["serve", "accounts.toml", f"--metrics={place}"])
    assert error.value.code == 2
    assert "--metrics" in capsys.readouterr().err


class Rig:
    """A file of accounts and what serves it."""

    def __init__(self, folder: Path, stack: ExitStack, exchange: Exchange) -> None:
        self._stack, self._exchange = stack, exchange
        self.file = folder / "accounts.toml"
        self.url = ""

    def write(self, **accounts: str) -> None:
        """Have these accounts in the file, each with what it says beside what they all need."""
        text = '[defaults]\nproxy = ""\nbroker = 1003\nreconnect = { initial = 0.02 }\n'
        for name, more in accounts.items():
            url = "" if "url" in more else f'url = "{self._exchange.url}"\n'
            text += f'[accounts.{name}]\n{url}{more}\napi_key = {{ env = "KEY" }}\n'
        self.file.write_text(text)

    def serve(self, *words: str, first: str = "metrics and health at") -> subprocess.Popen[str]:
        """Begin to serve; returns when the monitor answers."""
        process = self._stack.enter_context(
            started("serve", str(self.file), "--metrics", "0", *words, KEY=self._exchange.api_key)
        )
        said = read_until(process, first)
        last = said.strip().splitlines()[-1]
        message = json.loads(last)["message"] if last.startswith("{") else last
        self.url = message.split()[-1]
        return process

    def ready(self) -> bool:
        return status(self.url, "/readyz") == 200


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(tmp_path, stack, stack.enter_context(Exchange()))


def test_it_is_ready_when_all_are_subscribed_or_have_ended_for_good(rig: Rig) -> None:
    nowhere = f'url = "ws://127.0.0.1:{free_port()}/"'
    rig.write(alice="", bob="", carol=nowhere, dave=f"{nowhere}\nreconnect = false")
    process = rig.serve()
    until(lambda: ask(rig.url, "/readyz")[2] == b"1 of 4 accounts are not subscribed yet\n", 20)
    assert status(rig.url, "/healthz") == 200
    scrape = Scrape(ask(rig.url, "/metrics")[2].decode())
    assert scrape("fastpos_streams", state="ready") == 2
    assert scrape("fastpos_streams", state="failed") == 1
    assert "alice" not in scrape.text
    rig.write(alice="", bob="", erin="")
    process.send_signal(signal.SIGHUP)
    until(rig.ready, 20)
    process.send_signal(signal.SIGTERM)
    out = finish(process)
    assert "stopped" in out


def test_what_can_not_be_served_at_all_is_not_waited_for(rig: Rig, tmp_path: Path) -> None:
    rig.write(alice="", bob='journal = "taken"')
    with Journal(tmp_path / "taken"):
        rig.serve()
        until(rig.ready, 20)
        scrape = Scrape(ask(rig.url, "/metrics")[2].decode())
        assert scrape("fastpos_streams", state="ready") == 1


def test_accounts_have_names_only_if_told(rig: Rig) -> None:
    rig.write(alice="")
    rig.serve("--metrics-per-account")
    until(rig.ready, 20)
    scrape = Scrape(ask(rig.url, "/metrics")[2].decode())
    assert scrape("fastpos_up", stream="alice") == 1


def test_a_port_that_is_taken_ends_it_before_anything_is_connected(
    rig: Rig, exchange: Exchange
) -> None:
    rig.write(alice="")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", str(rig.file), "--metrics", str(port), KEY=exchange.api_key)
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastpos: --metrics can't listen on 127.0.0.1:{port}: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_signal_ends_it_while_a_client_hangs(rig: Rig) -> None:
    rig.write(alice="")
    process = rig.serve()
    until(rig.ready, 20)
    where = urlsplit(rig.url)
    with socket.create_connection((where.hostname, where.port), SOON):
        process.send_signal(signal.SIGTERM)
        assert "stopped" in finish(process, timeout=10)


# --- workers --------------------------------------------------------------------------------------


def test_a_worker_is_ready_when_it_has_its_part_and_that_is_subscribed(tmp_path: Path) -> None:
    with (
        RedisServer() as redis,
        Crowd() as crowd,
        Workers(crowd, tmp_path, 12, "--connect-rate", "200") as workers,
    ):

        def place(worker: str) -> str:
            (url,) = re.findall(r"health at (http://\S+)\n", workers.log(worker).read_text())
            return str(url)

        def state(worker: str) -> int:
            try:
                return status(place(worker), "/readyz")
            except (OSError, ValueError):  # it has not begun
                return 0

        workers.add("one", redis.url, "--metrics", "0")
        workers.wait(lambda: state("one") == 503, 20)  # nobody may have anything at first
        workers.wait(lambda: state("one") == 200, 20)
        assert workers.all_owned()
        workers.add("two", redis.url, "--metrics", "0")
        workers.wait(lambda: state("two") == 200, 20)
        assert workers.all_owned()
        assert workers.parts()["two"] > 0
        assert state("one") == 200
        redis.kill()
        workers.wait(lambda: state("one") == 503, 20)
        assert status(place("one"), "/healthz") == 200
