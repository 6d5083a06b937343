"""Makes the recorded day anew: `python -m tests.recorded_day`.

It is the demo's: `examples/recorded_day/` has its journal, and `tests/journal/recorded_day.jsonl`
what the functions were called with while it was recorded, a call on each line, the last line what
was known at the end. tests/journal/test_recorded_day.py compares replays with that.
"""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

from fastpos import PositionStream
from fastpos.cli.demo import run_demo
from fastpos.journal import Journal
from fastpos.runtime.callbacks import CALLBACK_NAMES
from tests.support.digest import Digest, told

ROOT = Path(__file__).parent.parent
DAY = ROOT / "examples" / "recorded_day"
CALLS = ROOT / "tests" / "journal" / "recorded_day.jsonl"


class Calls:
    """Keeps a stream's calls as lines, and what it knows at the end."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.stream: PositionStream | None = None

    def follow(self, stream: PositionStream) -> None:
        """Register the functions."""
        self.stream = stream
        for name in CALLBACK_NAMES:

            def note(event: object, name: str = name) -> None:
                self.lines.append(told(name, event))

            getattr(stream, name)(note)

    @property
    def text(self) -> bytes:
        """All of it."""
        assert self.stream is not None
        end = Digest()
        for store in ("positions", "balances", "orders", "triggers"):
            for each in getattr(self.stream, store).values():
                end.note(each, store)
        return b"\n".join([*self.lines, end.value.encode(), b""])


def main() -> None:
    calls = Calls()
    with tempfile.TemporaryDirectory() as folder:
        run_demo(show=lambda text: None, prepare=calls.follow, journal=Journal(folder))
        (packed,) = Path(folder).glob("*.gz")
        DAY.mkdir(exist_ok=True)
        for old in DAY.glob("*.jsonl*"):
            old.unlink()
        day = DAY / packed.name.removesuffix(".gz")
        day.write_bytes(gzip.decompress(packed.read_bytes()))
    CALLS.write_bytes(calls.text)
    print(f"{day}: {day.stat().st_size} bytes, {len(calls.lines)} calls")


if __name__ == "__main__":
    main()
