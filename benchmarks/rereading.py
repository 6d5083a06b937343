"""The process that reads or replays a journal, timed on command.

python -m benchmarks.rereading read|read-gzip|replay-pure|replay-native
"""

import gzip
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from benchmarks import worker
from benchmarks.frames import FRAMES, MIXED

__all__: list[str] = []

_AT_ONCE = 10  # so many pushes were read at once


def _write(folder: Path, records: int, packed: bool) -> None:
    """Write a journal of so many pushes, as a stream would have."""
    from fastpos.journal import format as lines  # noqa: PLC0415 -- after FASTPOS_PURE was heard

    label = lines.label_of("alice")
    texts = [gzip.decompress(FRAMES[MIXED[n % len(MIXED)]]) for n in range(_AT_ONCE)]
    content = [
        lines.header_line(1, {"library": "benchmark"}),
        lines.line_of(label, 0, 1, "started", {"run": 1}),
        *(lines.push_lines(label, 1, ns, texts) for ns in range(records // _AT_ONCE)),
    ]
    data = b"".join(content)
    data += lines.check_line(2, lines.crc_of(data))
    name = folder / "20261126T000000.000000Z.jsonl"
    if packed:
        name.with_name(name.name + ".gz").write_bytes(gzip.compress(data, 1))
    else:
        name.write_bytes(data)


def _timed(what: str, folder: Path) -> float:
    from fastpos.journal import read, replay  # noqa: PLC0415

    began = time.perf_counter()
    if what.startswith("read"):
        deque(read(folder), maxlen=0)
    else:
        replay(folder)
    return time.perf_counter() - began


def main(what: str) -> None:
    control = worker.Control()
    why_not = __import__("fastpos._c", fromlist=["why_not"]).why_not
    if what == "replay-native" and why_not:
        control.say(missing=", ".join(f"{part}: {why}" for part, why in why_not.items()))
        return
    control.say(ready=True)
    written = 0
    with tempfile.TemporaryDirectory() as folder:
        for command in control:
            records = command["records"]
            if records != written:
                _write(Path(folder), records, what == "read-gzip")
                written = records
                _timed(what, Path(folder))  # to warm up
            control.say(seconds=_timed(what, Path(folder)) / records)


if __name__ == "__main__":
    main(sys.argv[1])
