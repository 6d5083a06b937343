"""The reference has all that there is: names, keys, variables, commands, errors."""

from __future__ import annotations

import importlib
import inspect
import re
from importlib.util import find_spec
from types import ModuleType

import pytest

from fastpos.cli.accounts import _ITS_OWN, _PARAMETERS
from tests.docs.blocks import PAGES
from tests.support.programs import ROOT, run

REFERENCE = ROOT / "docs" / "reference"
MODULES = [
    name
    for name in (
        "fastpos",
        "fastpos.journal",
        "fastpos.metrics",
        "fastpos.redis",
        "fastpos.rest",
        "fastpos.simulator",
    )
    if find_spec(name) is not None
]


def said(page: str) -> str:
    return (REFERENCE / page).read_text(encoding="utf-8")


def public(module: ModuleType) -> list[str]:
    return list(module.__all__)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_an_entry(name: str) -> None:
    text = "".join(page.read_text() for page in REFERENCE.glob("*.md"))
    entries = set(re.findall(r"^\.\. auto\w+:: ([\w.]+)", text, re.M))
    shown = {entry.rpartition(".")[2] for entry in entries}
    assert [each for each in public(importlib.import_module(name)) if each not in shown] == []


def _members(kind: type) -> list[tuple[str, object]]:
    found = []
    for owner in kind.__mro__:
        if owner.__module__.startswith("fastpos"):
            found += [(f"{owner.__qualname__}.{name}", vars(owner)[name]) for name in vars(owner)]
    return [(name, member) for name, member in found if not name.rpartition(".")[2].startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_says_what_it_is(name: str) -> None:
    module = importlib.import_module(name)
    silent = []
    for each in public(module):
        thing = getattr(module, each)
        if inspect.isclass(thing):
            if not inspect.getdoc(thing):
                silent.append(each)
            silent += [
                where
                for where, member in _members(thing)
                if (inspect.isroutine(member) or isinstance(member, property))
                and not inspect.getdoc(member)
            ]
        elif callable(thing) and not inspect.getdoc(thing):
            silent.append(each)
    assert silent == []


@pytest.mark.parametrize("name", MODULES)
def test_every_argument_of_a_class_that_users_make_is_explained(name: str) -> None:
    module = importlib.import_module(name)
    silent = []
    for each in public(module):
        kind = getattr(module, each)
        said_of_it = inspect.getdoc(kind) or ""
        if inspect.isclass(kind) and "\nArgs:\n" in said_of_it:
            silent += [
                f"{each}({parameter})"
                for parameter in inspect.signature(kind).parameters
                if not parameter.startswith("on_")
                and not re.search(rf"\b{parameter}\b", said_of_it)
            ]
    assert silent == []


def test_the_page_of_the_accounts_has_every_key() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", said("accounts.md"), re.M)
    keys = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    assert keys == {*_PARAMETERS, *_ITS_OWN, "name"}


def test_the_page_of_the_environment_has_every_variable() -> None:
    files = [*(ROOT / "fastpos").rglob("*.py"), ROOT / "setup.py"]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    read = set(re.findall(r"\bFASTPOS_[A-Z_]+\b", text))
    assert set(re.findall(r"^\| `(FASTPOS_\w+)`", said("environment.md"), re.M)) == read


def test_every_command_line_in_the_text_is_understood() -> None:
    found = set()
    for page in PAGES:
        found |= set(re.findall(r"`fastpos ([a-z][^`\n]+)`", page.read_text(encoding="utf-8")))
    helps: dict[str, str] = {}
    wrong = []
    for words in sorted(found):
        command = words.split()[0]
        if command not in helps:
            done = run(command, "--help")
            assert done.returncode == 0, done.stderr
            helps[command] = done.stdout
        wrong += [
            words for option in re.findall(r"--[\w-]+", words) if option not in helps[command]
        ]
    assert wrong == []
