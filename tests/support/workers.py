"""Processes of `fastpos serve --redis`, which share the accounts of one file on a `Crowd`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import sqrt
from pathlib import Path

from tests.support.crowd import Crowd
from tests.support.programs import ROOT
from tests.support.rig import Rig


class Workers(Rig):
    """Some of them, by name.

    Args:
        crowd: the exchange.
        folder: for the file of accounts and the workers' output.
        count: how many accounts.
        words: more for `fastpos serve`.
        installed: the fastpos that is installed runs, not the one beside the tests.
    """

    def __init__(
        self, crowd: Crowd, folder: Path, count: int, *words: str, installed: bool = False
    ) -> None:
        super().__init__()
        self._crowd = crowd
        self._folder = folder
        self._words = words
        self._path = {} if installed else {"PYTHONPATH": str(ROOT)}
        self.accounts = [f"account-{number}" for number in range(count)]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.held_up: list[tuple[str, float, float]] = []
        """Which worker was, since when and until when."""
        self._asleep: dict[str, float] = {}

    def _start(self) -> None:
        text = (
            f'[defaults]\nurl = "{self._crowd.url}"\nproxy = ""\nbroker = 1003\n'
            "reconnect = { initial = 0.1 }\n"
        )
        for number, name in enumerate(self.accounts):
            text += f'[accounts.{name}]\napi_key = {{ env = "KEY_{number}" }}\n'
        self.file = self._folder / "accounts.toml"
        self.file.write_text(text)
        self._cleanup.callback(self._end_all)

    def _end_all(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.send_signal(signal.SIGCONT)
            process.wait()

    def add(self, worker: str, url: str, *words: str) -> None:
        """Start one; `url` is the Redis' for it. It has a key for an account named new, too.

        Args:
            worker: its name.
            url: see above.
            words: more for this one.
        """
        names = [*self.accounts, "new"]
        keys = {f"KEY_{number}": f"{name}@{worker}" for number, name in enumerate(names)}
        with self.log(worker).open("ab") as output:
            self.processes[worker] = subprocess.Popen(
                [sys.executable, "-u", "-m", "fastpos", "serve", str(self.file), *self._words,
                 *words, "--redis", url],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self._path, **keys},
                cwd=self._folder,
            )  # fmt: skip

    def log(self, worker: str) -> Path:
        """Where its output goes."""
        return self._folder / f"{worker}.log"

    def log_has(self, text: str, times: int = 1) -> bool:
        """Whether each that runs has written it so often."""
        return all(self.log(each).read_text().count(text) >= times for each in self.processes)

    def kill(self, worker: str) -> None:
        """SIGKILL."""
        process = self.processes.pop(worker)
        process.kill()
        process.wait()

    def stop(self, worker: str) -> None:
        """SIGSTOP."""
        self._asleep[worker] = time.monotonic()
        self.processes[worker].send_signal(signal.SIGSTOP)

    def go_on(self, worker: str, grace: float) -> None:
        """SIGCONT; what it does in the next `grace` seconds is excused, too."""
        until = time.monotonic() + grace
        self.held_up.append((worker, self._asleep.pop(worker), until))
        self.processes[worker].send_signal(signal.SIGCONT)

    def terminate(self, worker: str, timeout: float = 10.0) -> int:
        """SIGTERM; give the exit status."""
        process = self.processes.pop(worker)
        process.terminate()
        return process.wait(timeout)

    def all_owned(self) -> bool:
        """Whether each account is subscribed by one worker that is not held up."""
        owners = self._crowd.owners(self._asleep)
        return len(owners) == len(self.accounts) and all(map(len, owners.values()))

    def parts(self) -> dict[str, int]:
        """How many accounts each worker has."""
        found = dict.fromkeys(self.processes, 0)
        for who in self._crowd.owners().values():
            for worker in who:
                found[worker] = found.get(worker, 0) + 1
        return found

    def doubled(self) -> list[str]:
        """See `Crowd.doubled`."""
        now = time.monotonic()
        return self._crowd.doubled(
            [*self.held_up, *((who, since, now) for who, since in self._asleep.items())]
        )

    def wait(self, condition: Callable[[], object], timeout: float) -> float:
        """Wait until it is so; give how long it took, seconds, or raise AssertionError."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + timeout:
                raise AssertionError(f"not after {timeout} s: {self.parts()}\n{self.tails()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def settle(self, timeout: float) -> None:
        """Wait until all have about their part, which is up to chance, and every account is
        owned."""
        mean = len(self.accounts) / len(self.processes)
        least = max(mean - 6 * sqrt(mean), 1)

        def is_so() -> bool:
            parts = self.parts()
            return all(parts[name] >= least for name in self.processes) and self.all_owned()

        self.wait(is_so, timeout)

    def owned_again(self, began: float, timeout: float) -> float:
        """Wait until every account is, and stays so for a second; give how long after `began`."""
        while True:
            self.wait(self.all_owned, timeout)
            came = time.monotonic()
            if self.keeps(1.0):
                return came - began

    def keeps(self, seconds: float) -> bool:
        """Whether every account is owned all the time."""
        ends = time.monotonic() + seconds
        kept = True
        while time.monotonic() < ends:
            kept &= self.all_owned()
            time.sleep(0.05)
        return kept

    def tails(self) -> str:
        """The last lines of each worker's output."""
        shown = []
        for path in sorted(self._folder.glob("*.log")):
            lines = path.read_text(errors="replace").splitlines()
            wanted = [line for line in lines if "account-" not in line.partition("  ")[0]]
            shown += [f"--- {path.stem}", *wanted[-15:]]
        return "\n".join(shown)
