"""Every block of code on every page does what the page says; see blocks.py for how it is told."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, blocks_of, faults
from tests.docs.pages import run_page
from tests.support.programs import ROOT
from tests.support.redis_server import server_binary

WITH_CODE = [page for page in PAGES if any(block.is_run for block in blocks_of(page))]
INSTALLING = [page for page in WITH_CODE if any("long" in b.says for b in blocks_of(page))]

needs_a_bash = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("bash"), reason="needs a bash"
)


@needs_a_bash
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page(page: Path, tmp_path: Path) -> None:
    if "redis://127.0.0.1:6379/0" in page.read_text() and server_binary() is None:
        pytest.skip("needs a Redis or Valkey")
    blocks = blocks_of(page)
    for block in blocks:
        if "needs" in block.says:
            pytest.importorskip(block.says["needs"])
    run_page(blocks, tmp_path)


@needs_a_bash
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", INSTALLING, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_for_a_newcomer(page: Path, tmp_path: Path) -> None:
    run_page(blocks_of(page), tmp_path, is_long=True)


def test_every_block_is_run_or_says_why_not() -> None:
    assert [fault for page in PAGES for block in blocks_of(page) for fault in faults(block)] == []
