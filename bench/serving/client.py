"""The load client: sends what a schedule says when it says so, and keeps bytes and times until it is over.

>>> played = asyncio.run(play_open(endpoint, jobs, Limits(), drain_s=30.0))
>>> played.answers[0].sent_ns - played.answers[0].due_ns, played.lag_ns[99]
(81_000, 120_000)

In an open loop a request is sent when it is due, whatever has become of those before it. In a closed loop each of
`users` sends its next one when its last has ended and it has thought. Nothing is parsed meanwhile, garbage is not
collected, and how late the client itself was is measured beside.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from membound.bench.serving.clocks import NS, Clocks
from membound.bench.serving.connection import Connection, Limits
from membound.bench.serving.endpoint import Endpoint
from membound.bench.serving.raw import RawAnswer
from membound.bench.serving.stamps import stamps_on
from membound.bench.serving.unpacking import unpack
from membound.no_collections import no_collections

LAG_EVERY_S = 0.01
CLOCKS_EVERY_NS = 100_000_000
SPIN_S = 0.0005
"""A sleep ends this much before a request is due; the rest is waited for in turns of the loop, so that it is not late."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request to send. Seconds from the start; of a closed loop the time that its user thinks before it."""

    due_s: float
    name: str
    """``completions`` or ``chat/completions``."""
    body: bytes
    asked_tokens: int | None = None
    """The length that the answer must have; None where the server may stop earlier."""
    kept: bool = False
    """Whether the body is kept, to compare the answer with the reference."""

    def raw(self, due_ns: int) -> RawAnswer:
        """Its answer, of which nothing has come."""
        return RawAnswer(due_ns, asked_tokens=self.asked_tokens, body=self.body if self.kept else b"")


@dataclass(slots=True)
class Played:
    """What came of it, in the order of the jobs, and what the client was like meanwhile."""

    started_ns: int
    answers: list[RawAnswer] = field(default_factory=list)
    lag_ns: list[int] = field(default_factory=list)
    """How much later than asked the event loop came round, every LAG_EVERY_S."""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    connections: int = 0
    stale: int = 0
    """Requests that met a connection which the server had just ended, and went out again on a new one."""

    @property
    def cpu_share(self) -> float:
        """Of one CPU."""
        return self.cpu_s / self.wall_s if self.wall_s else 0.0


class Pool:
    """Connections that wait for their next request; never more than there are requests at once."""

    def __init__(self, endpoint: Endpoint, limits: Limits, played: Played) -> None:
        self._endpoint, self._limits, self._played = endpoint, limits, played
        self._idle: list[Connection] = []
        self._rounds = None
        if (
            sys.platform == "linux" and not endpoint.tls
        ):  # Numba comes with them, which who only draws needs not
            from membound.bench.serving.rounds import Rounds

            self._rounds = Rounds()

    async def ask(self, job: Job, raw: RawAnswer) -> None:
        """Send one request and fill in its answer. A connection that the server has ended meanwhile is not used."""
        waiting = self._waiting()
        if waiting is not None:
            await self._ask(waiting, job, raw)
            if not _went_stale(raw):
                return
            self._played.stale += 1
            raw.again()
        try:
            fresh = await self._open()
        except OSError as error:
            raw.finish("unreachable", time.monotonic_ns(), error.strerror or str(error))
            return
        await self._ask(fresh, job, raw)

    async def _ask(self, connection: Connection, job: Job, raw: RawAnswer) -> None:
        await connection.play("POST", self._endpoint.path(job.name), job.body, raw)
        if connection.usable:
            self._idle.append(connection)

    def close(self) -> None:
        """Close them all."""
        for one in self._idle:
            one.close()
        self._idle.clear()
        if self._rounds is not None:
            self._rounds.close()

    def _waiting(self) -> Connection | None:
        while self._idle:
            one = self._idle.pop()
            if one.usable:
                return one
            one.close()
        return None

    async def _open(self) -> Connection:
        made = await Connection.open(self._endpoint, self._limits, self._rounds)
        self._played.connections += 1
        return made


