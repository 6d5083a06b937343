"""The simulator in a process of its own, so that its threads and memory do not count here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe

from tests.support.certificates import Certificates

__all__ = ["Elsewhere", "exchange_elsewhere", "spawning"]

spawning = get_context("spawn")
"""Fresh processes, so that no memory is used again that something else has left."""


@dataclass
class Elsewhere:
    """How to reach it."""

    pipe: Pipe
    url: str
    api_key: str
    broker: int

    def counts(self) -> dict[str, int]:
        """What the exchange has counted; it has seen no violation of the protocol."""
        self.pipe.send(None)
        counts, violations = self.pipe.recv()
        assert violations == []
        return dict(counts)


def _serve(pipe: Pipe, certificates: Certificates | None) -> None:
    from fastpos.simulator import Exchange  # noqa: PLC0415 -- nothing for a process measured

    context = None if certificates is None else certificates.good.context()
    with Exchange(ssl_context=context) as exchange:
        pipe.send((exchange.url, exchange.api_key, exchange.broker))
        while True:
            pipe.recv()
            pipe.send((dict(exchange.counts), exchange.violations))


@contextmanager
def exchange_elsewhere(certificates: Certificates | None) -> Iterator[Elsewhere]:
    """Over TLS if there are certificates."""
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(theirs, certificates))
    process.start()
    theirs.close()
    try:
        yield Elsewhere(ours, *ours.recv())
    finally:
        process.terminate()  # it has nothing to do any more
        process.join(10)
        process.close()
        ours.close()
