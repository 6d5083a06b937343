"""What bundles a program for machines without Python finds all that is imported: by reading source.

PyInstaller and its like follow the import statements in the text of modules. So each module that is
loaded must be named in one, wherever it stands, of a module that is found in this way.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpos.simulator import Exchange
from tests.support.programs import run

PROGRAM = """
import json, sys
import fastpos
from fastpos import PositionStream, decode
from fastpos.rest import AccountSnapshot

url, key, rest, secret = sys.argv[1:]
stream = PositionStream(
    url, api_key=key, broker=1003, snapshot=AccountSnapshot(rest, key, secret), dispatch="thread"
)
with stream:
    assert stream.wait_ready(20)
print(json.dumps(sorted(sys.modules)))
"""
OURS = ("fastpos", "isal", "orjson", "websocket", "httpx", "httpcore", "python_socks")


def imports_in(name: str, path: Path) -> Iterator[str]:
    """What a module's text imports: modules, and names in modules, which may be modules too."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def found_from(*names: str) -> set[str]:
    """The modules that are found by reading, beginning with these."""
    found: set[str] = set()
    missing: set[str] = set()  # a name in a module, or a binary that was not built
    pending = [*names]
    while pending:
        name = pending.pop()
        package = name.rpartition(".")[0]
        if name in found | missing or name.partition(".")[0] not in OURS:
            continue
        if package and package not in found | missing:
            pending += [name, package]
            continue
        path = None if package in missing else file_of(name)
        if path is None:
            missing.add(name)
            continue
        found.add(name)
        if path.suffix == ".py":
            pending += imports_in(name, path)
    return found


def file_of(name: str) -> Path | None:
    """A module's file, its source where it has one; without importing it, compiled or not."""
    top, *rest = name.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None, top
    assert spec.origin is not None, top
    base = Path(spec.origin).parent.joinpath(*rest)
    if not rest:
        return Path(spec.origin)
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for path in (base / "__init__.py", base.with_suffix(".py"), Path(f"{base}{suffix}")):
        if path.is_file():
            return path
    return None


@pytest.mark.parametrize("pure", ["", "1"])
def test_each_module_that_is_loaded_is_named_in_an_import_statement(pure: str) -> None:
    with Exchange() as exchange:
        done = run(
            *("-c", PROGRAM, exchange.url, exchange.api_key),
            *(exchange.rest_url, exchange.api_secret),
            FASTPOS_PURE=pure,
        )
    assert done.returncode == 0, done.stderr
    loaded = {name for name in json.loads(done.stdout) if name.partition(".")[0] in OURS}
    found = found_from("fastpos", "fastpos.rest")
    # What a binary imports by itself is its own package's concern: but isal's, which we need.
    assert {name for name in loaded if file_of(name)} <= found
    assert "isal.igzip_lib" in loaded
    if not pure and "fastpos._c._compiled" in loaded:
        assert {"fastpos._c._inflate", "fastpos._c._tls"} <= loaded or sys.platform == "win32"
