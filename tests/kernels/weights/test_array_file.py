"""A file of arrays between processes: each is made once, whoever dies; what is damaged is never used."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import shared_arrays
from shared_arrays import SIZE, assert_like, bytes_of, laid_out, refuse, take

from membound.kernels.weights.array_file import CHUNK, FIRST, HEAD, LINE, MOST_ARRAYS
from membound.kernels.weights.making import Making


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A file with room for 100 MB."""
    return laid_out(tmp_path / "arrays", 10**8)


# Several processes

CHILD = """
import os, sys, signal
import numpy as np
sys.path.insert(0, {fakes!r})
from shared_arrays import bytes_of, take
from membound.kernels.weights import array_file
from membound.kernels.weights.making import Making

def note(name):
    with open({log!r}, "a") as file:
        file.write(name + "\\n")
    return [bytes_of(name)]

with Making({path!r}, threads=2) as one:
    print("ready", flush=True)
    sys.stdin.readline()
    {do}
"""
TAKE_ALL = """
    for name in sys.argv[1]:
        assert take(one, name, lambda: note(name)).tobytes() == bytes_of(name).tobytes()
    assert one.unshared == "", one.unshared
"""
DIE_MAKING = """
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)
    take(one, sys.argv[1], dies)
"""
DIE_WRITING = """
    writes, real = [], os.pwrite
    def pwrite(file, data, start):
        if len(data) > 10_000:
            writes.append(start)
            if len(writes) == 2:
                real(file, data[: len(data) // 2], start)
                os.kill(os.getpid(), signal.SIGKILL)
        return real(file, data, start)
    array_file.os.pwrite = pwrite
    take(one, sys.argv[1])
"""
HOLD = """
    def hold():
        print("holding", flush=True)
        sys.stdin.readline()
        return [bytes_of(sys.argv[1])]
    take(one, sys.argv[1], hold)
"""


class Others:
    """Processes that take arrays from one file."""

    def __init__(self, path: str, log: Path) -> None:
        self.path, self.log = path, log
        self.running: list[subprocess.Popen[str]] = []

    def start(self, do: str, names: str) -> subprocess.Popen[str]:
        code = CHILD.format(
            fakes=str(Path(shared_arrays.__file__).parent), log=str(self.log), path=self.path, do=do.strip()
        )
        command = [sys.executable, "-c", code, names]
        one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.running.append(one)
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
        return one

    def go(self, one: subprocess.Popen[str]) -> None:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()


@pytest.fixture
def others(path: str, tmp_path: Path) -> Iterator[Others]:
    found = Others(path, tmp_path / "log")
    yield found
    for one in found.running:
        one.kill()
        one.communicate()


def test_an_array_is_made_once_however_many_processes_want_it(others: Others) -> None:
    names = "abcdefghijklmnop"
    rng = random.Random(1)
    for _ in range(4):
        others.start(TAKE_ALL, "".join(rng.sample(names, len(names))))
    for one in others.running:
        others.go(one)
    assert [one.wait(60) for one in others.running] == [0] * 4
    assert sorted(others.log.read_text().split()) == list(names)


@pytest.mark.parametrize("death", [DIE_MAKING, DIE_WRITING], ids=["making", "writing"])
def test_what_a_killed_process_began_another_one_makes(others: Others, death: str) -> None:
    dying = others.start(death, "a")
    others.go(dying)
    assert dying.wait(60) == -9
    heir = others.start(TAKE_ALL, "ab")
    others.go(heir)
    assert heir.wait(60) == 0
    assert others.log.read_text().split() == ["a", "b"]
    with Making(others.path) as one:
        assert_like(take(one, "a", refuse), bytes_of("a"))


