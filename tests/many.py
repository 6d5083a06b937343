"""Many streams in one fleet, for long or through a storm.

    python -m tests.many --streams 8000 --minutes 10 --rate 0.5
    python -m tests.many --streams 1000 --minutes 0.5 --connect-rate 200 --storm

The exchange is in a process of its own. In every round it sends each subscribed connection the
round's number; both sides note which numbers went and came. With `--storm` it ends all connections
at half time and all at once, is away for a moment, and returns.

Exit status 1 unless

- every stream is subscribed at the end, and without a storm has had one connection only;
- every number that was sent on a connection has come, in order, up to where that broke;
- on every connection each ping came within `PING_LATE` seconds of the subscription or of the last;
- the memory is flat (see tests/soak.py), without a storm. A count takes a block from 257 on, as
  CPython keeps one object for each smaller number; the blocks are counted as if it did not;
- no more connections were attempted in any second than `--connect-rate` allows, and no stream has
  attempted one before its policy let it;
- after a storm all were back within `BACK_WITHIN` seconds of the exchange's return.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import resource
import socket
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

from fastpos import Fleet, PositionStream, ReconnectPolicy
from tests.soak import Sample, grows, keep_memory_tidy, sample
from tests.support.frames import CLOSE, TEXT, frame, text_frame, whole_frames
from tests.support.ledger import Ranges, compare, count, note
from tests.support.pushes import push_frame
from tests.support.rig import LOOPBACK
from tests.support.upgrade import request_in, upgrade_response

PING_INTERVAL = 30.0  # seconds, the default
PING_LATE = 2.0  # so much later than that may one come at the exchange
BACK_WITHIN = 8.0
AWAY = 1.0  # for so long is the exchange away in a storm, seconds
STEP = 0.01  # the exchange sends to some of its clients every so many seconds
PATIENCE = 30.0
# How a stream may be seen to attempt before it was let: the timer's resolution, seconds.
RESOLUTION = 0.001
# The smaller ints are there anyway, those from here on are objects of whoever counts.
OWN_INTS = 257
# How many counts there are of each stream that begin at 0 and go up by one with each frame: what
# its link, session, `stats` and route of orders count, and the number that came, here.
COUNTS = 5
# What the threads that connect may add to a second by being late in the one before.
SPARE = 1.02


def allow_descriptors(wanted: int) -> None:
    """Raise the limit; raises SystemExit where that is not enough."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"{wanted} descriptors are needed; this system allows {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- the exchange's process -----------------------------------------------------------------------


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, exchange: ManyExchange) -> None:
        self._exchange = exchange
        self._buffer = b""
        self._upgraded = False
        self._heard = 0.0  # when it was subscribed, or last pinged
        self.stream = -1
        self.sent: Ranges = []
        self.subscribed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self.look_at_pings(time.monotonic())
        self.subscribed = False

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            if b"\r\n\r\n" not in self._buffer:
                return
            _, headers, self._buffer = request_in(self._buffer)
            self.stream = int(headers["x-stream"])
            greeting = text_frame("connect success")
            self.transport.write(upgrade_response(headers["sec-websocket-key"]) + greeting)
            self._exchange.clients.append(self)
            self._upgraded = True
        frames, self._buffer = whole_frames(self._buffer)
        for each in frames:
            if each.opcode == TEXT and b'"ping"' in each.payload:
                self.look_at_pings(time.monotonic())
                self.transport.write(text_frame(f'{{"pong":{time.time_ns() // 1000000}}}'))
            elif each.opcode == TEXT and b'"sub"' in each.payload:
                self.transport.write(text_frame("sub success"))
                self._heard, self.subscribed = time.monotonic(), True
            elif each.opcode == CLOSE:
                self.subscribed = False
                self.transport.write(frame(CLOSE, each.payload))
                self.transport.close()

    def look_at_pings(self, now: float) -> None:
        """Note for how long none came."""
        if self.subscribed:
            self._exchange.longest = max(self._exchange.longest, now - self._heard)
            self._heard = now

    def send(self, number: int, data: bytes) -> None:
        note(self.sent, number)
        self.transport.write(data)

    def cut(self) -> None:
        """RST, as from a server that has died."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection_lost(None)
        self.transport.abort()


class ManyExchange:
    """Sends rounds until it is told to finish."""

    def __init__(self, rate: float) -> None:
        self.clients: list[Client] = []
        self.longest = 0.0  # between two pings, seconds
        self.last = 0
        self._rate = rate
        self._port = 0
        self._due = 0.0
        self._finishing = False

    async def run(self, pipe: Pipe) -> None:
        loop = asyncio.get_running_loop()
        server = await self._listen()
        pipe.send(self._port)
        await loop.run_in_executor(None, pipe.recv)
        self._due = time.monotonic()
        rounds = asyncio.create_task(self._send_rounds())
        while (word := await loop.run_in_executor(None, pipe.recv)) == "storm":
            server.close()
            for client in self.clients:
                if client.subscribed:
                    client.cut()
            await asyncio.sleep(AWAY)
            server = await self._listen()
            pipe.send(time.monotonic())
        self._finishing = True
        await rounds
        now = time.monotonic()
        for client in self.clients:
            client.look_at_pings(now)
        sent: defaultdict[int, list[Ranges]] = defaultdict(list)
        for client in self.clients:
            sent[client.stream].append(client.sent)
        pipe.send((self.last, self.longest, dict(sent)))
        assert word == "finish"
        await loop.run_in_executor(None, pipe.recv)
        server.close()

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        listener = socket.create_server((LOOPBACK, self._port), backlog=4096)
        self._port = listener.getsockname()[1]
        return await loop.create_server(lambda: Client(self), sock=listener, backlog=4096)

    async def _send_rounds(self) -> None:
        while not self._finishing:
            await self._send_round()
        await self._send_round()  # which all get that are there by now

    async def _send_round(self) -> None:
        self.last += 1
        number = self.last
        order = {"orderId": "1", "volume": number, "orderAction": "1"}
        data = push_frame({"channel": "order", "order": order})
        takers = [client for client in self.clients if client.subscribed]
        steps = max(int(1 / self._rate / STEP), 1)
        for step in range(steps):
            for client in takers[step::steps]:
                if client.subscribed:
                    client.send(number, data)
            self._due += 1 / self._rate / steps
            await asyncio.sleep(max(self._due - time.monotonic(), 0.0))


def serve(pipe: Pipe, streams: int, rate: float) -> None:
    allow_descriptors(2 * streams + 100)
    asyncio.run(ManyExchange(rate).run(pipe))


# --- the fleet's process --------------------------------------------------------------------------


class Listener(ReconnectPolicy):
    """Notes what one stream is told, when it attempts a connection, and when it may."""

    __slots__ = ("allowed", "attempts", "ready_at", "sessions")

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[float] = []
        self.allowed: list[float] = [0.0]
        self.sessions: list[Ranges] = []
        self.ready_at = 0.0

    def delay(self, *args: Any, **more: Any) -> float:
        wait = super().delay(*args, **more)
        self.allowed.append(time.monotonic() + wait)
        return wait

    def credential(self) -> str:
        self.attempts.append(time.monotonic())
        return "key"

    def on_ready(self, _: object) -> None:
        self.ready_at = time.monotonic()
        self.sessions.append([])

    def on_order(self, event: Any) -> None:
        note(self.sessions[-1], int(event.volume))

    @property
    def latest(self) -> int:
        return self.sessions[-1][-1][1] if self.sessions and self.sessions[-1] else 0


def wait_until(condition: Callable[[], object], timeout: float) -> bool:
    """Look ten times a second: a thousand streams are asked each time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def counted(listeners: list[Listener], collect: bool = False) -> Sample:
    """Take a sample, as if each count took a block from the first frame on."""
    taken = sample(collect)
    taken["blocks"] += COUNTS * sum(listener.latest < OWN_INTS for listener in listeners)
    return taken


