"""The process that has workers share accounts, ends one of them on command, and looks how long that
leaves accounts alone.

python -m benchmarks.sharing ACCOUNTS WORKERS RATE

Commands are `{"do": "kill"}`, `{"do": "term"}`, and after each of these `{"do": "settle"}`: another
worker is started, and has its part.
"""

import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import redis_server, worker

__all__: list[str] = []

_PATIENCE = 50.0  # seconds


def main(accounts: int, workers: int, rate: str) -> None:
    control = worker.Control()
    try:
        from fastpos.redis.leases import LEASE  # noqa: PLC0415 -- an extra
        from tests.support.crowd import Crowd  # noqa: PLC0415 -- a checkout's
        from tests.support.workers import Workers  # noqa: PLC0415

        __import__("redis")
    except ImportError as error:
        control.say(missing=str(error))
        return
    if redis_server.WHY_NOT:
        control.say(missing=redis_server.WHY_NOT)
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_server.Server() as server,
        Crowd() as crowd,
        Workers(crowd, Path(folder), accounts, "--connect-rate", rate, installed=True) as serving,
    ):
        for number in range(workers):
            serving.add(f"worker-{number}", server.url)
        serving.settle(_PATIENCE)
        control.say(lease=LEASE)
        for command in control:
            if command["do"] == "settle":
                workers += 1
                serving.add(f"worker-{workers}", server.url)
                serving.settle(_PATIENCE)
                control.say(settled=True)
                continue
            victim = random.choice(list(serving.processes))
            time.sleep(random.uniform(0.0, 1.5))  # anywhere between two renewals
            began = time.monotonic()
            if command["do"] == "kill":
                serving.kill(victim)
            else:
                serving.processes[victim].terminate()
                serving.wait(lambda who=victim: not serving.parts()[who], _PATIENCE)
            seconds = serving.owned_again(began, _PATIENCE)
            if command["do"] == "term":
                serving.processes.pop(victim).wait(_PATIENCE)
            control.say(seconds=seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
