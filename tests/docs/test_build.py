"""The documentation is built without a warning; pages that nobody links to are one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import ROOT


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("builder", ["html", "linkcheck"])
def test_sphinx_has_nothing_to_complain_of(builder: str, tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason='needs the extra "docs"')
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-W", "--keep-going", "-n"]
        + [str(ROOT / "docs"), str(tmp_path / "built"), "-d", str(tmp_path / "doctrees")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
