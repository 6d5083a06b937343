"""The blocks of code of a page in Markdown, and what the comments above them say about each.

A comment stands on a line of its own above the block, several below each other; what is before the
colon is its name. Anything else in a comment is none of ours.

    <!-- not run: needs an account -->          is only read
    <!-- tested by: tests/whole/test_x.py -->   another test runs it, which names the page
    <!-- file: bot.py -->                       is written to a file in the page's folder, not run
    <!-- continues -->                          Python: goes on where the block before ended
    <!-- background -->                         runs on until the page ends
    <!-- output -->                             is what the block before prints
    <!-- prints: NEW 0.0 -->                    prints this line among others, which is not shown
    <!-- output of: bot.py -->                  is what that goes on to print, in the background
    <!-- to: exchange.py -->                    `>>>` lines typed to what runs in the background, or
                                                in a console a `^C` that ends it
    <!-- before: exchange.open_position() -->   Python, run before it, with the simulator at hand
    <!-- meanwhile: exchange.drop() -->         the same once it is subscribed, in place of a day
    <!-- streams: 2 -->                         so many subscribe before anything happens (1)
    <!-- fails -->                              it ends with an exit status that is not 0
    <!-- long: why -->                          is run only where the long tests are
    <!-- needs: flask -->                       the page is run only where this can be imported
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.programs import ROOT

__all__ = ["NAMES", "PAGES", "RUNNABLE", "Block", "blocks_of", "faults"]

RUNNABLE = ("python", "sh", "console", "pycon")
"""The languages of the blocks that are run, unless a comment says otherwise."""
REFUSED = ("py", "python3", "bash", "shell", "zsh", "pycon3", "shell-session")
"""Other names of theirs, which would be passed over."""
NAMES = {
    "not run": True,
    "tested by": True,
    "file": True,
    "continues": False,
    "background": False,
    "output": False,
    "output of": True,
    "prints": True,
    "to": True,
    "before": True,
    "meanwhile": True,
    "streams": True,
    "fails": False,
    "long": True,
    "needs": True,
}
"""What a comment can say, and whether something stands after a colon."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2[ ]*$", re.M | re.S)
_ABOVE = re.compile(r"(?:^[ ]*<!--[^\n]*-->[ ]*\n(?:[ ]*\n)*)+\Z", re.M)
_COMMENT = re.compile(r"<!--\s*([a-z ]+?)\s*(?::\s*(.*?))?\s*-->")


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: Path
    line: int
    """Where its fence is."""
    language: str
    text: str
    says: dict[str, str] = field(default_factory=dict)
    """What stands above it, by `NAMES`."""

    def __str__(self) -> str:
        name = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page.name
        return f"{name}:{self.line} ({self.language})"

    @property
    def is_run(self) -> bool:
        """Whether it is run as it stands."""
        return self.language in RUNNABLE and not self.says.keys() & {
            "not run",
            "tested by",
            "file",
            "output",
            "output of",
        }


def blocks_of(page: Path) -> list[Block]:
    """Give all blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        above = _ABOVE.search(text, 0, found.start())
        said = dict(_COMMENT.findall(above[0])) if above is not None else {}
        blocks.append(
            Block(
                page,
                text.count("\n", 0, found.start()) + 1,
                found[3].strip(),
                textwrap.dedent(found[4]),
                {name: value for name, value in said.items() if name in NAMES},
            )
        )
    return blocks


def faults(block: Block) -> list[str]:
    """Say what is wrong with a block before it is run."""
    found = []
    if block.language in REFUSED:
        found.append(f"the language is one of {', '.join(RUNNABLE)}")
    for name, value in block.says.items():
        if NAMES[name] and not value:
            found.append(f"'{name}' needs a word after a colon")
    test = block.says.get("tested by")
    if test and (not (ROOT / test).is_file() or block.page.name not in (ROOT / test).read_text()):
        found.append(f"{test} is not there, or does not name {block.page.name}")
    if block.language == "python":
        try:
            ast.parse(block.text)
        except SyntaxError as error:
            found.append(f"is no Python: {error}")
    if block.language == "console" and not block.text.startswith(("$ ", "^C")):
        found.append("a console's first line begins with '$ '")
    return [f"{block}: {text}" for text in found]
