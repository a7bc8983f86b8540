"""Cold memory: as many bytes pass as were asked for, counted; input sets that make that possible within memory."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest

from membound.backends.api import Accelerator, Device
from membound.bench.ceilings import rotating
from membound.bench.ceilings.patterns import CeilingError
from membound.bench.measure import cold_memory as module
from membound.bench.measure.cold_memory import (
    BURST_BYTES,
    COPIES,
    MOST_SLOTS,
    ColdMemory,
    cache_and_room,
    cold_memory,
    no_cold_memory,
    slots_for,
)
from membound.bench.measure.failures import failure_of
from membound.kernels.cpu.instruments import stream
from membound.kernels.slots import MOST_SETS, SET_BYTES
from membound.kernels.work import Linear, Prefill, RoutedExperts, Step, held_bytes, parse

CACHE = 1 << 20
CPU = Device("mine:cpu", "mine")


def gpu(memory_bytes: int = 0, cache_bytes: int = 0) -> Device:
    return Device("mine:gpu", "mine", accelerator=Accelerator(memory_bytes, cache_bytes))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a small cache, so that little memory rotates."""
    for one in (module, rotating):
        monkeypatch.setattr(one, "last_level_cache_bytes", lambda: CACHE)
    monkeypatch.setattr(rotating, "BYTES_PER_THREAD", CACHE)


def test_bytes_pass_until_there_are_enough_and_no_more() -> None:
    reads = iter(np.random.default_rng().integers(1, 100, 1000).tolist())
    cold = ColdMemory(1000, lambda: next(reads))
    cold.wait_until(500)
    assert 500 <= cold.passed_bytes < 600
    cold.passed_bytes = 2000  # others' meanwhile
    cold.wait_until(2000)
    cold.wait_until(1)
    assert cold.passed_bytes == 2000
    cold.wait_until(2001)
    assert 2000 < cold.passed_bytes < 2101


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_missing_is_read_from_memory_that_rotates(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, read = [], []
    allocate, real = stream.allocate, stream.read

    def counted(values: Any, place: Any, window: int, ahead: int) -> float:
        read.append((window, place.window_bytes, place.windows))
        return real(values, place, window, ahead)

    monkeypatch.setattr(stream, "allocate", lambda size, n: taken.append(size) or allocate(size, n))
    monkeypatch.setattr(stream, "read", counted)
    cold = cold_memory(threads)
    assert cold.need_bytes == 4 * CACHE
    assert taken == [], "the memory is taken at the first need"
    cold.wait_until(9 * CACHE)
    assert taken == [threads << 20, 4 * CACHE], (
        "first a little: what loading the kernels takes is not free any more"
    )
    del read[0]
    assert cold.passed_bytes == sum(size for _, size, _ in read)
    assert 9 * CACHE <= cold.passed_bytes < 9 * CACHE + read[0][1]
    windows = read[0][2]
    assert windows * read[0][1] > 3 * CACHE, "a window has left the cache when it comes again"
    assert [window for window, *_ in read] == [i % windows for i in range(len(read))]
    cold.wait_until(12 * CACHE)
    assert len(taken) == 2
    cold.free()
    cold.wait_until(12 * CACHE)
    assert len(taken) == 2
    cold.wait_until(cold.passed_bytes + 1)
    assert taken[2:] == taken[:2], "what was given back is taken again at the next need"


def test_on_an_accelerator_nothing_is_waited_for() -> None:
    cold = no_cold_memory()
    cold.wait_until(cold.need_bytes)
    assert (cold.need_bytes, cold.passed_bytes) == (0, 0)


def test_memory_is_four_caches_but_never_more_than_half_of_what_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rotating, "last_level_cache_bytes", lambda: 1 << 30)
    monkeypatch.setattr(rotating, "available_memory_bytes", lambda: 100 << 30)
    assert rotating.rotating_bytes(2) == 4 << 30
    assert rotating.rotating_bytes(64) == 64 * rotating.BYTES_PER_THREAD
    monkeypatch.setattr(rotating, "available_memory_bytes", lambda: 2 << 30)
    assert rotating.rotating_bytes(2) == 1 << 30
    monkeypatch.setattr(rotating, "available_memory_bytes", lambda: 1 << 20)
    with pytest.raises(
        CeilingError, match="need 67108864 bytes of memory at least; 524288 may be taken"
    ) as error:
        rotating.rotating_bytes(2)
    assert failure_of(error.value).status == "oom"


