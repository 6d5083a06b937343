"""The documentation is built without a warning; a page that no other names is one."""

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
    places = [str(ROOT / "docs"), str(tmp_path / "built"), "-d", str(tmp_path / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-W", "--keep-going", "-n", *places],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
