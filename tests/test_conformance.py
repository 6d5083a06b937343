"""The Autobahn test suite, run against fastpos' WebSocket layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.autobahn import run_cases
from tests.conformance.fuzzingserver import FuzzingServer, NotAvailable

pytestmark = pytest.mark.conformance

AGENT = "fastpos"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FuzzingServer]:
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(FuzzingServer(outdir=tmp_path))
        except NotAvailable as reason:
            pytest.skip(str(reason))
        yield running


# The first run installs the server, and the cases of group 9 move hundreds of megabytes.
@pytest.mark.timeout(1200)
def test_no_case_fails_and_every_connection_ends_cleanly(server: FuzzingServer) -> None:
    run = run_cases(server.url, AGENT)

    results = server.reports(AGENT)
    assert len(results) == len(run) > 200
    bad = {case: r for case, r in results.items() if r.failed or r.unclean}
    assert not bad, server.log()[-1000:]
