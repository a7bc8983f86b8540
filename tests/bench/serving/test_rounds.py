"""Sockets that compiled code reads, and an event loop that hears of those which want a look."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Awaitable, Callable

import pytest

from membound.bench.serving.compiled_reads import ENDED
from membound.bench.serving.rounds import Rounds
from membound.bench.serving.wires import KernelWire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")

Pair = tuple[socket.socket, socket.socket]


def pair() -> Pair:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


def play(scene: Callable[[Rounds], Awaitable[None]]) -> None:
    """In a loop of its own."""

    async def played() -> None:
        rounds = Rounds()
        try:
            async with asyncio.timeout(20):
                await scene(rounds)
        finally:
            rounds.close()

    asyncio.run(played())
    assert not [one for one in threading.enumerate() if one.name == "reads"]


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def test_the_loop_hears_of_what_came_and_goes_on() -> None:
    async def scene(rounds: Rounds) -> None:
        ours, theirs = pair()
        got: list[bytes] = []
        rounds.add(ours.fileno(), lambda: got.extend(one[2] for one in rounds.taken(ours.fileno())))
        for data in (b"a", b"b"):
            theirs.send(data)
            await until(lambda data=data: got[-1:] == [data])
        assert got == [b"a", b"b"]
        rounds.remove(ours.fileno())
        ours.close()
        theirs.close()

    play(scene)


def test_a_socket_that_another_one_closed_is_passed_by() -> None:
    async def scene(rounds: Rounds) -> None:
        pairs, got = [pair(), pair()], []

        def noticed(which: int) -> None:
            got.append(which)
            other = pairs[1 - which][0]
            rounds.remove(other.fileno())
            other.close()

        for which in range(2):
            rounds.add(pairs[which][0].fileno(), lambda which=which: noticed(which))
        with rounds._reads._locked():  # both before anybody hears of one
            for _, theirs in pairs:
                theirs.send(b"x")
        await until(lambda: got)
        await asyncio.sleep(0.05)
        assert len(got) == 1
        rounds.remove(pairs[got[0]][0].fileno())
        for one in (pairs[got[0]][0], *(theirs for _, theirs in pairs)):
            one.close()

    play(scene)


def test_a_wire_tells_all_that_came_and_then_its_end() -> None:
    async def scene(rounds: Rounds) -> None:
        ours, theirs = pair()
        wire = KernelWire(ours, rounds)
        came: list[bytes] = []
        ends: list[str] = []
        wire.on_reads = lambda reads: came.extend(data for _, _, data in reads)
        wire.on_end = ends.append
        wire.keep(True)
        theirs.sendall(b"chunk")
        theirs.close()
        await until(lambda: ends)
        assert (b"".join(came), ends) == (b"chunk", ["the server closed the connection"])
        wire.close()

    play(scene)


def test_a_wire_that_had_nothing_after_all_is_read_again() -> None:
    async def scene(rounds: Rounds) -> None:
        ours, theirs = pair()
        wire = KernelWire(ours, rounds)
        came: list[bytes] = []
        wire.on_reads = lambda reads: came.extend(data for _, _, data in reads)
        rounds._reads._sockets[ours.fileno(), ENDED] = True  # as after a read that gave nothing
        assert rounds.ended(ours.fileno())
        wire._noticed()
        assert not rounds.ended(ours.fileno())
        theirs.sendall(b"chunk")
        await until(lambda: came)
        assert came == [b"chunk"]
        wire.close()
        theirs.close()

    play(scene)
