"""The co-runner on a GPU: each trade takes its own and counts it, on its share, and ends when told or by itself."""

from __future__ import annotations

import numpy as np
import pytest
from counted_chains import Counter, in_chains
from sass import sass

from membound.kernels.cuda.device.gpu import GpuError
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.instruments import co_runner
from membound.kernels.cuda.instruments.chains import ROUND
from membound.kernels.cuda.instruments.co_runner import (
    FIRST,
    STOP,
    THREADS,
    TRADES,
    UNROLL,
    GpuCoRunner,
    co_runner_kernel,
)

SMALL = 32
CHUNK = 16 * SMALL * UNROLL
BLOCKS = 4


def made(limit_us: int = 3, gpu: SimulatedGpu | None = None) -> GpuCoRunner:
    """A small one that has taken its memory; the simulator's clock ticks when it is read, so `limit_us` are as many chunks."""
    one = unentered(limit_us, gpu)
    one._allocate()
    return one


def unentered(limit_us: int = 3, gpu: SimulatedGpu | None = None) -> GpuCoRunner:
    return GpuCoRunner(
        gpu or SimulatedGpu(BLOCKS), 9 * CHUNK, threads=SMALL, chunk_bytes=CHUNK, dose=1, limit_us=limit_us
    )


def counts(one: GpuCoRunner) -> list[int]:
    return one._words.values[FIRST:].tolist()


@pytest.mark.parametrize(
    ("trade", "reads", "fmas"),
    [("idle", 0, 0), ("bandwidth", CHUNK // 16, 0), ("fma", 0, ROUND * SMALL)],
)
@pytest.mark.parametrize("duty", [0.25, 0.5, 1.0])
def test_each_trade_takes_its_own_on_its_share(
    trade: str, reads: int, fmas: int, duty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, done = Counter(monkeypatch, "load4"), Counter(monkeypatch, "fma_f32")
    one = made()
    one.work(trade, duty)
    blocks = round(duty * BLOCKS)
    assert counts(one) == [3] * blocks + [1] * blocks + [0] * (2 * (BLOCKS - blocks))
    constants = 3 * SMALL * blocks  # each thread's chains
    assert loads.count - constants == 3 * blocks * reads
    assert done.count == 3 * blocks * fmas
    one.rest()
    assert one.taken() == (16 * 3 * blocks * reads, 2 * 3 * blocks * fmas)
    assert not any(counts(one))


def test_every_block_streams_windows_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGpu(BLOCKS)
    one = made(limit_us=2, gpu=gpu)
    chunks = one._source.read().view(np.uint32).reshape(-1, CHUNK // 4)
    assert len(chunks) == 9
    one.work("bandwidth", 1.0)
    for block in range(BLOCKS):
        read = np.concatenate([chunks[block], chunks[(block + BLOCKS) % 9]])
        found = one._sums.read().view(np.uint32).reshape(BLOCKS, SMALL)[block]
        assert np.bitwise_xor.reduce(found) == np.bitwise_xor.reduce(read)


def test_what_was_taken_adds_up_over_trades() -> None:
    one = made(limit_us=1)
    one.work("bandwidth", 0.5)
    one.work("fma", 0.25)
    one.rest()
    assert one.taken() == (2 * CHUNK, 2 * ROUND * SMALL)
    one.rest()
    assert one.taken() == (2 * CHUNK, 2 * ROUND * SMALL)


def test_the_word_to_end_ends_it_after_the_chunk_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = SimulatedGpu(BLOCKS)
    one = made(limit_us=1000, gpu=gpu)
    one._words.values[STOP] = 1
    monkeypatch.setattr(one, "rest", lambda: None)
    one.work("idle", 1.0)
    assert counts(one) == [1] * BLOCKS + [1] * BLOCKS


def test_a_co_runner_that_ended_by_itself_is_an_error_and_no_dose() -> None:
    one = made()
    one.work("bandwidth", 0.5)
    with pytest.raises(GpuError, match="ended by itself after 3e-06 s, before its victim"):
        one.taken()
    one.rest()
    assert one.taken()[0] == 2 * 3 * CHUNK


def test_entering_loads_every_trade_and_leaving_gives_all_back(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, bound = [], []
    gpu = SimulatedGpu(BLOCKS)
    monkeypatch.setattr(gpu, "close", lambda: closed.append(True))
    real = gpu.bind
    monkeypatch.setattr(gpu, "bind", lambda k, g, a: (bound.append((k.name, g)), real(k, g, a))[1])
    with unentered(gpu=gpu) as one:
        assert bound == [(f"co_runner_{trade}_t{SMALL}", 1) for trade in TRADES]
        before = one.taken()
        one.rest()
        assert one.taken() == before
    assert closed == [True]


def test_asking_for_one_takes_no_memory_and_one_that_cannot_be_entered_gives_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, taken, closed = SimulatedGpu(BLOCKS), list[str](), list[bool]()
    for name in ("array", "zeros", "shared"):
        real = getattr(gpu, name)
        monkeypatch.setattr(gpu, name, lambda *a, n=name, real=real: (taken.append(n), real(*a))[1])
    monkeypatch.setattr(gpu, "close", lambda: closed.append(True))
    one = unentered(gpu=gpu)
    assert taken == []
    monkeypatch.setattr(one, "work", lambda trade, duty: (_ for _ in ()).throw(GpuError("no room")))
    with pytest.raises(GpuError, match="no room"):
        one.__enter__()
    assert (sorted(set(taken)), closed) == (["array", "shared", "zeros"], [True])


def test_one_that_does_not_begin_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    one = made()
    monkeypatch.setattr(co_runner, "ANSWER_S", 0.0)
    monkeypatch.setattr(one, "_counts", lambda: np.zeros(1, np.uint32))
    with pytest.raises(GpuError, match="did not begin within 0 s"):
        one.work("fma")


@pytest.mark.parametrize(("trade", "duty"), [("stop", 1.0), ("fma", 0.0), ("fma", 1.5)])
def test_what_makes_no_sense_is_refused(trade: str, duty: float) -> None:
    with pytest.raises(ValueError, match=f"trade '{trade}' with duty {duty}"):
        made().work(trade, duty)


def test_chunks_are_whole_loads_of_a_block() -> None:
    with pytest.raises(ValueError, match="no multiple of what 32 threads load"):
        GpuCoRunner(SimulatedGpu(), CHUNK, threads=SMALL, chunk_bytes=CHUNK + 16)


@pytest.mark.cuda_compile
@pytest.mark.parametrize("trade", TRADES)
def test_the_machine_code_does_its_trade_and_nothing_else(trade: str) -> None:
    code = sass(co_runner_kernel(trade))
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= 32  # as many threads of a victim find as many registers again
    assert code.count(r"LDG.*STRONG\.SYS") == 1
    assert code.count(r"STG.*STRONG\.SYS") == 2
    assert (code.count("NANOSLEEP") > 0) == (trade == "idle")
    assert bool(in_chains(co_runner_kernel(trade))) == (trade == "fma")
    streams = code.wide_loads - 2  # two fill the chains
    assert (streams > 1) == (trade == "bandwidth")
    if trade == "bandwidth":
        assert code.longest_run >= UNROLL
    assert THREADS == 1024
