"""Sockets read in rounds: when a waking serves one, when several, and which sockets end that."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from membound.bench.serving import rounds
from membound.bench.serving.compiled_reads import SOON_NS
from membound.bench.serving.rounds import APART_NS, OFTEN_NS, SOON_TIMES, Rounds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="epoll is Linux's")

SELDOM_NS = 100 * OFTEN_NS


@dataclass
class Timer:
    called: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Loop:
    """What a loop was asked for; it does nothing by itself."""

    reader: Callable[[], None] | None = None
    timer: Timer | None = None

    def add_reader(self, number: int, called: Callable[[], None]) -> None:
        self.reader = called

    def remove_reader(self, number: int) -> None:
        self.reader = None

    def call_later(self, seconds: float, called: Callable[[], None]) -> Timer:
        self.timer = Timer(called)
        return self.timer


@dataclass
class Scene:
    """Sockets whose other ends are ours, and a clock that moves when it is told to."""

    loop: Loop = field(default_factory=Loop)
    now_ns: int = 10 * APART_NS
    got: list[int] = field(default_factory=list)
    pairs: list[tuple[socket.socket, socket.socket]] = field(default_factory=list)
    rounds: Any = None

    def opened(self, on_read: Callable[[], None] = lambda: None) -> int:
        ours, theirs = socket.socketpair()
        number = len(self.pairs)
        self.pairs.append((ours, theirs))

        def read() -> None:
            self.got.append(number)
            assert [data for _, _, data in self.rounds.taken(theirs.fileno())] == [b"x"]
            on_read()

        self.rounds.add(theirs.fileno(), read)
        return number

    def comes(self, *numbers: int, after_ns: int = SELDOM_NS) -> None:
        """Something for each of these sockets; then whatever the loop waits for happens."""
        self.now_ns += after_ns
        for number in numbers:
            self.pairs[number][0].send(b"x")
        if self.loop.reader is not None:
            self.loop.reader()
        else:
            assert self.loop.timer is not None
            self.loop.timer.called()


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene()
    monkeypatch.setattr(rounds, "monotonic_ns", lambda: made.now_ns)
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made.loop)
    made.rounds = Rounds()
    yield made
    for ours, theirs in made.pairs:
        if theirs.fileno() >= 0:
            made.rounds.remove(theirs.fileno())
        ours.close()
        theirs.close()
    made.rounds.close()
    assert made.loop.reader is None or made.loop.timer is None or made.loop.timer.cancelled


def test_what_comes_seldom_is_read_at_once(scene: Scene) -> None:
    one, other = scene.opened(), scene.opened()
    for number in (one, other, one):
        scene.comes(number)
        assert scene.loop.reader is not None
    assert scene.got == [one, other, one]
    assert scene.loop.timer is None


def test_what_comes_often_is_read_in_rounds_until_one_is_empty(scene: Scene) -> None:
    numbers = [scene.opened() for _ in range(5)]
    scene.comes(numbers[0])
    scene.comes(numbers[1], after_ns=OFTEN_NS // 2)
    assert scene.loop.reader is None  # no waking for the next ones
    scene.comes(*numbers[2:], after_ns=2 * OFTEN_NS)
    assert sorted(scene.got) == numbers
    assert scene.loop.reader is None
    scene.comes(after_ns=2 * OFTEN_NS)
    assert scene.loop.reader is not None


def test_a_socket_that_has_more_soon_again_and_again_is_read_at_once_for_a_while(scene: Scene) -> None:
    fast, slow = scene.opened(), scene.opened()
    scene.comes(fast)
    for _ in range(SOON_TIMES - 1):
        scene.comes(fast, after_ns=OFTEN_NS // 2)
    assert scene.loop.reader is None
    scene.comes(fast, after_ns=OFTEN_NS // 2)
    assert scene.loop.reader is not None
    scene.comes(slow, after_ns=SOON_NS)
    scene.comes(fast, after_ns=OFTEN_NS // 2)
    assert scene.loop.reader is not None
    scene.comes(slow, after_ns=APART_NS + SOON_NS)
    scene.comes(fast, after_ns=OFTEN_NS // 2)
    assert scene.loop.reader is None


def test_the_end_of_an_answer_is_no_fast_stream(scene: Scene) -> None:
    one = scene.opened()
    for _ in range(3):
        scene.comes(one, after_ns=2 * SOON_NS)
        for _ in range(SOON_TIMES - 1):
            scene.comes(one, after_ns=OFTEN_NS // 2)
        assert scene.loop.reader is None


def test_a_socket_that_another_one_closed_is_passed_by(scene: Scene) -> None:
    def close_other() -> None:
        closed = next(n for n in (0, 1) if n != scene.got[-1])
        scene.rounds.remove(scene.pairs[closed][1].fileno())
        scene.pairs[closed][1].close()

    for _ in range(2):
        scene.opened(close_other)
    scene.comes(0, 1)
    assert len(scene.got) == 1
