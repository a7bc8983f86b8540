"""Sockets read in compiled code: every byte in order with its times, and a look only where one is wanted."""

from __future__ import annotations

import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from membound.bench.serving import compiled_reads, stamps
from membound.bench.serving.compiled_reads import (
    APART_NS,
    BYTES,
    FULL,
    IN_ROUNDS,
    KEPT_BYTES,
    KEPT_READS,
    LOOK_NS,
    LOOKED_NS,
    MOST_READY,
    MOST_SOCKETS,
    OFTEN_NS,
    READ_BYTES,
    READS,
    ROUND_NS,
    SIZE,
    SOON,
    SOON_NS,
    SOON_TIMES,
    CompiledReads,
)
from membound.bench.serving.raw import MOST_BYTES
from membound.bench.serving.stamps import ask_for_stamps, stamps_on

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")

SELDOM_NS = 100 * OFTEN_NS


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.0005)


class Wires:
    """Connections over loopback: `theirs` sends, `ours` is read."""

    def __init__(self) -> None:
        self.reads = CompiledReads()
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
        ask_for_stamps(ours)
        number = ours.fileno()
        self.theirs[number], self.ours[number] = theirs, ours
        self.reads.add(number)
        return number

    def send(self, number: int, data: bytes) -> None:
        """Until all of it was read."""
        self.theirs[number].sendall(data)
        until(lambda: not select.select([number], [], [], 0)[0])

    def comes(self, number: int, data: bytes) -> list[int]:
        """Send it, and once it was read: who wants a look."""
        self.send(number, data)
        return self.reads.noticed()

    def data(self, number: int) -> list[bytes]:
        return [data for _, _, data in self.reads.taken(number)]


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wires]:
    monkeypatch.setattr(stamps, "MOST_S", 20.0)
    made = Wires()
    made.reads.start()
    with stamps_on() as on:
        assert on
        yield made
    made.reads.stop()
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
    with wires.reads._locked():
        before, wall_before = time.monotonic_ns(), time.time_ns()
        wires.theirs[number].sendall(b"x")
        select.select([number], [], [], 10)
        arrived = time.time_ns()
        time.sleep(0.05)
        unlocked = time.monotonic_ns()
    until(lambda: not select.select([number], [], [], 0)[0])
    ((read_ns, stamp, _),) = wires.reads.taken(number)
    seconds, ns = struct.unpack("qq", stamp)
    assert wall_before <= seconds * 10**9 + ns <= arrived
    assert before < unlocked <= read_ns <= time.monotonic_ns()


def test_a_socket_without_stamps_has_none(wires: Wires) -> None:
    number = wires.opened()
    ask_for_stamps(wires.ours[number], wanted=False)
    wires.comes(number, b"x")
    ((_, stamp, data),) = wires.reads.taken(number)
    assert (stamp, data) == (b"", b"x")


def test_the_end_wants_a_look_after_all_that_came(wires: Wires) -> None:
    number = wires.opened()
    wires.reads.keep(number, True)
    assert wires.comes(number, b"x") == []
    assert not wires.reads.ended(number)
    wires.theirs[number].close()
    until(lambda: wires.reads.ended(number))
    assert wires.reads.noticed() == [number]
    assert wires.data(number) == [b"x"]
    assert wires.reads.noticed() == []  # it is left alone until somebody says otherwise
    wires.reads.go_on(number)
    until(lambda: wires.reads.ended(number))
    assert wires.reads.noticed() == [number]
    assert wires.data(number) == []


def test_one_that_is_left_alone_costs_a_look_a_round(wires: Wires) -> None:
    number = wires.opened()
    wires.theirs[number].close()
    until(lambda: wires.reads.ended(number))
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1  # epoll tells of it again at once


def test_a_long_piece_comes_in_several_reads(wires: Wires) -> None:
    number = wires.opened()
    wires.reads.keep(number, True)
    whole = random.randbytes(3 * READ_BYTES + 17) + b"!"
    wires.send(number, whole)
    came = wires.data(number)
    assert b"".join(came) == whole
    assert max(map(len, came)) == READ_BYTES


def test_more_sockets_than_one_look_tells_of(wires: Wires) -> None:
    numbers = [wires.opened() for _ in range(MOST_READY + 9)]
    with wires.reads._locked():
        for number in numbers:
            wires.theirs[number].sendall(b"%d" % number)
    for number in numbers:
        until(lambda number=number: not select.select([number], [], [], 0)[0])
        assert wires.data(number) == [b"%d" % number]
    assert sorted(wires.reads.noticed()) == numbers


def test_who_waits_for_it_is_woken(wires: Wires) -> None:
    kept, looked_at = wires.opened(), wires.opened()
    wires.reads.keep(kept, True)
    wires.comes(kept, b"a")
    assert not select.select([wires.reads.woken], [], [], 0)[0]
    wires.theirs[looked_at].sendall(b"b")
    assert select.select([wires.reads.woken], [], [], 10)[0]
    assert wires.reads.noticed() == [looked_at]


