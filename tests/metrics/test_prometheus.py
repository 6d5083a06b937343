"""Prometheus itself takes what there is: its checks, and a server that scrapes `fastpos serve`."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from fastpos.simulator import Exchange
from tests.support.programs import read_until, started
from tests.support.promql import RULES, panels, rules
from tests.support.recording import until
from tests.support.rig import LOOPBACK, Rig, end_process, free_port, listening_program, program
from tests.support.scraped import ask

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(120)]


def promtool(*words: str | Path, given: bytes = b"") -> str:
    """What it prints of what it finds nothing wrong with."""
    done = subprocess.run(
        [program("promtool"), *words], input=given, capture_output=True, check=False, timeout=60
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


class Prometheus(Rig):
    """A server that scrapes one target once a second, and has the alert rules.

    A scrape that takes longer than that has failed, and its series end: who asks, asks again.
    """

    def __init__(self, target: str) -> None:
        super().__init__()
        self._target = target
        self.url = ""

    def _start(self) -> None:
        binary = program("prometheus")
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        shutil.copy(RULES, folder)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "200ms"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [
                {"job_name": "fastpos", "static_configs": [{"targets": [self._target]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))  # which is YAML, too
        promtool("check", "config", folder / "prometheus.yml")
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        words = [
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        ]
        process = listening_program([binary, *words], folder / "log", port)
        self._cleanup.callback(end_process, process)
        until(lambda: ask(self.url, "/-/ready")[0] == 200, 30, "that Prometheus is ready")

    def api(self, path: str, **parameters: str) -> Any:
        """What its HTTP API gives."""
        words = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{words}", timeout=10) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        return said["data"]

    def value(self, expression: str) -> float | None:
        """The one number that an expression gives, None where it gives none."""
        result = self.api("query", query=expression)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as exchange:
        yield exchange


@pytest.fixture
def served(exchange: Exchange, tmp_path: Path) -> Iterator[str]:
    """Where `fastpos serve --metrics` answers, for two accounts with a journal."""
    file = tmp_path / "accounts.toml"
    file.write_text(
        f'[defaults]\nproxy = ""\nbroker = {exchange.broker}\nurl = "{exchange.url}"\n'
        "ping_interval = 0.2\nreconnect = { initial = 0.02, maximum = 0.1 }\n"
        '[accounts.alice]\napi_key = { env = "KEY" }\n[accounts.bob]\napi_key = { env = "KEY" }\n'
    )
    words = "serve", str(file), "--metrics", "0", "--journal", str(tmp_path / "journal")
    with started(*words, KEY=exchange.api_key) as process:
        url = read_until(process, "metrics and health at").split()[-1]
        until(lambda: ask(url, "/readyz")[0] == 200, 20)
        until(lambda: b"\nfastpos_ping_seconds " in ask(url, "/metrics")[2], 20)
        yield url


def test_promtool_finds_nothing_wrong_with_a_scrape(served: str, exchange: Exchange) -> None:
    exchange.place_order()
    code, _, body = ask(served, "/metrics")
    assert code == 200
    assert promtool("check", "metrics", given=body) == ""


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert f"SUCCESS: {len(rules())} rules found" in promtool("check", "rules", RULES)


def test_each_alert_fires_when_it_should(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    tests = tmp_path / "alerts_test.yml"
    shutil.copy(Path(__file__).parent / tests.name, tests)
    assert all(f'alertname="{name}"' in tests.read_text() for name in rules())
    assert "SUCCESS" in promtool("test", "rules", tests)


def test_prometheus_scrapes_it_and_tells_what_happens(served: str, exchange: Exchange) -> None:
    with Prometheus(urllib.parse.urlsplit(served).netloc) as prometheus:
        until(lambda: prometheus.value("fastpos_up") == 1, 20)

        def target() -> tuple[str, str]:
            [found] = prometheus.api("targets")["activeTargets"]
            return found["health"], found["lastError"]

        until(lambda: target() == ("up", ""), 20)
        until(lambda: prometheus.value('up{job="fastpos"}') == 1, 20)
        until(lambda: prometheus.value('fastpos_streams{state="ready"}') == 2, 20)

        exchange.place_order()
        orders = 'fastpos_messages_total{channel="order"}'
        until(lambda: prometheus.value(orders) == 2, 20)
        infinite = 'fastpos_callback_seconds_bucket{le="+Inf"}'
        differing = f"{infinite} - ignoring (le) fastpos_callback_seconds_count"
        until(lambda: prometheus.value(differing) == 0, 20)
        until(lambda: (prometheus.value("fastpos_callback_seconds_count") or 0) > 0, 20)

        # The dashboard's and the rules' expressions are understood, with a number where there is.
        def empty() -> set[str]:
            found = set()
            for _, expression, _ in panels():
                for variable, text in (
                    ("$job", "fastpos"),
                    ("$instance", ".*"),
                    ("$__rate_interval", "10s"),
                ):
                    expression = expression.replace(variable, text)  # noqa: PLW2901
                if not prometheus.api("query", query=expression)["result"]:
                    found.add(expression.partition("{")[0].rpartition("(")[2])
            return found

        may_be_empty = {
            "fastpos_synced",
            *(f"fastpos_publisher_{what}" for what in (
                "lag_seconds", "waiting_records", "failing", "lost_records_total",
                "fenced_streams", "sent_records_total",
            )),
        }  # fmt: skip
        until(lambda: empty() <= may_be_empty, 20)
        groups = prometheus.api("rules")["groups"]
        until(lambda: all(r["health"] == "ok" for g in health(prometheus) for r in g["rules"]), 20)
        assert {rule["name"] for group in groups for rule in group["rules"]} == {*rules()}

        # An account is lost.
        exchange.refuse_upgrade(502)
        exchange.drop()
        refused, lost = (
            f'fastpos_disconnects_total{{reason="{reason}"}}' for reason in ("refused", "lost")
        )
        until(lambda: prometheus.value("fastpos_up") == 0, 20)
        until(lambda: (prometheus.value(refused) or 0) > 0, 20)
        until(lambda: (prometheus.value("fastpos_gap_seconds_total") or 0) > 0.5, 20)
        until(lambda: "FastposNotSubscribed" in alerts(prometheus), 20)
        exchange.clear_faults()
        until(lambda: prometheus.value("fastpos_up") == 1, 20)
        until(lambda: "FastposNotSubscribed" not in alerts(prometheus), 20)
        until(lambda: prometheus.value(lost) == 2, 20)


def health(prometheus: Prometheus) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = prometheus.api("rules")["groups"]
    return groups


def alerts(prometheus: Prometheus) -> set[str]:
    """The alerts that fire or are about to."""
    return {alert["labels"]["alertname"] for alert in prometheus.api("alerts")["alerts"]}