def spent() -> float:
    """Processor time of all threads but this one, which looks at what they do, seconds."""
    return time.process_time() - time.thread_time()


def most_in_a_second(times: list[float]) -> int:
    """Of all seconds, wherever they begin."""
    most = first = 0
    times = sorted(times)
    for last, at in enumerate(times):
        while times[first] <= at - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def run(streams: int, minutes: float, rate: float, connect_rate: float, storm: bool) -> list[str]:
    """Run it; give what is wrong."""
    spawning = multiprocessing.get_context("spawn")
    pipe, theirs = spawning.Pipe()
    process = spawning.Process(target=serve, args=(theirs, streams, rate), daemon=True)
    process.start()
    theirs.close()
    url = f"ws://{LOOPBACK}:{pipe.recv()}/"
    problems: list[str] = []
    listeners = [Listener() for _ in range(streams)]
    began = time.monotonic()
    fleet = Fleet(
        (
            PositionStream(
                url,
                api_key=listener.credential,
                broker=1003,
                name=f"stream-{number}",
                proxy="",
                ping_interval=PING_INTERVAL,
                headers={"X-Stream": str(number)},
                reconnect=listener,
                on_ready=listener.on_ready,
                on_order=listener.on_order,
            )
            for number, listener in enumerate(listeners)
        ),
        connect_rate=connect_rate,
    )
    with fleet:
        if not fleet.wait_ready(streams / connect_rate + PATIENCE):
            problems.append(f"at the beginning: {fleet.stats}")
        print(f"{streams} streams, subscribed in {time.monotonic() - began:.1f} s", flush=True)
        pipe.send("go")
        samples = [counted(listeners, collect=True)]
        used, began = spent(), time.monotonic()
        ends, stormed = began + minutes * 60, not storm
        while (remaining := ends - time.monotonic()) > 0:
            time.sleep(min(remaining, max(minutes, 0.1)))
            samples.append(counted(listeners))
            if not stormed and remaining < minutes * 30:
                stormed = True
                pipe.send("storm")
                returned = pipe.recv()
                if not wait_until(lambda: fleet.stats.ready == streams, 2 * BACK_WITHIN + PATIENCE):
                    problems.append(f"after the storm: {fleet.stats}")
                back = max(listener.ready_at for listener in listeners) - returned
                print(f"all are back {back:.2f} s after the exchange")
                if back > BACK_WITHIN:
                    problems.append(f"back after {back:.2f} s")
        used, lasted = spent() - used, time.monotonic() - began
        pipe.send("finish")
        last, longest, sent = pipe.recv()
        wait_until(lambda: all(listener.latest == last for listener in listeners), PATIENCE)
        stats = fleet.stats
        if stats.ready != streams:
            problems.append(f"at the end: {stats}")
    pipe.send("end")
    process.join()
    pipe.close()

    for number, listener in enumerate(listeners):
        sessions, theirs_sent = listener.sessions, sent.get(number, [])
        end = len(sessions) - 1
        found = compare(
            [(ranges, at == end) for at, ranges in enumerate(sessions)],
            [(ranges, False) for ranges in theirs_sent],
        )
        if end != storm or len(theirs_sent) != len(sessions):
            found.append(f"{len(sessions)} subscriptions, {len(theirs_sent)} connections")
        early = zip(listener.attempts, listener.allowed, strict=False)
        if any(at < allowed - RESOLUTION for at, allowed in early):
            found.append(f"attempts at {listener.attempts}, allowed at {listener.allowed}")
        problems += [f"stream-{number}: {what}" for what in found]
    attempts = [at for listener in listeners for at in listener.attempts]
    most = most_in_a_second(attempts)
    if most > connect_rate * SPARE:
        problems.append(f"{most} attempts in one second")
    if longest > PING_INTERVAL + PING_LATE:
        problems.append(f"no ping for {longest:.2f} s")
    frames = sum(count(ranges) for each in sent.values() for ranges in each)
    came = sum(count(ranges) for listener in listeners for ranges in listener.sessions)
    print(
        f"{frames} frames sent in {last} rounds, {came} came; no ping for at most {longest:.2f} s; "
        f"{len(attempts)} attempts, at most {most} in a second"
    )
    print(
        f"{samples[-1]['threads']} threads, {used / lasted:.1%} of a core, "
        f"{used / max(came, 1) * 1e6:.0f} µs a frame; "
        f"slowest turn {stats.slowest_turn_s * 1e3:.0f} ms"
    )
    if not storm:
        problems += grows(samples)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="Many streams in one fleet.")
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.5, help="frames a second for each stream")
    parser.add_argument("--connect-rate", type=float, default=200.0)
    parser.add_argument("--storm", action="store_true", help="the exchange kills all connections")
    options = parser.parse_args()
    keep_memory_tidy("tests.many")
    logging.getLogger("fastpos").setLevel(logging.CRITICAL)
    allow_descriptors(2 * options.streams + 100)
    problems = run(**vars(options))
    for problem in problems[:20]:
        print(f"FAILED: {problem}")
    print("failed" if problems else "all is well")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