def test_a_process_that_waits_is_served_when_the_maker_is_killed(others: Others) -> None:
    holder, waiting = others.start(HOLD, "a"), others.start(TAKE_ALL, "a")
    others.go(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    others.go(waiting)
    holder.kill()
    assert waiting.wait(60) == 0
    assert others.log.read_text().split() == ["a"]


def test_nobody_waits_for_ever(others: Others) -> None:
    holder = others.start(HOLD, "a")
    others.go(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "holding\n"
    with Making(others.path, wait_s=0.05) as one:
        assert_like(take(one, "a"), bytes_of("a"))
        assert one.unshared == "another process made an array for 0.05 s"
        assert_like(take(one, "b"), bytes_of("b"))
    others.go(holder)
    assert holder.wait(60) == 0
    with Making(others.path) as later:
        assert_like(take(later, "a", refuse), bytes_of("a"))


# Damage


def test_a_flipped_bit_is_never_used(path: str) -> None:
    with Making(path) as one:
        take(one, "a")
    for at in (FIRST, FIRST + CHUNK + 5, FIRST + SIZE - 1):
        flip(path, at)
        with Making(path) as other:
            assert_like(take(other, "a"), bytes_of("a"))
            assert other.unshared == "an array in it is damaged"
        flip(path, at)
    with Making(path) as other:
        assert_like(take(other, "a", refuse), bytes_of("a"))


def flip(path: str, at: int, bit: int = 3) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (0, ""),
        (5, "it is cut short"),
        (FIRST + CHUNK, "it is cut short"),
        (FIRST + SIZE - 1, "it is cut short"),
    ],
)
def test_a_file_that_is_cut_short_is_never_used(path: str, size: int, why: str) -> None:
    with Making(path) as one, Making(path) as other:
        take(one, "a")
        os.truncate(path, size)
        assert_like(take(other, "a"), bytes_of("a"))
        assert other.unshared == why
        assert_like(take(one, "b"), bytes_of("b"))


def test_whatever_is_damaged_the_numbers_are_right(path: str) -> None:
    rng = random.Random()
    with Making(path) as one:
        for name in "abc":
            take(one, name)
    whole = Path(path).read_bytes()
    table = HEAD.size + 4 * LINE.size
    for _ in range(60):
        damaged = bytearray(whole)
        first = rng.choice([0, rng.randrange(table), rng.randrange(len(whole))])
        for at in range(first, min(first + rng.choice([1, 8, 16, 4096]), len(whole))):
            damaged[at] = rng.choice([0, 255, rng.randrange(256)])
        Path(path).write_bytes(damaged[: rng.choice([len(whole), rng.randrange(len(whole))])])
        with Making(path, wait_s=1) as one:
            for name in "abcd":
                assert_like(take(one, name), bytes_of(name))


def test_a_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    pipe, foreign = tmp_path / "pipe", tmp_path / "foreign"
    os.mkfifo(pipe)
    foreign.write_bytes(b"diary " * 10_000)
    reasons = {
        str(pipe): "it is no file of this user's",
        "/dev/zero": "it is no file of this user's",
        str(tmp_path / "nothing"): "No such file or directory",
        str(foreign): "it is none of membound's arrays",
    }
    for path, why in reasons.items():
        with Making(path) as one:
            assert_like(take(one, "a"), bytes_of("a"))
        assert one.unshared == why
    assert foreign.read_bytes() == b"diary " * 10_000


def test_a_full_file_system_is_told_and_all_is_made_here(others: Others) -> None:
    """A limit on the size of files stands for it: the second write is refused."""
    code = """
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (array_file.FIRST + 100_000,) * 2)
    assert take(one, "a").tobytes() == bytes_of("a").tobytes()
    assert one.unshared == "File too large", one.unshared
    assert take(one, "b").tobytes() == bytes_of("b").tobytes()
    """
    limited = others.start(code, "")
    others.go(limited)
    assert limited.wait(60) == 0
    with Making(others.path) as one:
        made = [bytes_of("a")]
        assert take(one, "a", lambda: made) is made[0], "what was not written whole is not there"


def test_more_arrays_than_the_table_holds_are_made_here(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(HEAD.pack(b"membound", 10**8, FIRST, MOST_ARRAYS))
    with Making(path) as one:
        assert_like(take(one, "a"), bytes_of("a"))
        assert one.unshared == ""