def _went_stale(raw: RawAnswer) -> bool:
    """Whether the server had ended the connection before it got the request: nothing came, and it is asked again."""
    return raw.end in ("closed", "unreachable") and not raw.reads and not raw.status


Watch = Callable[[Played], None]


async def play_open(
    endpoint: Endpoint,
    jobs: Sequence[Job],
    limits: Limits,
    drain_s: float,
    watch: Watch = lambda played: None,
) -> Played:
    """Send each job when it is due. `drain_s` after the last one, what is under way ends as a timeout.

    `watch` is called with what there is once a second or so. On cancellation what was sent is kept: look at the
    `Played` that `watch` was given.
    """

    async def send(pool: Pool, played: Played) -> None:
        tasks = set[asyncio.Task[None]]()
        try:
            for job in jobs:
                raw = job.raw(played.started_ns + int(job.due_s * NS))
                await _until(raw.due_ns)
                played.answers.append(raw)
                task = asyncio.create_task(pool.ask(job, raw))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(tasks, timeout=drain_s)
        finally:
            await _ended(tasks)

    return await _play(endpoint, limits, send, watch)


async def play_closed(
    endpoint: Endpoint,
    jobs: Iterable[Job],
    limits: Limits,
    users: int,
    seconds: float,
    drain_s: float,
    watch: Watch = lambda played: None,
) -> Played:
    """`users` at a time, for `seconds`; a job's `due_s` is how long its user thinks before it.

    Jobs are taken as they are needed, each before its time begins, so that making it is in no latency.
    """

    async def send(pool: Pool, played: Played) -> None:
        waiting = iter(jobs)
        stop_ns = played.started_ns + int(seconds * NS)

        async def user() -> None:
            for job in waiting:
                due_ns = time.monotonic_ns() + int(job.due_s * NS)
                if due_ns >= stop_ns:
                    return
                await _until(due_ns)
                raw = job.raw(due_ns)
                played.answers.append(raw)
                await pool.ask(job, raw)

        tasks = {asyncio.create_task(user()) for _ in range(users)}
        try:
            await asyncio.wait(tasks, timeout=seconds + drain_s)
        finally:
            await _ended(tasks)

    return await _play(endpoint, limits, send, watch)


async def _play(
    endpoint: Endpoint, limits: Limits, send: Callable[[Pool, Played], Awaitable[None]], watch: Watch
) -> Played:
    with stamps_on():
        played, clocks = Played(time.monotonic_ns()), Clocks()
        clocks.sample()
        pool = Pool(endpoint, limits, played)
        meter = asyncio.create_task(_measure_lag(played, clocks, watch))
        _allow_connections()
        gc.collect()
        with no_collections():  # one would stop the client for milliseconds in the middle of a stream
            cpu_s, played.started_ns = time.process_time(), time.monotonic_ns()
            try:
                await send(pool, played)
            finally:
                played.cpu_s = time.process_time() - cpu_s
                played.wall_s = (time.monotonic_ns() - played.started_ns) / NS
                meter.cancel()
                pool.close()
                clocks.sample()
                for raw in played.answers:
                    raw.finish("timeout", time.monotonic_ns(), "under way when the run ended")
                    unpack(raw, clocks)
        return played


def _allow_connections() -> None:
    """As many as the system lets this process have: each is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _until(due_ns: int) -> None:
    """Wait for a moment: asleep until shortly before, then in turns of the loop."""
    while (left_s := (due_ns - time.monotonic_ns()) / NS) > 0:
        await asyncio.sleep(left_s - SPIN_S if left_s > SPIN_S else 0)


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    left = list(tasks)
    for task in left:
        task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*left, return_exceptions=True)


async def _measure_lag(played: Played, clocks: Clocks, watch: Watch) -> None:
    told = sampled = time.monotonic_ns()
    while True:
        due_ns = time.monotonic_ns() + int(LAG_EVERY_S * NS)
        await asyncio.sleep(LAG_EVERY_S)
        now_ns = time.monotonic_ns()
        played.lag_ns.append(now_ns - due_ns)
        if now_ns - sampled > CLOCKS_EVERY_NS:
            sampled = now_ns
            clocks.sample()
        if now_ns - told > NS:
            told = now_ns
            watch(played)
