"""The process that publishes to a Redis of its own, timed on command.

python -m benchmarks.publishing memory|journal|many|KIND

Each time so many pushes are handed over as quickly as they are taken; the time ends when the server
has the last one. Nothing is received or decoded.

* memory, journal: of one stream, ten at once, as a reader would in a burst.
* many: of a thousand streams, one push of each, and the next when all are published. So each record
  is a call of its own to the server, as of a fleet whose accounts tick once a second.
* KIND, one of `FRAMES`: the same with pushes of that kind only.
"""

import gzip
import sys
import tempfile
import time
from typing import Any

from benchmarks import redis_server, worker
from benchmarks.frames import FRAMES, MIXED

__all__ = ["STREAMS"]

STREAMS = 1000
"""How many there are where there are many."""
_AT_ONCE = 10  # so many pushes were read at once
_AHEAD = 50_000  # no more wait than these


class _Publishing:
    def __init__(self, url: str, journal: Any, streams: int, kinds: tuple[str, ...]) -> None:
        import redis  # noqa: PLC0415 -- an extra

        from fastpos.journal.recorder import Recorder  # noqa: PLC0415
        from fastpos.redis import Publisher  # noqa: PLC0415
        from fastpos.wire.credential import Credential  # noqa: PLC0415

        self._client = redis.Redis.from_url(url)
        self._texts = [gzip.decompress(FRAMES[kinds[n % len(kinds)]]) for n in range(_AT_ONCE)]
        publisher = Publisher(url, journal=journal)
        credential = Credential("api_key", "key-of-nobody")
        before = worker.resident()
        self._recorders = [Recorder(publisher, f"{n}", credential) for n in range(streams)]
        for recorder in self._recorders:
            recorder.open()
            recorder.started({})
        if len(kinds) == 1:  # a file that was rewritten says nothing of a record
            self._client.config_set("auto-aof-rewrite-percentage", 0)
        self._given = 1  # of the last stream
        self._wait(0)
        self.resident = (worker.resident() - before) / streams
        """Bytes that each stream takes."""

    def run(self, records: int) -> dict[str, float]:
        """Publish them; give what each took."""
        before = self._used()
        began = time.perf_counter()
        if len(self._recorders) == 1:
            for _ in range(records // _AT_ONCE):
                self._hand_over(self._recorders[0], [*self._texts])
                self._given += _AT_ONCE
                if self._given % 1000 < _AT_ONCE:
                    self._wait(_AHEAD)
            self._wait(0)
        else:
            for n in range(records // len(self._recorders)):
                for recorder in self._recorders:
                    self._hand_over(recorder, [self._texts[n % _AT_ONCE]])
                self._given += 1
                self._wait(0)
        seconds = time.perf_counter() - began
        after = self._used()
        used = {name: (value - before[name]) / records for name, value in after.items()}
        return {"seconds": seconds / records, "resident": self.resident, **used}

    def _hand_over(self, recorder: Any, texts: list[bytes]) -> None:
        entry = recorder.pushes(texts, time.time_ns())
        if entry is not None:
            recorder.delivered(entry, len(texts), are_json=True)

    def _used(self) -> dict[str, float]:
        """What was used until now, here and by the server: seconds and bytes."""
        info: Any = self._client.info("all")
        return {
            "cpu": time.process_time(),
            "redis_cpu": info["used_cpu_user"] + info["used_cpu_sys"],
            "memory": info["used_memory"],
            "received": info["total_net_input_bytes"],
            "appended": info["aof_current_size"],
        }

    def _wait(self, ahead: int) -> None:
        while self._given - self._published() > ahead:
            time.sleep(0.002)

    def _published(self) -> int:
        """How many of the last stream are; the others' were handed over before."""
        key = f"fastpos:{{{len(self._recorders) - 1}}}:events"
        found: Any = self._client.xrevrange(key, count=1)
        return int(found[0][0].split(b"-")[1]) if found else 0

    def close(self) -> None:
        for recorder in self._recorders:
            finish = recorder.close()
            if finish is not None:
                finish()


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
        journal = Journal(folder) if what == "journal" else None
        streams = 1 if what in ("memory", "journal") else STREAMS
        publishing = _Publishing(server.url, journal, streams, (what,) if what in FRAMES else MIXED)
        try:
            control.say(ready=True)
            for command in control:
                control.say(**publishing.run(command["records"]))
        finally:
            publishing.close()


if __name__ == "__main__":
    main(sys.argv[1])
