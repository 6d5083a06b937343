"""fastpos where a process has many accounts: its streams are driven by one `Fleet`."""

import functools

from benchmarks.peers import fastpos_stream
from fastpos import Fleet

__all__ = ["Client"]


@functools.cache
def _fleet() -> Fleet:
    """The process's. The server may be met by all at once, as it may by the other peers."""
    return Fleet(connect_rate=None).start()


class Client(fastpos_stream.Client):
    def begin(self) -> None:
        _fleet().add(self.stream)
