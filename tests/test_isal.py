"""The isal package's ISA-L is tried before it is trusted: `_isal.h`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from isal import ISAL_VERSION, isal_zlib

from fastpos import _c

inflate = _c.mechanism("_inflate")
needs_native = pytest.mark.skipif(inflate is None, reason=str(_c.why_not.get("_inflate")))

COMPILER = shutil.which("cc")

# What a library does otherwise than ISA-L, which does all the rest. Reads and writes go by the
# offsets that _isal.h has: 0 next_out, 8 avail_out, 12 total_out, 16 next_in, 32 avail_in.
FAULTS = {
    "accepts a wrong checksum": "if (result == -6) result = 0;",
    "accepts what was cut short": "if (result == 1) result = 0;",
    "does not say that room is lacking": "if (result == 2) result = 0;",
    "calls all gzip": "if (result == -4) result = -5;",
    "knows all methods": "if (result == -5) result = -4;",
    "takes bad deflate data": "if (result == -1) result = 0;",
    "has another layout": "memmove(state + 8, state, 32);",
    "counts the content wrong": "*(uint32_t *)(state + 12) += 1;",
    "takes what is behind the member": "*(uint32_t *)(state + 32) = 0;",
    "has other content": "if (result == 0) (*(char **)state)[-1] ^= 1;",
    "has a larger state": "state[87368] = 0;",
    "writes behind the room": "(*(char **)state)[*(uint32_t *)(state + 8)] = 0;",
}

LIBRARY = """
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

static void *of_isal(const char *name) {{
    return dlsym(dlopen("{path}", RTLD_NOW), name);
}}
{functions}
"""
INIT = """
void isal_inflate_init(char *state) {
    ((void (*)(char *))of_isal("isal_inflate_init"))(state);
}
"""
INFLATE = """
int isal_inflate_stateless(char *state) {{
    int result = ((int (*)(char *))of_isal("isal_inflate_stateless"))(state);
    {fault}
    return result;
}}
"""

# The module `_inflate` alone, with another isal package.
PROGRAM = """
import ctypes, sys, types
from importlib.machinery import ExtensionFileLoader, ModuleSpec
extension, library, version, load = sys.argv[1:]
package, module = types.ModuleType("isal"), types.ModuleType("isal.isal_zlib")
if load == "load":
    kept = ctypes.CDLL(library)
if version:
    package.ISAL_VERSION = version
module.__file__ = library
sys.modules.update({"isal": package, "isal.isal_zlib": module})
loader = ExtensionFileLoader("_inflate", extension)
try:
    inflate = loader.create_module(ModuleSpec("_inflate", loader, origin=extension))
    loader.exec_module(inflate)
except ImportError as error:
    print(error)
else:
    member = bytes.fromhex(sys.stdin.read())
    print(inflate.ISAL_VERSION, len(inflate.Inflater().inflate(member, 99)))
"""


def build(folder: Path, name: str, functions: str, *more: str) -> str:
    source, library = folder / f"{name}.c", folder / f"lib{name}.so"
    source.write_text(LIBRARY.format(path=isal_zlib.__file__, functions=functions))
    command = [str(COMPILER), "-shared", "-fPIC", "-w", "-o", str(library), str(source), *more]
    subprocess.run([*command, "-ldl"] if sys.platform == "linux" else command, check=True)
    return str(library)


def outcome(library: str, version: str = ISAL_VERSION, load: str = "load") -> str:
    assert inflate is not None
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(inflate.__file__), library, version, load],
        input=isal_zlib.compress(b"sound", wbits=31).hex(),
        env={**os.environ, "FASTPOS_PURE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")


@needs_native
@needs_compiler
def test_a_library_that_does_as_isal_does_is_used(tmp_path: Path) -> None:
    library = build(tmp_path, "same", INIT + INFLATE.format(fault=""))
    assert outcome(library) == f"{ISAL_VERSION} 5"


@needs_native
@needs_compiler
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_library_that_does_otherwise_is_refused(tmp_path: Path, fault: str) -> None:
    library = build(tmp_path, "other", INIT + INFLATE.format(fault=fault))
    assert outcome(library).startswith("the isal package: its ISA-L ")


@needs_native
@needs_compiler
@pytest.mark.parametrize("functions", [INIT, INFLATE.format(fault="")])
def test_a_library_without_one_of_the_functions_is_refused(tmp_path: Path, functions: str) -> None:
    library = build(tmp_path, "half", functions)
    assert outcome(library) == "the isal package: its ISA-L is hidden"


@needs_native
@needs_compiler
def test_functions_of_two_libraries_are_refused(tmp_path: Path) -> None:
    build(tmp_path, "one", INIT)
    more = [f"-L{tmp_path}", "-Wl,--no-as-needed", "-lone", f"-Wl,-rpath,{tmp_path}"]
    library = build(tmp_path, "two", INFLATE.format(fault=""), *more)
    assert outcome(library) == "the isal package: its ISA-L is hidden"


@needs_native
@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("2.23.0", "its ISA-L is not known here"),
        ("3.0.0", "its ISA-L is not known here"),
        ("nonsense", "its ISA-L is not known here"),
        ("", "it does not say what it is"),
    ],
)
def test_a_version_that_is_not_known_is_refused(version: str, reason: str) -> None:
    assert outcome(isal_zlib.__file__, version) == f"the isal package: {reason}"


@needs_native
def test_a_library_that_is_not_loaded_is_not_looked_for() -> None:
    reason = "its library is not to be found"
    assert outcome(isal_zlib.__file__, load="no") == f"the isal package: {reason}"
    assert outcome("/nowhere/isal.so", load="no") == f"the isal package: {reason}"


@needs_native
def test_it_names_the_version() -> None:
    assert inflate is not None
    assert inflate.ISAL_VERSION == ISAL_VERSION