# Input sets


def test_a_small_work_has_a_bursts_worth_of_sets_and_one_to_warm_up_on() -> None:
    for n in (128, 1024, 4096):
        work = Linear(n=n, k=1024, weight="f32")
        slots = slots_for(work, CPU, 1 << 40)
        assert slots == min(MOST_SLOTS, ceil(BURST_BYTES / work.footprint_bytes) + 1)
        assert (slots - 1) * work.footprint_bytes >= min(BURST_BYTES, (MOST_SLOTS - 1) * work.footprint_bytes)


def test_a_large_work_has_two_sets_and_all_stay_within_memory() -> None:
    work = Linear(n=8192, k=8192, weight="f32")
    assert slots_for(work, CPU, 1 << 40) == slots_for(work, CPU, 2 * work.footprint_bytes) == 2
    small = Linear(n=128, k=1024, weight="f32")
    for fitting in (2, 5, 32, 33, 34, 100):
        room = COPIES * fitting * (small.footprint_bytes + SET_BYTES)
        assert slots_for(small, CPU, room) == min(fitting, MOST_SLOTS)
    assert slots_for(small, CPU, small.footprint_bytes) == 2, "less than two cannot rotate"
    assert slots_for(small, None, 1 << 40) == MOST_SLOTS


@pytest.mark.parametrize("device", [CPU, gpu(80 << 30, 50 << 20), gpu(80 << 30, 2 << 30)])
@pytest.mark.parametrize("spec", ["linear:n=1,k=1,m=1,weight=f32", "linear:n=16,k=16,weight=int8"])
def test_a_tiny_work_takes_no_memory_to_speak_of(device: Device, spec: str) -> None:
    """Before, its sets were counted by their numbers: 12 bytes each, hundreds of millions of them."""
    work = parse(spec)
    sets = slots_for(work, device, 40 << 30)
    assert sets == (MOST_SLOTS if device is CPU else MOST_SETS)
    assert sets * (work.footprint_bytes + SET_BYTES) < 300 << 20
    room = 10 * SET_BYTES * (COPIES if device is CPU else 1)
    assert slots_for(work, device, room) == 9, "their own cost counts in a small budget"


@pytest.mark.parametrize("device", [CPU, gpu(80 << 30, 50 << 20)])
def test_a_model_is_one_set(device: Device) -> None:
    for work in (Step("tiny"), Prefill("tiny", tokens=7), parse("step:model=llama-3.2-1b,context=64")):
        assert slots_for(work, device, 1 << 40) == 1


def test_an_accelerators_sets_defeat_its_own_cache_within_half_of_its_memory() -> None:
    work = Linear(n=1024, k=1024, weight="f32")
    size = work.footprint_bytes
    assert slots_for(work, gpu(1000 * size, 5 * size), 1 << 40) == 21
    assert slots_for(work, gpu(20 * (size + SET_BYTES), 5 * size), 1 << 40) == 10
    assert slots_for(work, gpu(1000 * size, 5 * size), 7 * (size + SET_BYTES)) == 7
    assert slots_for(work, gpu(2 * size, 5 * size), 1 << 40) == 2


def test_what_an_accelerator_does_not_tell_is_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "last_level_cache_bytes", lambda: CACHE)
    assert cache_and_room(CPU, 777) == (CACHE, 777)
    assert cache_and_room(None, 777) == (CACHE, 777)
    assert cache_and_room(gpu(), 777) == (CACHE, 777)
    assert cache_and_room(gpu(cache_bytes=5), 777) == (5, 777)
    assert cache_and_room(gpu(1000, 5), 777) == (5, 500)


def test_input_sets_of_experts_share_memory_and_fit_it() -> None:
    """Sixteen sets of eight experts lie in memory once; the next one takes as much again."""
    work = RoutedExperts(hidden=256, width=128, count=128, chosen=8)
    wanted = slots_for(work, CPU, 1 << 40)
    assert wanted == MOST_SLOTS
    room = held_bytes(work, 16) + (16 + 1) * SET_BYTES
    assert slots_for(work, CPU, COPIES * room) == 16
    assert held_bytes(work, 16) < 1.1 * held_bytes(work, 1)
    large = RoutedExperts(hidden=2048, width=768, batch=8)
    assert slots_for(large, CPU, 1 << 40) == 2
