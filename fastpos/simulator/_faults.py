"""What the exchange is told to do wrong. Pure data, guarded by the exchange's lock.

The sockets' threads read single attributes without the lock; each is replaced whole.
"""

from dataclasses import dataclass, field


@dataclass
class Answer:
    """An HTTP answer to give instead of the right one."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Planned:
    """A fault that happens the next `times` times, or until it is cleared (None)."""

    times: int | None = None
    answer: Answer | None = None
    text: str = ""
    path: str | None = None
    """Of a REST request: only for this path."""

    def take(self) -> bool:
        """Whether the fault happens now; counts one."""
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass
class Faults:
    """Everything that can go wrong on purpose; a new one is an exchange without faults."""

    pushes: bool = True
    """Pushes go out."""
    pongs: bool = True
    """Pings are answered, the application's and WebSocket's."""
    handshakes: bool = True
    """Upgrades and subscriptions are answered."""
    closes: bool = True
    """The server answers close frames and ends connections."""
    reading: bool = True
    """The server reads what clients send."""
    trickle: tuple[int, float] | None = None
    """(bytes, seconds): what goes out goes in pieces of so many bytes, with a pause after each."""

    upgrade: Planned | None = None
    no_greeting: Planned | None = None
    no_sub_answer: Planned | None = None
    refuse_sub: Planned | None = None
    early_pushes: list[bytes] = field(default_factory=list)
    """Frames that go out right before the next `sub success`."""

    rest: Planned | None = None
    rest_delay: float = 0.0

    @property
    def quiet(self) -> bool:
        """Whether the exchange can't be expected to judge a client's heartbeat."""
        return not (self.pongs and self.reading)
