"""Workers that share accounts, and what may befall them: `python -m tests.workers --rounds 20`.

Three processes of `fastpos serve --redis` share the accounts. In each round one thing happens, one
after the other of

- kill:    SIGKILL to a worker, and another is started in its place later;
- stop:    SIGSTOP to a worker for 12 s;
- term:    SIGTERM to a worker, and another is started in its place later;
- restart: the Redis is killed, and is back a second later;
- empty:   the same, and it has lost all it knew;
- cut:     the network between a worker and the Redis carries nothing for 12 s;
- cut all: the same between all of them and the Redis, for 8 s;
- blip:    the same for 2 s.

A line for each round says how long it took until every account was owned again: after the fault, or
where nobody can own anything meanwhile, after its end. Exit status 1 unless

- that took at most 10 s, and after SIGTERM 2 s;
- no account was ever connected by two workers, but by one that was stopped;
- what was published of each account is in order: epochs never go back, and no record of an owner
  comes after the first of its successor;
- where Redis was away for less than a lease lasts, nothing was disconnected;
- whoever was stopped or cut off has said that it has lost its shards, and who was stopped, that
  what it sent yet was refused.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.crowd import Crowd
from tests.support.network import TcpProxy
from tests.support.redis_server import RedisServer
from tests.support.rig import LOOPBACK
from tests.support.workers import Workers

STOPPED, CUT, CUT_ALL, BLIP = 12.0, 12.0, 8.0, 2.0
WITHIN, WITHIN_TERM = 10.0, 2.0
PATIENCE = 40.0
FENCED = "is the owner no more"
KINDS = ("kill", "stop", "term", "restart", "cut", "cut all", "empty", "blip")


class Trial:
    """The rig, and what was found wrong."""

    def __init__(self, stack: ExitStack, accounts: int, rate: float) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.stack = stack
        self.crowd = stack.enter_context(Crowd())
        self.redis = stack.enter_context(RedisServer(persistent=True))
        self.workers = stack.enter_context(
            Workers(self.crowd, folder, accounts, "--connect-rate", str(rate))
        )
        self.proxies: dict[str, TcpProxy] = {}
        self.problems: list[str] = []
        self._number = 0
        self._doubled = 0
        self._last: dict[str, tuple[int, int]] = {}

    def add(self) -> None:
        """Start a worker, with a network of its own to the Redis."""
        self._number += 1
        name = f"worker-{self._number}"
        proxy = self.stack.enter_context(TcpProxy(LOOPBACK, self.redis.port))
        self.proxies[name] = proxy
        self.workers.add(name, f"redis://{LOOPBACK}:{proxy.port}/0")

    def settle(self) -> None:
        """Wait until all have about their part, and every account is owned."""
        self.workers.settle(PATIENCE)

    def round(self, kind: str) -> float:
        """Have it happen; give how long until all were owned again, seconds."""
        workers = self.workers
        victim = random.choice(list(workers.processes))
        time.sleep(random.uniform(0.0, 1.5))  # anywhere between two renewals
        lost = self.losses(victim)
        proxies = [self.proxies[name] for name in workers.processes]
        began = time.monotonic()
        if kind == "kill":
            workers.kill(victim)
            took = workers.owned_again(began, PATIENCE)
            self.add()
        elif kind == "term":
            if workers.terminate(victim):
                self.problems.append("it failed at the end")
            took = workers.owned_again(began, PATIENCE)
            self.add()
        elif kind == "stop":
            workers.stop(victim)
            took = workers.owned_again(began, PATIENCE)
            time.sleep(max(began + STOPPED - time.monotonic(), 0.0))
            workers.go_on(victim, 1.0)
            workers.wait(lambda: self.losses(victim) > lost, PATIENCE)
            workers.wait(lambda: FENCED in workers.log(victim).read_text(), PATIENCE)
        elif kind in ("restart", "empty"):
            if kind == "empty":
                self._last = {}
            self.redis.restart(1.0, empty=kind == "empty")
            took = workers.owned_again(time.monotonic(), PATIENCE)
            if not workers.keeps(6.0):
                self.problems.append("accounts were let go while Redis was away for a second")
        elif kind == "blip":
            for proxy in proxies:
                proxy.blackhole()
            if not workers.keeps(BLIP):
                self.problems.append("accounts were let go at once")
            for proxy in proxies:
                proxy.resume()
            took = workers.owned_again(time.monotonic(), PATIENCE)
            if not workers.keeps(4.0):
                self.problems.append("accounts were let go although their leases had not ended")
        elif kind == "cut":
            self.proxies[victim].blackhole()
            workers.wait(lambda: self.losses(victim) > lost, PATIENCE)
            took = workers.owned_again(began, PATIENCE)
            time.sleep(max(began + CUT - time.monotonic(), 0.0))
            self.proxies[victim].resume()
        else:
            for proxy in proxies:
                proxy.blackhole()
            time.sleep(CUT_ALL)
            if any(workers.parts().values()):
                self.problems.append("accounts are connected without a lease")
            for proxy in proxies:
                proxy.resume()
            took = workers.owned_again(time.monotonic(), PATIENCE)
        return took

    def losses(self, worker: str) -> int:
        """How often it has said that it has lost its shards."""
        text = self.workers.log(worker).read_text(errors="replace")
        return text.count("are not served here any more")

    def check(self) -> list[str]:
        """What is wrong since the last time."""
        doubled = self.workers.doubled()
        found = [*self.problems, *doubled[self._doubled : self._doubled + 5]]
        if len(doubled) > self._doubled + 5:
            found.append(f"… and {len(doubled) - self._doubled - 5} more")
        self._doubled = len(doubled)
        self.problems = []
        with self.redis.client() as client:
            for name in self.workers.accounts:
                found += self._published(client, name)
        return found

    def _published(self, client: Any, name: str) -> list[str]:
        """What is wrong with what was published of an account."""
        found = []
        last = self._last.get(name, (0, -1))
        start = f"({last[0]}-{last[1]}" if name in self._last else "-"
        for id, values in client.xrange(f"fastpos:{{{name}}}:events", start):
            epoch, sequence = map(int, id.split("-"))
            if (epoch, sequence) <= last:
                found.append(f"{name}: {id} after {last}")
            if epoch > last[0] and values["kind"] not in ("started", "state", "dropped"):
                found.append(f"{name}: epoch {epoch} begins with {values['kind']}")
            last = epoch, sequence
        self._last[name] = last
        if not last[0]:
            found.append(f"{name}: nothing was published")
        return found[:3]


def run(accounts: int, rounds: int, rate: float, kinds: tuple[str, ...]) -> int:
    """Run it; give how many rounds had faults."""
    faults = 0
    took: dict[str, list[float]] = {}
    with ExitStack() as stack:
        trial = Trial(stack, accounts, rate)
        for _ in range(3):
            trial.add()
        began = time.monotonic()
        trial.settle()
        print(f"{accounts} accounts, owned {time.monotonic() - began:.1f} s after the start")
        for number in range(1, rounds + 1):
            kind = kinds[(number - 1) % len(kinds)]
            seconds = trial.round(kind)
            took.setdefault(kind, []).append(seconds)
            again = time.monotonic()
            trial.settle()
            again = time.monotonic() - again
            wrong = trial.check()
            limit = WITHIN_TERM if kind == "term" else WITHIN
            if seconds > limit:
                wrong.append(f"that is more than {limit:g} s")
            parts = ", ".join(map(str, trial.workers.parts().values()))
            print(
                f"round {number:<3} {kind:<8} owned again after {seconds:5.2f} s, "
                f"shared again {again:4.1f} s later: {parts}",
                flush=True,
            )
            for what in wrong:
                print(f"  {what}", flush=True)
            if wrong:
                faults += 1
                print(trial.workers.tails())
        for process in list(trial.workers.processes):
            trial.workers.terminate(process)
    for kind, all_of in took.items():
        print(f"{kind:<8} {len(all_of)} times, at most {max(all_of):.2f} s")
    print("all is well" if not faults else f"{faults} of {rounds} rounds had faults")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accounts", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--connect-rate", type=float, default=100.0, help="of each worker")
    parser.add_argument("--kinds", default=",".join(KINDS), help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    kinds = tuple(options.kinds.split(","))
    return bool(run(options.accounts, options.rounds, options.connect_rate, kinds))


if __name__ == "__main__":
    sys.exit(main())
