"""Builds the optional extensions in `fastpos._c`; metadata: pyproject.toml.

They need a compiler, and `_compiled` needs Cython. Whatever goes wrong, installation goes on
without them, and says so. FASTPOS_PURE=1 builds none of them.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import textwrap
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The modules that Cython compiles into `_compiled`, those that others import first. Types are named
# in a .pxd file beside the module.
COMPILED = [
    "fastpos.model.slots",
    "fastpos.model.fields",
    "fastpos.model.table",
    "fastpos.wire.decoder",
    "fastpos.account.state",
    "fastpos.account.book",
    "fastpos.runtime.timing",
    "fastpos.runtime.delivery",
]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # annotations are for mypy; .pxd files have the types
    "binding": True,
    "auto_pickle": False,  # records pickle by themselves, and nothing else is
    "nonecheck": True,  # None where a typed object is expected is an exception, not a crash
}

SOURCES = [
    "setup.py",
    *(f"{name.replace('.', '/')}.py" for name in COMPILED),
    *sorted(path.as_posix() for path in Path("fastpos").rglob("*.pxd")),
]

MODULES = Extension(
    "fastpos._c._compiled",
    ["fastpos/_c/_compiled.c"],
    depends=[*SOURCES, "fastpos/_c/_primitives.h"],
    include_dirs=["fastpos/_c"],
    define_macros=[
        (n, f'"{" ".join(v)}"') for n, v in (("MODULES", COMPILED), ("SOURCES", SOURCES))
    ],
    optional=True,
)
LIBRARIES = ["dl"] if sys.platform.startswith("linux") else []
MECHANISMS = [
    Extension(
        "fastpos._c._inflate",
        ["fastpos/_c/_inflate.c"],
        depends=["fastpos/_c/_isal.h", "fastpos/_c/_attribute.h"],
        libraries=LIBRARIES,
        optional=True,
    ),
    Extension(
        "fastpos._c._tls",
        ["fastpos/_c/_tls.c"],
        depends=["fastpos/_c/_attribute.h"],
        libraries=LIBRARIES,
        optional=True,
    ),
]


def extensions() -> list[Extension]:
    """Those that are of use here."""
    if (
        os.environ.get("FASTPOS_PURE", "0") not in ("", "0")
        or sys.implementation.name != "cpython"
        or sysconfig.get_config_var("Py_GIL_DISABLED")  # the mechanisms are there to keep the GIL
    ):
        return []
    if sys.platform == "win32":  # libraries do not show there what the mechanisms look for
        return [MODULES]
    return [MODULES, *MECHANISMS]


class BuildOptional(build_ext):
    """Builds what can be built, and says in one line what can't."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # no compiler, no headers: nothing here may stop an installation
            self.skip("its extensions", error)

    def build_extension(self, ext: Extension) -> None:
        try:
            if ext is MODULES:
                self.translate(ext)
            super().build_extension(ext)
        except Exception as error:
            self.skip(ext.name, error)

    def translate(self, ext: Extension) -> None:
        """Have Cython make C of the modules."""
        from Cython.Build import cythonize  # noqa: PLC0415 (may be missing)

        # A library has room for one init function of a name, and that has no folders in it.
        if len({name.rpartition(".")[2] for name in COMPILED}) < len(COMPILED):
            raise ValueError("two compiled modules have the same name but for their folders")
        modules = cythonize(
            [Extension(name, [f"{name.replace('.', '/')}.py"]) for name in COMPILED],
            build_dir=str(Path(self.build_temp, "cython")),
            compiler_directives=DIRECTIVES,
            force=True,
            quiet=True,
        )
        ext.sources = [*ext.sources, *(source for module in modules for source in module.sources)]
        if self.compiler.compiler_type == "unix":
            ext.extra_compile_args += ["-g0", "-O3"]

    def skip(self, what: str, error: Exception) -> None:
        print(f"fastpos: installed without {what}: {textwrap.shorten(str(error), 200)}")


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildOptional})
