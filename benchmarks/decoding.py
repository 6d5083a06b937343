"""The process that decodes: one decoder, timed on command.

python -m benchmarks.decoding NAME
"""

import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import worker
from benchmarks.decoders import DECODERS, Decoder
from benchmarks.frames import FRAMES
from benchmarks.reading import reader
from benchmarks.spec import Unavailable

__all__: list[str] = []


def _timed(decoder: Decoder, frame: str, calls: int, read: bool) -> float:
    """CPU seconds for each call, with nothing in the loop but the call.

    On a quiet machine they are the seconds of a clock; on another they are less disturbed.
    """
    data = FRAMES[frame]
    step: Callable[[bytes], Any] = decoder.decode
    if read:
        decode, read_all = decoder.decode, reader(frame, of_events=decoder.gives_events)

        def step(data: bytes) -> object:
            return read_all(decode(data))

    for _ in range(calls // 10):  # this process's turn begins with the caches of another
        step(data)
    start = time.thread_time()
    for _ in itertools.repeat(None, calls):
        step(data)
    return (time.thread_time() - start) / calls


def main(name: str) -> None:
    control = worker.Control()
    try:
        decoder: Decoder = DECODERS[name].load()()
    except (ImportError, Unavailable) as reason:
        control.say(missing=str(reason))
        return
    control.say(ready=True)
    for command in control:
        control.say(seconds=_timed(decoder, command["frame"], command["calls"], command["read"]))


if __name__ == "__main__":
    main(sys.argv[1])
