"""Sockets read in compiled code: every byte in order with its times, and a look only where one is wanted."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest

from membound.bench.serving import compiled_reads
from membound.bench.serving.compiled_reads import KEPT_READS, MOST_READY, READ_BYTES, SIZE, CompiledReads
from membound.bench.serving.raw import MOST_BYTES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")

SO_TIMESTAMPNS = 35


class Wires:
    """Connections over loopback: `theirs` sends, `ours` is read."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.reads = CompiledReads(self.epoll.fileno())
        self.theirs: dict[int, socket.socket] = {}
        self.ours: dict[int, socket.socket] = {}

    def opened(self, at_least: int = 0) -> int:
        """The number of a new one."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
        if at_least:
            os.dup2(ours.fileno(), at_least)
            ours.close()
            ours = socket.socket(fileno=at_least)
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        number = ours.fileno()
        self.theirs[number], self.ours[number] = theirs, ours
        self.reads.add(number)
        self.epoll.register(number, select.EPOLLIN)
        return number

    def comes(self, number: int, data: bytes) -> list[int]:
        """Send it, and read once it is there: who wants a look."""
        self.theirs[number].sendall(data)
        assert select.select([number], [], [], 10)[0]
        found = self.reads.read(time.monotonic_ns())
        assert found.found == 1
        return found.noticed

    def data(self, number: int) -> list[bytes]:
        return [data for _, _, data in self.reads.taken(number)]


@pytest.fixture
def wires() -> Iterator[Wires]:
    made = Wires()
    yield made
    made.epoll.close()
    for one in (*made.theirs.values(), *made.ours.values()):
        one.close()


def test_chunks_of_streams_are_kept_until_an_answer_may_be_at_its_end(wires: Wires) -> None:
    numbers = [wires.opened() for _ in range(3)]
    for number in numbers:
        wires.reads.keep(number, True)
    sent: dict[int, list[bytes]] = {number: [] for number in numbers}
    for _ in range(60):
        number, data = random.choice(numbers), random.randbytes(random.randrange(1, 600)) + b"\n"
        sent[number].append(data)
        assert wires.comes(number, data) == []
    for number in numbers:
        assert wires.comes(number, b"0\r\n\r\n") == [number]
        assert wires.data(number) == [*sent[number], b"0\r\n\r\n"]
        assert wires.data(number) == []


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"event\r\n\r\n"])
@pytest.mark.parametrize("other", [b"\n\r\n", b"\r\n\r", b"\n\n\r\n", b"\r\n\n\n", b"x"])
def test_only_what_an_answer_may_end_with_wants_a_look(wires: Wires, end: bytes, other: bytes) -> None:
    number = wires.opened()
    wires.reads.keep(number, True)
    assert wires.comes(number, end[:-4] + other) == []
    assert wires.comes(number, end) == [number]


def test_what_is_not_kept_wants_a_look_each_time(wires: Wires) -> None:
    number = wires.opened()
    for data in (b"a", b"b"):
        assert wires.comes(number, data) == [number]
        assert wires.data(number) == [data]
    wires.reads.keep(number, True)
    assert wires.comes(number, b"c") == []
    wires.reads.keep(number, False)
    assert wires.comes(number, b"d") == [number]
    assert wires.data(number) == [b"c", b"d"]


def test_times_are_those_of_the_kernel_and_of_the_read(wires: Wires) -> None:
    number = wires.opened()
    before, wall_before = time.monotonic_ns(), time.time_ns()
    wires.theirs[number].sendall(b"x")
    select.select([number], [], [], 10)
    arrived = time.time_ns()
    time.sleep(0.05)
    asked = time.monotonic_ns()
    wires.reads.read(asked)
    ((read_ns, stamp, _),) = wires.reads.taken(number)
    seconds, ns = struct.unpack("qq", stamp)
    assert wall_before <= seconds * 10**9 + ns <= arrived
    assert before < asked <= read_ns <= time.monotonic_ns()


def test_a_socket_without_stamps_has_none(wires: Wires) -> None:
    number = wires.opened()
    wires.ours[number].setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 0)
    wires.comes(number, b"x")
    ((_, stamp, data),) = wires.reads.taken(number)
    assert (stamp, data) == (b"", b"x")


def test_the_end_wants_a_look_after_all_that_came(wires: Wires) -> None:
    number = wires.opened()
    wires.reads.keep(number, True)
    assert wires.comes(number, b"x") == []
    wires.theirs[number].close()
    select.select([number], [], [], 10)
    assert wires.reads.read(0).noticed == [number]
    assert wires.data(number) == [b"x"]
    assert wires.reads.read(0).noticed == [number]
    assert wires.data(number) == []


def test_a_long_piece_comes_in_several_reads(wires: Wires) -> None:
    number = wires.opened()
    wires.reads.keep(number, True)
    whole = random.randbytes(3 * READ_BYTES + 17) + b"!"
    wires.theirs[number].sendall(whole)
    came: list[bytes] = []
    while sum(map(len, came)) < len(whole):
        select.select([number], [], [], 10)
        wires.reads.read(0)
        came += wires.data(number)
    assert b"".join(came) == whole
    assert max(map(len, came)) == READ_BYTES


def test_more_sockets_than_one_look_tells_of(wires: Wires) -> None:
    numbers = [wires.opened() for _ in range(MOST_READY + 9)]
    for number in numbers:
        wires.theirs[number].sendall(b"%d" % number)
    for number in numbers:
        select.select([number], [], [], 10)
    noticed = []
    while found := wires.reads.read(0).found:
        assert found <= MOST_READY
        noticed += [number for number in numbers if wires.data(number) == [b"%d" % number]]
    assert sorted(noticed) == sorted(numbers)


@pytest.mark.parametrize("full", ["bytes", "reads"])
def test_where_there_is_no_room_what_is_kept_moves_and_order_stays(wires: Wires, full: str) -> None:
    number, other = wires.opened(), wires.opened()
    for one in (number, other):
        wires.reads.keep(one, True)
    wires.comes(number, b"a")
    wires.comes(other, b"A")
    which, room = (0, compiled_reads.KEPT_BYTES) if full == "bytes" else (1, KEPT_READS)
    wires.reads._filled[which] = room - 1
    wires.comes(number, b"b")
    assert wires.reads._filled[1] == 1
    wires.comes(number, b"c")
    assert wires.data(number) == [b"a", b"b", b"c"]
    assert wires.data(other) == [b"A"]


def test_a_flood_wants_a_look_though_it_is_kept(wires: Wires) -> None:
    number = wires.opened()
    wires.reads.keep(number, True)
    wires.reads._sockets[number, SIZE] = MOST_BYTES - 1
    assert wires.comes(number, b"x") == []
    assert wires.comes(number, b"x") == [number]
    wires.reads.keep(number, True)
    assert wires.comes(number, b"x") == []


def test_a_high_number_and_one_that_is_used_again(wires: Wires) -> None:
    low, high = wires.opened(), wires.opened(at_least=517)
    wires.reads.keep(high, True)
    assert wires.comes(high, b"old") == []
    wires.reads.remove(high)
    assert wires.data(high) == []
    wires.reads.add(high)
    assert wires.comes(high, b"new") == [high]
    assert wires.data(high) == [b"new"]
    assert wires.comes(low, b"low") == [low]
    assert wires.data(low) == [b"low"]


def test_a_socket_that_is_read_again_soon_is_told(wires: Wires) -> None:
    number = wires.opened()
    at_ns = 10**12
    soon = []
    for later_ns in (10**9, 10**6, 10**6, 10**9, 10**6):
        at_ns += later_ns
        wires.theirs[number].sendall(b"x")
        select.select([number], [], [], 10)
        soon.append(wires.reads.read(at_ns).soon)
    assert soon == [0, 1, 2, 0, 1]
