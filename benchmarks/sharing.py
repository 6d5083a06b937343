"""The process that has workers share accounts, does something to them on command, and looks how
long that takes.

python -m benchmarks.sharing ACCOUNTS WORKERS RATE

Commands are

* `{"do": "kill"}` and `{"do": "term"}`: a worker is ended; until all accounts are subscribed;
* `{"do": "settle"}`, after each of these: another worker is started, and has its part;
* `{"do": "lose"}`: Redis does not answer, so all connections are closed; from the first to the
  last. Then it answers again, and all accounts are subscribed.
"""

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
            time.sleep(random.uniform(0.0, 1.5))  # anywhere between two renewals
            if command["do"] == "lose":
                control.say(seconds=_closing(server, crowd, serving))
            else:
                control.say(seconds=_ending(serving, command["do"] == "kill"))


def _ending(serving: Any, at_once: bool) -> float:
    victim = random.choice(list(serving.processes))
    began = time.monotonic()
    if at_once:
        serving.kill(victim)
        return float(serving.owned_again(began, _PATIENCE))
    serving.processes[victim].terminate()
    serving.wait(lambda: not serving.parts()[victim], _PATIENCE)
    seconds = float(serving.owned_again(began, _PATIENCE))
    serving.processes.pop(victim).wait(_PATIENCE)
    return seconds


def _closing(server: redis_server.Server, crowd: Any, serving: Any) -> float:
    began = time.monotonic()
    server.pause()
    serving.wait(lambda: not any(serving.parts().values()), _PATIENCE)
    ended = [visit.ended for visit in crowd.visits if visit.ended > began]
    server.go_on()
    serving.wait(serving.all_owned, _PATIENCE)
    return float(max(ended) - min(ended))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
