"""The isal package's ISA-L is tried before it is trusted: `_isal.h`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from isal import ISAL_VERSION, isal_zlib

from fastpos import _c
from tests.support.programs import said

inflate = _c.mechanism("_inflate")
pytestmark = pytest.mark.skipif(inflate is None, reason=str(_c.why_not.get("_inflate")))

COMPILER = shutil.which("cc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")

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
extension, library, version, load, packed = sys.argv[1:]
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
    member = bytes.fromhex(packed)
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
    packed = isal_zlib.compress(b"sound", wbits=31).hex()
    words = str(inflate.__file__), library, version, load, packed
    return said(PROGRAM, *words, FASTPOS_PURE="").strip()


HIDDEN = "the isal package: its ISA-L is hidden"


@needs_compiler
def test_a_library_that_does_as_isal_does_is_used(tmp_path: Path) -> None:
    library = build(tmp_path, "same", INIT + INFLATE.format(fault=""))
    assert outcome(library) == f"{ISAL_VERSION} 5"


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_library_that_does_otherwise_is_refused(tmp_path: Path, fault: str) -> None:
    library = build(tmp_path, "other", INIT + INFLATE.format(fault=fault))
    assert outcome(library).startswith("the isal package: its ISA-L ")


@needs_compiler
def test_functions_that_are_missing_or_of_two_libraries_are_refused(tmp_path: Path) -> None:
    assert outcome(build(tmp_path, "one", INIT)) == HIDDEN
    assert outcome(build(tmp_path, "other", INFLATE.format(fault=""))) == HIDDEN
    more = [f"-L{tmp_path}", "-Wl,--no-as-needed", "-lone", f"-Wl,-rpath,{tmp_path}"]
    assert outcome(build(tmp_path, "two", INFLATE.format(fault=""), *more)) == HIDDEN


@pytest.mark.parametrize(
    ("version", "library", "load", "reason"),
    [
        *((v, isal_zlib.__file__, "load", "its ISA-L is not known here")
          for v in ("2.23.0", "3.0.0", "nonsense")),
        ("", isal_zlib.__file__, "load", "it does not say what it is"),
        (ISAL_VERSION, isal_zlib.__file__, "no", "its library is not to be found"),
        (ISAL_VERSION, "/nowhere/isal.so", "no", "its library is not to be found"),
    ],
)  # fmt: skip
def test_what_is_not_known_or_not_loaded_is_refused(
    version: str, library: str, load: str, reason: str
) -> None:
    assert outcome(library, version, load) == f"the isal package: {reason}"
