"""The co-runner: it takes what it was told to take and counts it, and it never outlives its master."""

from __future__ import annotations

import os
from itertools import pairwise

import numpy as np
import pytest

from membound.kernels.cpu.instruments import co_runner
from membound.kernels.cpu.instruments.co_runner import (
    ANSWER,
    BYTES,
    DUTY,
    FIELDS,
    FLOPS,
    NUMBER,
    ORDER,
    TRADES,
    CpuCoRunner,
    serve,
)

MEMORY = 4 << 20


def told(*orders: tuple[str, float], rounds: int = 3) -> list[tuple[int, int]]:
    """What a co-runner has taken before each order and at the end, in this process; its master is never asked."""
    words = np.zeros(FIELDS, np.int64)
    seen: list[tuple[int, int]] = []
    todo = [order for order in orders for _ in range(rounds)]

    def alive() -> bool:
        seen.append((int(words[BYTES]), int(words[FLOPS])))
        if not todo:
            return False
        trade, duty = todo.pop(0)
        words[ORDER], words[DUTY] = TRADES.index(trade), round(1000 * duty)
        words[NUMBER] += 1
        return True

    serve(words, MEMORY, alive)
    assert words[ANSWER] == words[NUMBER]
    return seen


def test_each_trade_takes_its_own_and_nothing_else() -> None:
    seen = told(("bandwidth", 1.0), ("fma", 0.5), ("idle", 1.0), ("bandwidth", 0.0))
    reads = [after[0] - before[0] for before, after in pairwise(seen)]
    flops = [after[1] - before[1] for before, after in pairwise(seen)]
    assert min(reads[:3]) > 0
    assert reads[3:] == [0] * 9
    chunk = co_runner.stream.fma_flops(1, co_runner.FMA_ITERATIONS)
    assert all(n > 0 and n % chunk == 0 for n in flops[3:6])
    assert flops[:3] == [0] * 3
    assert flops[6:] == [0] * 6


def test_stop_ends_it() -> None:
    assert len(told(("stop", 0.0), ("bandwidth", 1.0))) == 1


def test_processes_work_rest_and_end() -> None:
    with CpuCoRunner(sorted(os.sched_getaffinity(0))[-1:], MEMORY) as one:
        processes = list(one._processes)
        assert one.taken() == (0, 0)
        one.work("bandwidth", 1.0)
        while one.taken()[0] == 0:
            assert processes[0].poll() is None
        one.work("fma", 1.0)
        one.rest()
        read, _ = one.taken()
        assert read > 0
        with pytest.raises(ValueError, match="trade 'stop'"):
            one.work("stop")
        with pytest.raises(ValueError, match=r"duty 1\.5"):
            one.work("fma", 1.5)
    assert [p.returncode for p in processes] == [-9]


def test_a_co_runner_that_died_is_an_error_and_not_a_wait() -> None:
    with CpuCoRunner(sorted(os.sched_getaffinity(0))[:1], MEMORY) as one:
        one._processes[0].kill()
        one._processes[0].wait()
        with pytest.raises(co_runner.CoRunnerError, match="ended with status -9"):
            one.work("idle")
    with pytest.raises(ValueError, match="CPU of its own"):
        CpuCoRunner([], MEMORY)
