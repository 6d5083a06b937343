"""fastpos with a journal, in a temporary folder."""

import tempfile
from collections.abc import Callable
from typing import Any

from benchmarks.peers import Target, fastpos_stream

__all__ = ["Client"]


class Client(fastpos_stream.Client):
    def __init__(self, target: Target, on_push: Callable[[Any], None]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        super().__init__(target, on_push, journal=self._folder.name)

    def stop(self) -> None:
        super().stop()
        self._folder.cleanup()
