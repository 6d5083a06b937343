"""``python -m fastpos``: runs the package that is installed.

``-m`` puts the current directory first on the path. In a checkout that is where the sources lie,
without what was compiled when they were installed.
"""

import os
import runpy
import sys
from importlib.machinery import PathFinder


def _prefer_installed() -> bool:
    """Make way for the fastpos that is installed; False if this is it, or there is no other."""
    package = os.path.dirname(os.path.abspath(__file__))
    if os.path.abspath(sys.path[0]) != os.path.dirname(package):
        return False
    installed = PathFinder.find_spec("fastpos", sys.path[1:])
    if installed is None or os.path.dirname(installed.origin or "") in ("", package):
        return False
    del sys.path[0]
    for name in [name for name in sys.modules if name.partition(".")[0] == "fastpos"]:
        del sys.modules[name]
    return True


if __name__ == "__main__":
    if _prefer_installed():
        runpy.run_module("fastpos", run_name="__main__", alter_sys=True)
    else:
        from .cli.main import main

        sys.exit(main())
