"""Every block of code on every page does what the page says; see blocks.py for how it is told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.conftest import is_long
from tests.docs.blocks import PAGES, blocks_of, faults
from tests.docs.pages import run_page
from tests.support.programs import ROOT
from tests.support.redis_server import server_binary

WITH_CODE = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="needs a bash")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
@pytest.mark.timeout(900)
def test_the_code_of_a_page(page: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    if "redis://127.0.0.1:6379/0" in page.read_text() and server_binary() is None:
        pytest.skip("needs a Redis or Valkey")
    blocks = blocks_of(page)
    for block in blocks:
        if "needs" in block.says:
            pytest.importorskip(block.says["needs"])
    run_page(blocks, tmp_path, is_long=is_long(pytestconfig))


def test_every_block_is_run_or_says_why_not() -> None:
    assert [fault for page in PAGES for block in blocks_of(page) for fault in faults(block)] == []
