"""Sphinx: `sphinx-build -W --keep-going -n docs build/docs` (extra "docs").

Links within the documentation are checked by the build itself, and `sphinx-build -b linkcheck docs
build/links` looks at them again. Nothing is fetched: there is no intersphinx, and addresses of
other hosts are left out of that.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

os.environ["FASTPOS_PURE"] = "1"  # docstrings are read from the Python sources
sys.path.insert(0, str(Path(__file__).parent.parent))

import fastpos

project = "fastpos"
author = "the authors of fastpos"
version = release = fastpos.__version__
html_title = f"fastpos {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
html_show_copyright = False
linkcheck_ignore = [r"https?://.*"]  # not fetched
html_theme = "furo"
exclude_patterns = ["build"]
templates_path: list[str] = []

myst_enable_extensions = ["attrs_block", "attrs_inline", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["ref.python"]  # of names that several classes have, like `type`

default_role = "py:obj"  # a link where there is such a name
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 80
viewcode_follow_imported_members = True
nitpicky = True
nitpick_ignore_regex = [
    # Python's own, which are documented elsewhere; and names that say what they are.
    (r"py:.*", r"(?!fastpos).*"),
    # Helpers in annotations that are nobody's business.
    (
        r"py:class",
        r"fastpos\.([a-z._]+\._?[A-Z]|simulator\._[a-z]+\.(_Self|Link|Transport)|account\..*)",
    ),
]


def _wire_key(kind: type, attribute: str) -> str | None:
    """Give the key on the wire that an event's attribute is read from."""
    field = next((vars(cls)[attribute] for cls in kind.__mro__ if attribute in vars(cls)), None)
    source = getattr(field, "source", None)
    if prefix := getattr(field, "prefix", None):
        return f"{source}.{prefix}…"
    key = source or getattr(field, "outer", None) or getattr(field, "key", None)
    return key if isinstance(key, str) and not key.startswith(":") else None


def _say_source(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put below an attribute of an event where its value comes from; below an error what to do."""
    if what == "exception" and (advice := getattr(thing, "advice", None)):
        lines += ["", f"What to do next, unless its text knows better: {advice}", ""]
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # else napoleon takes a colon in the first line for a type's end
    owner, _, attribute = name.rpartition(".")
    kind = getattr(fastpos, owner.rpartition(".")[2], None)
    if what in ("attribute", "property") and isinstance(kind, type):
        key = _wire_key(kind, attribute)
        if key is not None:
            lines += ["", f"On the wire: ``{key}``.", ""]


def _keep_links_inside(app: Any, docname: str, source: list[str]) -> None:
    """Have links to other files of the repository, which only GitHub can follow, be their texts.

    The benchmarks' results are a page of their own here.
    """
    folder = Path(app.env.doc2path(docname)).parent
    docs = Path(app.srcdir)

    def inside(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if target == docs.parent / "benchmarks" / "results.md":
            return f"[{found[1]}](/explanation/results.md)"
        return found[0] if target.is_relative_to(docs) or not target.exists() else found[1]

    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)[^)\s]*\)", inside, source[0])


class Commands(Directive):
    """What `fastpos COMMAND --help` says of each command."""

    def run(self) -> list[nodes.Node]:
        os.environ["COLUMNS"] = "86"
        from fastpos.cli.main import _parser  # noqa: PLC0415 -- with the width in place

        parser = _parser()
        found = [_help_of("fastpos", parser)]
        for action in parser._subparsers._group_actions:  # type: ignore[union-attr]
            for name, command in (action.choices or {}).items():  # type: ignore[union-attr]
                found.append(_help_of(f"fastpos {name}", command))
        return found


def _help_of(title: str, parser: ArgumentParser) -> nodes.Node:
    section = nodes.section(ids=[nodes.make_id(title)], names=[title])
    section += nodes.title(text=title)
    section += nodes.literal_block(text=parser.format_help(), language="text")
    return section


def setup(app: Any) -> None:
    app.connect("source-read", _keep_links_inside)
    app.add_directive("fastpos-commands", Commands)
    app.connect("autodoc-process-docstring", _say_source, priority=1)  # before napoleon
