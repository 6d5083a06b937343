"""One harness under libFuzzer, in a process of its own: `python -m tests.fuzz.child HARNESS ...`.

The arguments after the harness are libFuzzer's.
"""

from __future__ import annotations

import importlib
import logging
import sys

import atheris  # type: ignore[import-untyped]

# The library's warnings and errors go to the user's functions in each harness.
logging.disable(logging.CRITICAL)

# Only what is imported within is instrumented.
with atheris.instrument_imports(include=["fastpos", "websocket"]):
    harness = importlib.import_module(f"tests.fuzz.{sys.argv[1]}")

# To merge, libFuzzer runs itself anew, by the words of its first argument.
command = f"{sys.executable} -m {__spec__.name} {sys.argv[1]}"
atheris.Setup([command, *sys.argv[2:]], harness.one, custom_mutator=harness.mutate)
atheris.Fuzz()
