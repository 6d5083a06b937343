"""The process that publishes to a Redis of its own, timed on command.

python -m benchmarks.publishing memory|journal

Each time so many pushes are handed over as quickly as they are taken, ten at once, as a reader
would; the time ends when the server has the last one. Nothing is received or decoded.
"""

import gzip
import sys
import tempfile
import time
from typing import Any

from benchmarks import redis_server, worker
from benchmarks.frames import FRAMES, MIXED

__all__: list[str] = []

_AT_ONCE = 10  # so many pushes were read at once
_AHEAD = 50_000  # no more wait than these


class _Publishing:
    def __init__(self, url: str, journal: Any) -> None:
        import redis  # noqa: PLC0415 -- an extra

        from fastpos.journal.recorder import Recorder  # noqa: PLC0415
        from fastpos.redis import Publisher  # noqa: PLC0415
        from fastpos.wire.credential import Credential  # noqa: PLC0415

        self._client = redis.Redis.from_url(url)
        publisher = Publisher(url, journal=journal)
        self._recorder = Recorder(publisher, "alice", Credential("api_key", "key-of-nobody"))
        self._recorder.open()
        self._recorder.started({})
        self._given = 1
        self._texts = [gzip.decompress(FRAMES[MIXED[n % len(MIXED)]]) for n in range(_AT_ONCE)]

    def run(self, records: int) -> float:
        began = time.perf_counter()
        for _ in range(records // _AT_ONCE):
            texts = [*self._texts]
            entry = self._recorder.pushes(texts, time.time_ns())
            if entry is not None:
                self._recorder.delivered(entry, len(texts), are_json=True)
            self._given += len(texts)
            if self._given % 1000 < _AT_ONCE:
                self._wait(_AHEAD)
        self._wait(0)
        return time.perf_counter() - began

    def _wait(self, ahead: int) -> None:
        while self._given - self._published() > ahead:
            time.sleep(0.002)

    def _published(self) -> int:
        found: Any = self._client.xrevrange("fastpos:{alice}:events", count=1)
        return int(found[0][0].split(b"-")[1]) if found else 0

    def close(self) -> None:
        self._recorder.close()


def main(what: str) -> None:
    control = worker.Control()
    try:
        __import__("redis")
    except ImportError as error:
        control.say(missing=str(error))
        return
    if redis_server.WHY_NOT:
        control.say(missing=redis_server.WHY_NOT)
        return
    from fastpos.journal import Journal  # noqa: PLC0415

    with redis_server.Server() as server, tempfile.TemporaryDirectory() as folder:
        publishing = _Publishing(server.url, Journal(folder) if what == "journal" else None)
        try:
            control.say(ready=True)
            for command in control:
                records = command["records"]
                control.say(seconds=publishing.run(records) / records)
        finally:
            publishing.close()


if __name__ == "__main__":
    main(sys.argv[1])
