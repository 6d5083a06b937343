"""Builds the optional extensions in `fastpos._c`; metadata: pyproject.toml.

`_compiled` holds modules of the package that Cython compiles; see fastpos/_c/__init__.py.
`_tls` needs a compiler and nothing else; it is for CPython with a GIL, and not for Windows.
`_native` needs ISA-L, which is looked for in $FASTPOS_ISAL (a prefix, with include/ and lib/ in
it), then with pkg-config, then in the usual places. FASTPOS_ISAL_STATIC=1 links its static library.

Whatever goes wrong, installation goes on: without `_compiled` the modules run as they are, without
`_native` the `isal` wheel inflates, without `_tls` Python's `ssl` decrypts. FASTPOS_PURE=1 builds
none of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# The modules that are compiled, those that others import first. Types are named in a .pxd file
# beside the module.
COMPILED = ["fastpos.runtime.timing"]
DIRECTIVES = {
    "language_level": 3,
    "annotation_typing": False,  # annotations are for mypy; .pxd files have the types
    "binding": True,
    "nonecheck": True,  # None where a typed object is expected is an exception, not a crash
}

USUAL_PREFIXES = [
    os.environ.get("CONDA_PREFIX"),
    sys.prefix,
    os.environ.get("HOMEBREW_PREFIX"),
    "/opt/homebrew",
    "/usr/local",
    "/opt/local",
    "/usr",
]


def pkg_config(*arguments: str) -> str | None:
    """What pkg-config says of ISA-L; None if it is not there or does not know ISA-L."""
    command = [os.environ.get("PKG_CONFIG", "pkg-config"), *arguments, "libisal"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def in_prefix(prefix: str) -> tuple[Path, list[Path]] | None:
    """The header and library directories under a prefix; None if ISA-L's headers are not there."""
    include = Path(prefix, "include")
    if not Path(include, "isa-l", "igzip_lib.h").is_file():
        return None
    return include, [path for path in (Path(prefix, "lib"), Path(prefix, "lib64")) if path.is_dir()]


def find_isal() -> tuple[Path, list[Path]]:
    """The directory of ISA-L's headers and those its library may be in."""
    if asked_for := os.environ.get("FASTPOS_ISAL"):
        if found := in_prefix(asked_for):
            return found
        raise FileNotFoundError(f"no ISA-L headers under FASTPOS_ISAL={asked_for}")
    include, library = pkg_config("--variable=includedir"), pkg_config("--variable=libdir")
    if include and library:
        return Path(include), [Path(library)]
    for prefix in filter(None, USUAL_PREFIXES):
        if found := in_prefix(prefix):
            return found
    raise FileNotFoundError("ISA-L not found (libisal-dev, isa-l)")


COMPILED_MODULES = Extension(
    "fastpos._c._compiled",
    ["fastpos/_c/_compiled.c"],
    depends=[
        str(path)
        for name in COMPILED
        for path in Path(*name.split(".")[:-1]).glob(f"{name.rpartition('.')[2]}.p[yx]*")
    ],
    define_macros=[("MODULES", f'"{" ".join(COMPILED)}"')],
    optional=True,
)
NATIVE = Extension(
    "fastpos._c._native",
    [f"fastpos/_c/{name}.c" for name in ("_native", "_fields", "_delivery")],
    depends=["fastpos/_c/_native.h", "fastpos/_c/_deflate.h", "fastpos/_c/_attribute.h"],
    optional=True,
)
TLS = Extension(
    "fastpos._c._tls",
    ["fastpos/_c/_tls.c"],
    depends=["fastpos/_c/_attribute.h"],
    libraries=["dl"] if sys.platform.startswith("linux") else [],
    optional=True,
)


def extensions() -> list[Extension]:
    """Those that are of use here."""
    if os.environ.get("FASTPOS_PURE", "0") not in ("", "0"):
        return []
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return [NATIVE]
    if sys.platform == "win32":
        return [COMPILED_MODULES, NATIVE]
    return [COMPILED_MODULES, NATIVE, TLS]


class BuildOptional(build_ext):
    """Builds what can be built, and says in one line what can't."""

    def run(self) -> None:
        try:
            super().run()
        except Exception as error:  # no compiler, no headers: nothing here may stop an installation
            self.skip("its C extensions", error)

    def build_extension(self, ext: Extension) -> None:
        try:
            if ext is NATIVE:
                self.link_isal(ext)
            elif ext is COMPILED_MODULES:
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
            ext.extra_compile_args += ["-g0", "-O2"]

    def link_isal(self, ext: Extension) -> None:
        include, libraries = find_isal()
        ext.include_dirs.append(str(include))
        if os.environ.get("FASTPOS_ISAL_STATIC", "0") in ("", "0"):
            ext.library_dirs += map(str, libraries)
            ext.libraries.append("isal")
            return
        archives = [path / "libisal.a" for path in libraries if (path / "libisal.a").is_file()]
        if not archives:
            raise FileNotFoundError(f"no libisal.a in {', '.join(map(str, libraries))}")
        ext.extra_objects.append(str(archives[0]))
        if sys.platform.startswith("linux"):  # ISA-L's names stay inside, whoever else has them
            ext.extra_link_args.append("-Wl,--exclude-libs,ALL")

    def skip(self, what: str, error: Exception) -> None:
        reason = " ".join(str(error).split())
        print(f"fastpos: installed without {what}: {reason}")


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildOptional})
