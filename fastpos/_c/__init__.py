"""What of fastpos is compiled: whether it was built, is wanted, or why not. Decided here alone.

Two kinds of parts are compiled where there is a compiler, and the package works without either:

- The Python modules of the hot path, which Cython compiles as they stand, with the types that a
  ``.pxd`` file beside each names. All are in one library, `_compiled`, which names them, those that
  others import first. They are loaded here, before any other module of fastpos, under their own
  names; so the import system never looks for their ``.py`` files. All of them are used or none.
- Mechanisms in C, which have no Python form, only something else that does for them.

With ``FASTPOS_PURE=1`` in the environment, when installing or when importing, none is used.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["compiled", "compiled_error", "mechanism", "why_not"]

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))

why_not: dict[str, str] = {}
"""The parts that were asked for and are not in use, by name, with the reason."""


def mechanism(name: str) -> ModuleType | None:
    """The C module of that name; None where it can't be used, and `why_not` has the reason."""
    if os.environ.get("FASTPOS_PURE", "0") not in ("", "0"):
        why_not[name] = "FASTPOS_PURE is set"
        return None
    try:
        _import(name)
        return sys.modules[f"{__name__}.{name}"]
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == f"{__name__}.{name}"
        why_not[name] = "not built" if missing else str(error)
        return None


def _import(name: str) -> None:
    # Written out: what bundles a program for machines without Python looks for imports in its text.
    if name == "_compiled":
        import fastpos._c._compiled  # type: ignore[import-not-found]  # noqa: PLC0415
    elif name == "_inflate":
        import fastpos._c._inflate  # noqa: PLC0415
    else:
        import fastpos._c._tls  # noqa: F401, PLC0415


def _load_compiled() -> bool:
    """Load the compiled modules; whether they are in use."""
    library = mechanism("_compiled")
    if library is None:
        return False
    before = set(sys.modules)
    try:
        _check_fresh(library)
        for name in library.MODULES.split():
            _load(name, str(library.__file__))
    # Of whatever kind: there are the .py files.
    except Exception as error:
        why_not["_compiled"] = f"{type(error).__name__}: {error}"
        _forget(set(sys.modules) - before)
        return False
    return True


class _Loader(ExtensionFileLoader):
    """Loads a compiled module, and gives its source to who shows tracebacks."""

    def get_source(self, fullname: str) -> str | None:  # type: ignore[override]  # it has none
        try:
            with open(os.path.join(_ROOT, *fullname.split(".")) + ".py", encoding="utf-8") as file:
                return file.read()
        except OSError:
            return None


def _load(name: str, path: str) -> None:
    if name in sys.modules:
        raise ImportError(f"{name} was imported before it could be loaded")
    parent, _, last = name.rpartition(".")
    package = import_module(parent)
    loader = _Loader(name, path)
    spec = ModuleSpec(name, loader, origin=path)
    spec.has_location = True
    module: Any = loader.create_module(spec)  # by PyInit_<last part of the name>
    if hasattr(module, "__all__"):
        raise ImportError(f"{name} was loaded in this process before; it can't be a second time")
    module.__spec__ = spec
    sys.modules[name] = module
    loader.exec_module(module)
    setattr(package, last, module)


def _forget(names: set[str]) -> None:
    """Take modules of fastpos back, with what they imported of it: they hold what is not used."""
    for name in names:
        parent, _, last = name.rpartition(".")
        if parent.partition(".")[0] == "fastpos" and not name.startswith(__name__):
            del sys.modules[name]
            vars(sys.modules.get(parent, sys)).pop(last, None)


def _check_fresh(library: ModuleType) -> None:
    """In a checkout, where one edits: nothing may be run that is not what the files say."""
    if not os.path.exists(os.path.join(_ROOT, "pyproject.toml")):
        return
    built = os.stat(str(library.__file__)).st_mtime_ns
    for name in library.SOURCES.split():
        path = os.path.join(_ROOT, name)
        if not os.path.exists(path) or os.stat(path).st_mtime_ns > built:
            raise ImportError(f"{name} was changed since it was compiled")


compiled: bool = _load_compiled()
"""Whether the compiled modules are in use."""

compiled_error: str | None = why_not.get("_compiled")
"""Why they are not; None when they are."""
