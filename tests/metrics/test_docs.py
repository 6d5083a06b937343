"""docs/metrics.md, the alert rules and the dashboard say what there is, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("redis")

from fastpos import Fleet, PositionStream, Snapshot
from fastpos.journal import Journal
from fastpos.metrics import Collector
from fastpos.redis import Publisher
from fastpos.runtime.causes import ERROR_KINDS, Cause
from fastpos.runtime.run import State
from fastpos.simulator import Exchange
from tests.support.programs import ROOT, run
from tests.support.promql import dashboard, grouped, panels, queries, rules, selectors
from tests.support.recording import SOON, until
from tests.support.rig import free_port
from tests.support.scraped import Scrape, Scraper

PAGE = (ROOT / "docs" / "metrics.md").read_text()
# What Prometheus adds to all, and the process' own.
ADDED = {"job", "instance"}
FOREIGN = {"process_cpu_seconds_total", "process_resident_memory_bytes"}


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """All that there is: a fleet with a journal, a publisher and a snapshot source."""
    folder = tmp_path_factory.mktemp("journal")
    with Exchange() as exchange:
        publisher = Publisher(f"redis://127.0.0.1:{free_port()}/0", journal=Journal(folder))
        stream = PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            proxy="",
            name="alice",
            ping_interval=0.05,
            snapshot=lambda: Snapshot([], []),
            publisher=publisher,
        )
        with Fleet([stream]) as fleet:
            assert fleet.wait_ready(SOON)
            until(lambda: stream.synced and stream.stats.round_trip_s)
            yield Scraper(fleet, per_stream=True)()


def table(heading: str) -> list[list[str]]:
    """The cells of the rows below a heading."""
    _, _, rest = PAGE.partition(f"\n{heading}\n")
    assert rest, heading
    rows = rest.partition("\n#")[0].splitlines()
    cells = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in rows if row[:2] == "| "
    ]
    return cells[1:]


def quoted(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_the_tables_name_exactly_the_metrics_that_there_are(scrape: Scrape) -> None:
    rows = {heading: table(f"### {heading}") for heading in ("Of streams", "Of all together")}
    stated: dict[str, tuple[str, set[str]]] = {}
    for heading, more in (("Of streams", {"stream"}), ("Of all together", set())):
        for name, kind, _, labels, meaning in rows[heading]:
            [metric] = quoted(name)
            assert metric not in stated
            assert len(meaning) > 10
            stated[metric] = kind, quoted(labels) | more
    there = {}
    for name, kind in scrape.types.items():
        if not name.startswith("fastpos"):
            continue
        shown = f"{name}_total" if kind == "counter" else name
        of = f"{name}_bucket" if kind == "histogram" else shown
        there[shown] = kind, scrape.labels(of)
    assert stated == there


def test_all_that_is_described_was_collected(scrape: Scrape) -> None:
    collector = Collector(Fleet())
    assert {each.name for each in collector.describe()} == set(scrape.types)


def test_the_units_are_in_the_names() -> None:
    for heading in ("### Of streams", "### Of all together"):
        for name, kind, unit, *_ in table(heading):
            [metric] = quoted(name)
            bare = metric.removesuffix("_total")
            assert (metric != bare) == (kind == "counter")
            assert (unit.partition(",")[0] == "seconds") == bare.endswith("_seconds"), metric
            assert (unit == "bytes") == bare.endswith("_bytes"), metric


def test_the_words_of_each_label_are_those_that_there_are(scrape: Scrape) -> None:
    reasons = [quoted(reason).pop() for reason, _ in table("### Why connections end")]
    assert set(reasons) == {cause.value for cause in Cause}
    assert set(reasons) == scrape.values("fastpos_disconnects_total", "reason")
    kinds = PAGE.partition("The `kind` of an error")[2].partition("\n\n")[0]
    assert quoted(kinds) == {*ERROR_KINDS.values()}
    assert quoted(kinds) == scrape.values("fastpos_errors_total", "kind")
    [row] = [row for row in table("### Of all together") if "fastpos_streams" in row[0]]
    assert quoted(row[4]) == {state.value for state in State}
    [row] = [row for row in table("### Of streams") if "fastpos_messages_total" in row[0]]
    assert quoted(row[4]) == scrape.values("fastpos_messages_total", "channel")


def test_each_alert_is_explained() -> None:
    assert [quoted(row[0]).pop() for row in table("## Alerts")] == [*rules()]


def test_what_the_page_names_in_its_text_is_there(scrape: Scrape) -> None:
    for name in re.findall(r"\b(?:fastpos)_[a-z_]+\b", PAGE):
        assert any(name == series for series, _ in scrape.series) or name in scrape.types, name


def check(expression: str, scrape: Scrape) -> None:
    """Each series in an expression is there, with its labels and their values."""
    found = selectors(expression)
    assert found, expression
    all_labels = set(ADDED)
    for name, matchers in found:
        if name in FOREIGN:
            continue
        labels = scrape.labels(name) | ADDED
        all_labels |= labels
        for label, operator, value in matchers:
            assert label in labels, (name, label)
            if operator in ("=", "!=") and label not in ADDED:
                assert value in scrape.values(name, label), (name, label, value)
    assert grouped(expression) <= all_labels, expression


@pytest.mark.parametrize("alert", rules())
def test_an_alert_is_about_what_there_is(alert: str, scrape: Scrape) -> None:
    check(rules()[alert], scrape)


@pytest.mark.parametrize(("title", "expression", "legend"), [*panels()])
def test_a_panel_shows_what_there_is(
    title: str, expression: str, legend: str, scrape: Scrape
) -> None:
    check(expression, scrape)
    for label in re.findall(r"{{(\w+)}}", legend):
        assert label in (grouped(expression) or ADDED), (title, label)
    for _, matchers in selectors(expression):
        assert {label for label, _, _ in matchers} >= ADDED, "it shows others' too"


def test_the_dashboards_variables_are_of_what_there_is(scrape: Scrape) -> None:
    assert [each["name"] for each in dashboard()["templating"]["list"]] == [
        *("datasource", "job", "instance")
    ]
    for query in queries():
        check(query, scrape)


def test_the_dashboard_can_be_imported() -> None:
    loaded = dashboard()
    assert loaded["uid"] == "fastpos"
    assert loaded["schemaVersion"] >= 36
    assert "id" not in loaded  # Grafana gives it one
    ids = [panel["id"] for panel in loaded["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in loaded["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"] == panel["datasource"]
            assert target["datasource"]["uid"] == "${datasource}"


def test_each_metric_of_a_stream_is_on_the_dashboard_or_in_an_alert() -> None:
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", found.name)
        for expression in [*rules().values(), *(each for _, each, _ in panels())]
        for found in selectors(expression)
    }
    for heading in ("### Of streams", "### Of all together"):
        for name, *_ in table(heading):
            assert quoted(name) <= shown


def test_the_program_on_the_page_is_scraped(tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    script = tmp_path / "program.py"
    port = free_port()
    script.write_text(
        program.replace("9464", str(port))
        + "import urllib.request\n"
        + f"answer = urllib.request.urlopen('http://127.0.0.1:{port}/metrics').read().decode()\n"
        + "print([line for line in answer.splitlines() if line.startswith('fastpos_build')])\n"
    )
    done = run(str(script))
    assert (done.returncode, done.stderr) == (0, "")
    assert "fastpos_build_info{" in done.stdout
