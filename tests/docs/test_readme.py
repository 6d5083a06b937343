"""The README is short, and begins with two commands; CONTRIBUTING names what is there."""

from __future__ import annotations

import re
import shlex

from fastpos.runtime.callbacks import CALLBACK_NAMES
from tests.docs.blocks import blocks_of
from tests.support.programs import ROOT

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
PLACES = (ROOT, ROOT / "fastpos", ROOT / ".github" / "workflows")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 200


def test_it_begins_with_two_commands_that_end_in_what_is_tested() -> None:
    # .ci/run runs both as they stand, in fresh virtual environments.
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
    first = blocks_of(PAGE)[:2]
    assert [block.language for block in first] == ["sh", "sh"]
    ends = [shlex.split(block.text.rsplit("&&", 1)[1]) for block in first]
    assert ends == [[".venv/bin/fastpos", "demo"], [".venv/bin/pytest"]]


def test_the_table_has_every_callback() -> None:
    assert sorted(re.findall(r"^\| `(on_\w+)`", README, re.M)) == sorted(CALLBACK_NAMES)


def test_the_map_of_the_source_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`([\w/.]+\.(?:py|md|yml)|[\w.]+/[\w/.]*)`", text)
    assert "wire/session.py" in named
    assert [name for name in named if not any((at / name).exists() for at in PLACES)] == []


def test_the_links_of_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert "docs/tutorial.md" in links
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert missing == []
