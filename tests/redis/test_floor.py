"""What is below `fastpos.redis` knows nothing of it."""

from __future__ import annotations

import re
from pathlib import Path

import fastpos

ON_TOP = ("redis", "metrics.py", "cli")


def test_nothing_below_imports_it() -> None:
    folder = Path(fastpos.__file__).parent
    imports = re.compile(r"^\s*(from|import) \S*\bredis\b", re.MULTILINE)
    files = [each.relative_to(folder) for each in folder.rglob("*.py")]
    found = [each for each in files if imports.search((folder / each).read_text("utf-8"))]
    assert {each.parts[0] for each in found} == set(ON_TOP)
