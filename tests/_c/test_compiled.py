"""The compiled modules: all of them are in use or none, and they are like the others."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
from pathlib import Path

import pytest

import fastpos
from fastpos import _c
from tests.support.programs import said

needs_compiled = pytest.mark.skipif(not _c.compiled, reason=f"not compiled: {_c.compiled_error}")

if _c.compiled:
    from fastpos._c import _compiled

    NAMES = _compiled.MODULES.split()
else:
    NAMES = []

PACKAGE = Path(fastpos.__file__).parent

REPORT = """
import sys
from fastpos import _c
from tests.support.programs import said
modules = [module for name, module in sys.modules.items() if name.startswith("fastpos.")]
print(_c.compiled, _c.compiled_error)
print(*sorted(m.__name__ for m in modules if not m.__file__.endswith(".py")))
"""


def run(program: str, where: Path = PACKAGE.parent, **environment: str) -> tuple[str, list[str]]:
    """Run `program` and `REPORT` in a new interpreter; what is said, and what is no Python."""
    told, modules = said(
        program + REPORT, where=where, **{"FASTPOS_PURE": "", **environment}
    ).splitlines()
    return told, [name for name in modules.split() if not name.startswith("fastpos._c.")]


@needs_compiled
def test_all_that_was_compiled_is_in_use() -> None:
    assert run("") == ("True None", sorted(NAMES))


@needs_compiled
@pytest.mark.parametrize("name", NAMES)
def test_a_compiled_module_is_found_where_its_file_would_be(name: str) -> None:
    module = importlib.import_module(name)
    parent, _, last = name.rpartition(".")
    assert getattr(importlib.import_module(parent), last) is module
    assert module.__spec__ is not None
    assert (module.__spec__.name, module.__package__) == (name, parent)
    assert module.__doc__


def test_none_is_used_with_fastpos_pure() -> None:
    assert run("", FASTPOS_PURE="1") == ("False FASTPOS_PURE is set", [])


PRETEND = """
import sys, types
library = types.ModuleType("fastpos._c._compiled")
library.MODULES, library.SOURCES, library.__file__ = {modules!r}, '', {file!r}
sys.modules["fastpos._c._compiled"] = library
"""


@needs_compiled
@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        (f"{' '.join(NAMES)} fastpos.model.nothing", "dynamic module does not define"),
        (f"{' '.join(NAMES)} {' '.join(NAMES)}", "was imported before"),
        ("fastpos.missing.module", "No module named 'fastpos.missing'"),
    ],
)
def test_if_one_cannot_be_loaded_none_is_used(modules: str, reason: str) -> None:
    told, compiled = run(PRETEND.format(modules=modules, file=_compiled.__file__))
    assert told.startswith("False ")
    assert reason in told
    assert compiled == []


@needs_compiled
def test_a_second_time_in_one_process_they_run_as_they_are() -> None:
    again = (
        "import sys, fastpos\n"
        "for name in [name for name in sys.modules if name.startswith('fastpos')]:\n"
        "    del sys.modules[name]\n"
    )
    told, compiled = run(again)
    assert "can't be a second time" in told
    assert compiled == []


SOURCES = _compiled.SOURCES.split() if _c.compiled else []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One in which nothing is newer than what was compiled."""
    shutil.copytree(PACKAGE, tmp_path / "fastpos")
    for name in ("pyproject.toml", "setup.py"):
        (tmp_path / name).touch()
    for path in tmp_path.rglob("*.p*"):
        os.utime(path, ns=(0, 0))
    return tmp_path


def edit(checkout: Path, source: str) -> None:
    """Have it be newer than what was compiled."""
    library = checkout / "fastpos" / "_c" / Path(str(_compiled.__file__)).name
    os.utime(checkout / source, ns=(0, library.stat().st_mtime_ns + 1))


@needs_compiled
@pytest.mark.parametrize("source", SOURCES)
def test_a_checkout_runs_what_was_edited(checkout: Path, source: str) -> None:
    edit(checkout, source)
    told, compiled = run("", checkout)
    assert f"{source} was changed since it was compiled" in told
    assert compiled == []


@needs_compiled
def test_what_is_compiled_is_used_where_nothing_was_edited_and_where_it_is_installed(
    checkout: Path,
) -> None:
    assert run("", checkout) == ("True None", sorted(NAMES))
    for source in SOURCES:
        edit(checkout, source)
    (checkout / "pyproject.toml").unlink()  # installed, times say nothing
    assert run("", checkout) == ("True None", sorted(NAMES))


@needs_compiled
def test_a_traceback_shows_the_lines(tmp_path: Path) -> None:
    program = (
        "import traceback\n"
        "from fastpos.runtime.timing import CallbackTimes\n"
        "try: CallbackTimes(1.0).took('on_order', print, 'long')\n"
        "except TypeError: print(traceback.format_exc())\n"
    )
    lines = said(program, where=tmp_path, FASTPOS_PURE="").splitlines()
    at = next(number for number, line in enumerate(lines) if "runtime/timing.py" in line)
    assert lines[at + 1].strip() in (PACKAGE / "runtime" / "timing.py").read_text()


@needs_compiled
def test_functions_of_compiled_modules_pickle_by_name() -> None:
    for name in NAMES:
        module = importlib.import_module(name)
        for public in map(vars(module).get, module.__all__):
            if callable(public) and getattr(public, "__module__", None) == name:
                assert pickle.loads(pickle.dumps(public)) is public
