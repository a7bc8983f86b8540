"""Tasks on threads of their own: side by side, not too many at once, and no error is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from threading import Barrier, Event, Lock, active_count, get_ident

import pytest

from membound.backends.background import Background

LONG_S = 60.0


def test_tasks_run_beside_each_other_and_beside_the_caller() -> None:
    together = Barrier(2)

    def task(number: int) -> tuple[int, int]:
        together.wait(LONG_S)
        return number, get_ident()

    before = active_count()
    with Background(2) as background:
        futures = [background.submit(partial(task, number)) for number in range(6)]
    results = [future.result() for future in futures]
    assert [number for number, _ in results] == list(range(6))
    assert get_ident() not in {thread for _, thread in results}
    assert active_count() == before


def test_no_more_tasks_are_under_way_than_there_are_threads() -> None:
    lock, under_way, seen = Lock(), 0, []

    def begin() -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append(under_way)

    def task() -> None:
        nonlocal under_way
        with lock:
            under_way -= 1

    with Background(3) as background:
        for _ in range(200):
            begin()
            background.submit(task)
    assert max(seen) <= 4  # three under way and the one whose turn has not come


def test_waiting_ends_when_all_are_done() -> None:
    go, done = Event(), []

    def task() -> None:
        assert go.wait(LONG_S)
        done.append(1)

    with Background(2) as background:
        for _ in range(2):
            background.submit(task)
        assert not done
        go.set()
        background.wait()
        assert len(done) == 2


def fail(error: Exception) -> None:
    raise error


def run(tasks: Iterable[Callable[[], object]], threads: int) -> None:
    with Background(threads) as background:
        for task in tasks:
            background.submit(task)


def test_the_error_of_a_task_ends_the_context() -> None:
    with pytest.raises(MemoryError, match="no room"):
        run([partial(fail, MemoryError("no room"))], threads=2)


def test_an_error_keeps_later_tasks_from_starting() -> None:
    failed, started = Event(), []

    def task() -> None:
        failed.set()
        raise MemoryError("no room")

    def tasks() -> Iterator[Callable[[], object]]:
        yield task
        assert failed.wait(LONG_S)
        for number in range(100):
            yield partial(started.append, number)

    with pytest.raises(MemoryError, match="no room"):
        run(tasks(), threads=1)
    assert len(started) <= 1  # the one that was let in while the first one ended


def test_an_error_of_the_caller_is_its_own_and_what_runs_is_finished() -> None:
    done: list[int] = []

    def tasks() -> Iterator[Callable[[], object]]:
        yield partial(done.append, 1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(tasks(), threads=1)
    assert done == [1]