@pytest.mark.parametrize("full", ["bytes", "reads"])
def test_where_there_is_no_room_what_is_kept_moves_and_order_stays(wires: Wires, full: str) -> None:
    number, other = wires.opened(), wires.opened()
    for one in (number, other):
        wires.reads.keep(one, True)
    wires.comes(number, b"a")
    wires.comes(other, b"A")
    which, room = (BYTES, KEPT_BYTES) if full == "bytes" else (READS, KEPT_READS)
    with wires.reads._locked():
        wires.reads._state[which] = room
    wires.theirs[number].sendall(b"b")
    assert select.select([wires.reads.woken], [], [], 10)[0]
    assert wires.reads._state[FULL]
    assert select.select([number], [], [], 0)[0]  # it is not read
    wires.reads.noticed()
    wires.comes(number, b"c")
    assert wires.reads._state[READS] in (1, 2)
    assert b"".join(wires.data(number)) == b"abc"
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


def test_one_that_is_used_again_before_anybody_looked_is_noticed_once(wires: Wires) -> None:
    number = wires.opened()
    wires.send(number, b"old")
    wires.reads.remove(number)
    wires.reads.add(number)
    wires.send(number, b"new")
    assert wires.reads.noticed() == [number]
    assert wires.data(number) == [b"new"]


def test_a_number_beyond_the_table_is_refused(wires: Wires) -> None:
    with pytest.raises(OSError, match="open files"):
        wires.reads.add(MOST_SOCKETS)


def test_a_socket_that_is_read_again_soon_is_told(wires: Wires) -> None:
    number = wires.opened()
    soon = []
    for since_ns in (2 * SOON_NS, 0, 0, 2 * SOON_NS, 0):
        wires.reads._sockets[number, LOOK_NS] = time.monotonic_ns() - since_ns + (not since_ns) * 10**9
        wires.comes(number, b"x")
        soon.append(int(wires.reads._sockets[number, SOON]))
    assert soon == [0, 1, 2, 0, 1]


def test_nothing_is_lost_while_python_takes(wires: Wires) -> None:
    numbers = [wires.opened() for _ in range(8)]
    for number in numbers:
        wires.reads.keep(number, True)
    sent = {number: random.randbytes(20_000) + b"!" for number in numbers}
    came: dict[int, list[tuple[int, bytes, bytes]]] = {number: [] for number in numbers}

    def send() -> None:
        for start in range(0, 20_001, 53):
            for number in numbers:
                wires.theirs[number].sendall(sent[number][start : start + 53])

    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        for number in numbers:
            came[number] += wires.reads.taken(number)
            wires.reads.keep(number, True)
    sender.join()
    for number in numbers:
        wires.send(number, b"")
        came[number] += wires.reads.taken(number)
        assert b"".join(data for _, _, data in came[number]) == sent[number]
        assert all(a[0] <= b[0] for a, b in pairwise(came[number]))


def test_signals_go_to_the_thread_that_waits_for_them(wires: Wires) -> None:
    (thread,) = [one for one in threading.enumerate() if one.name == "reads"]
    status = Path(f"/proc/self/task/{thread.native_id}/status").read_text(encoding="utf-8")
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert blocked >> (one - 1) & 1


def test_stopped_it_leaves_no_thread_and_no_file() -> None:
    before = set(os.listdir("/proc/self/fd"))
    reads = CompiledReads()
    reads.start()
    reads.stop()
    CompiledReads().stop()  # never started
    assert set(os.listdir("/proc/self/fd")) == before
    assert not [one for one in threading.enumerate() if one.name == "reads"]


class Pace:
    """Looks at moments that are laid down."""

    def __init__(self) -> None:
        self.state = np.zeros(compiled_reads.APART_UNTIL_NS + 1, np.int64)
        self.state[LOOKED_NS] = self.now_ns = 10 * APART_NS

    def look(self, found: int = 1, soon: int = 0, after_ns: int = SELDOM_NS) -> bool:
        """Whether the next one is a round."""
        self.now_ns += after_ns
        compiled_reads._pace(found, soon, self.now_ns, self.state)
        return bool(self.state[IN_ROUNDS])


def test_what_comes_seldom_is_read_at_once() -> None:
    pace = Pace()
    assert [pace.look(), pace.look(2), pace.look()] == [False, False, False]


def test_what_comes_often_is_read_in_rounds_until_one_is_empty() -> None:
    pace = Pace()
    assert not pace.look()
    assert pace.look(after_ns=OFTEN_NS // 2)
    assert pace.look(3, after_ns=ROUND_NS)
    assert not pace.look(0, after_ns=ROUND_NS)
    assert not pace.look(after_ns=OFTEN_NS)


def test_a_socket_that_has_more_soon_again_and_again_is_read_at_once_for_a_while() -> None:
    pace = Pace()
    pace.look()
    assert all(pace.look(soon=n, after_ns=OFTEN_NS // 2) for n in range(SOON_TIMES))
    assert not pace.look(soon=SOON_TIMES, after_ns=OFTEN_NS // 2)
    assert not pace.look(after_ns=OFTEN_NS // 2)
    assert not pace.look(after_ns=APART_NS)
    assert pace.look(after_ns=OFTEN_NS // 2)
