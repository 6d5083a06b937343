"""`pytest benchmarks`: measures each group once, side by side, and hands the rounds on.

pytest-benchmark wants to time a function itself, one after the other. Here the peers take
turns, in other processes, so what it gets is a clock that shows the times measured.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.groups import FULL, GROUPS, QUICK, Bench
from benchmarks.results import Group, native_missing
from benchmarks.spec import Unavailable
from benchmarks.tables import as_text

_LIMIT = 900.0  # seconds; the first test of a group waits for all of it
_measured = pytest.StashKey[dict[str, Group]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="few and short rounds, for CI")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_measured] = {}
    config.addinivalue_line("markers", "groups(*names): once for each peer of these groups")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("groups") is not None:
            item.add_marker(pytest.mark.benchmark(timer=_clock))
            if config.pluginmanager.hasplugin("timeout"):
                item.add_marker(pytest.mark.timeout(_LIMIT))


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with Bench(QUICK if request.config.getoption("--quick") else FULL) as bench:
        yield bench


class _Clock:
    now = 0.0


def _clock() -> float:
    return _Clock.now


@pytest.fixture
def replay(
    request: pytest.FixtureRequest, bench: Bench, benchmark: Any
) -> Callable[[str, str], None]:
    """Shows pytest-benchmark the rounds of one peer in one group."""

    def replay(group: str, peer: str) -> None:
        known = request.config.stash[_measured]
        if group not in known:
            try:
                known[group] = GROUPS[group].run(bench)
            except Unavailable as reason:
                pytest.skip(str(reason))
        result = known[group]
        row = result.rows[peer]
        if row.missing:
            pytest.skip(row.missing)
        rounds = iter(row.seconds)

        def one_round() -> None:
            _Clock.now += next(rounds)

        benchmark.group = result.title
        benchmark.extra_info["per_second"] = 1 / row.median
        for baseline in result.baselines:
            benchmark.extra_info[f"times {baseline}"] = result.ratio(peer, baseline)
        benchmark.extra_info.update(row.extra)
        benchmark.pedantic(one_round, rounds=len(row.seconds))

    return replay


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test marked `groups` runs for each peer of each of those groups."""
    marker = metafunc.definition.get_closest_marker("groups")
    if marker is not None:
        cases = [(group, peer) for group in marker.args for peer in GROUPS[group].peers]
        metafunc.parametrize(("group", "peer"), cases)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    groups = terminalreporter.config.stash[_measured].values()
    for group in groups:
        terminalreporter.section(group.title)
        terminalreporter.write_line(as_text(group))
    if reason := native_missing(groups):
        title = "FASTPOS, NATIVE, WAS NOT MEASURED: what is above is of its Python alone"
        terminalreporter.section(title, red=True, bold=True)
        terminalreporter.write_line(f"{reason}. `fastpos info` tells what is in use.", red=True)
