"""What Prometheus would get of a collector or a server, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fastpos import Fleet, PositionStream
from fastpos.metrics import Collector


class Scrape:
    """Series by name and labels: `scrape("fastpos_up", stream="alice")`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.types: dict[str, str] = {}
        self.series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            self.types[family.name] = family.type
            for sample in family.samples:
                self.series[sample.name, frozenset(sample.labels.items())] = sample.value

    def __call__(self, name: str, **labels: str) -> float | None:
        return self.series.get((name, frozenset(labels.items())))

    def labels(self, name: str) -> set[str]:
        """The names of a metric's labels."""
        found = [labels for each, labels in self.series if each == name]
        assert found, name
        return {label for labels in found for label, _ in labels}

    def values(self, name: str, label: str) -> set[str]:
        """What a label of a metric is."""
        return {dict(labels)[label] for each, labels in self.series if each == name}

    def counters(self) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
        """All that may never fall."""
        ends = ("_total", "_count", "_sum", "_bucket")
        return {key: number for key, number in self.series.items() if key[0].endswith(ends)}


class Scraper:
    """A registry with one collector."""

    def __init__(self, *sources: PositionStream | Fleet, **options: Any) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(Collector(*sources, **options))

    def __call__(self) -> Scrape:
        return Scrape(generate_latest(self._registry).decode())


def ask(
    url: str, path: str, method: str = "GET", headers: Iterable[tuple[str, str]] = ()
) -> tuple[int, dict[str, str], bytes]:
    """Send a request; give status, headers and body."""
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=10)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()
