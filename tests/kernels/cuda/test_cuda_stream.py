"""Read, copy and triad on the simulated GPU, exact at every residue; their machine code."""

from __future__ import annotations

import numpy as np
import pytest
from sass import sass

from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.instruments.stream import (
    THREADS,
    UNROLLS,
    bind_copy,
    bind_read,
    bind_triad,
    copy_kernel,
    read_kernel,
    read_sums,
    triad_kernel,
)

RNG = np.random.default_rng()
PACKETS = [1, THREADS - 1, THREADS, THREADS + 1, 2 * THREADS, 2 * THREADS + 37]


@pytest.mark.parametrize("packets", PACKETS)
def test_a_copy_is_exact_and_stays_within_its_size(packets):
    gpu = SimulatedGpu()
    source = RNG.integers(0, 1 << 32, 4 * packets + 4, np.uint32)
    target = gpu.zeros(source.size, np.uint32)
    bind_copy(gpu, gpu.array(source), target, 16 * packets, unroll=2).start()
    np.testing.assert_array_equal(target.read()[:-4], source[:-4])
    assert not target.read()[-4:].any()


@pytest.mark.parametrize("packets", PACKETS)
def test_a_triad_is_that_of_float32(packets):
    gpu = SimulatedGpu()
    b, c = RNG.standard_normal((2, 4 * packets)).astype(np.float32)
    a = gpu.zeros(b.size, np.float32)
    bind_triad(gpu, gpu.array(b), gpu.array(c), a, 3.0, b.nbytes, unroll=2).start()
    np.testing.assert_allclose(a.read(), b + np.float32(3) * c, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("packets", [1, 5 * THREADS - 3, 8 * THREADS, 8 * THREADS + 300])
def test_a_read_reaches_every_word(packets):
    gpu = SimulatedGpu()
    source = RNG.integers(0, 1 << 32, 4 * packets, np.uint32)
    sums = gpu.zeros(read_sums(2), np.uint32)
    bind_read(gpu, gpu.array(source), sums, source.nbytes, unroll=2, blocks=2).start()
    assert np.bitwise_xor.reduce(sums.read()) == np.bitwise_xor.reduce(source)


def test_a_read_fills_the_gpu_unless_told_otherwise():
    gpu = SimulatedGpu(multiprocessors=1)
    sums = gpu.zeros(read_sums(8), np.uint32)
    source = np.full(4, 5, np.uint32)
    source[3] = 9
    bind_read(gpu, gpu.array(source), sums, 16).start()
    found = sums.read()
    assert len(found) == read_sums(8)
    assert sorted(found.tolist()) == [0] * (len(found) - 1) + [5 ^ 9], "one warp has read it all"


@pytest.mark.parametrize("size_bytes", [0, -16, 17])
def test_sizes_that_are_no_packets_are_refused(size_bytes):
    gpu = SimulatedGpu()
    with pytest.raises(ValueError, match=f"{size_bytes} bytes are no positive multiple of 16"):
        bind_copy(gpu, gpu.zeros(64, np.uint32), gpu.zeros(64, np.uint32), size_bytes)


@pytest.mark.cuda_compile
@pytest.mark.parametrize("unroll", UNROLLS)
def test_the_machine_code_has_its_loads_under_way_together(unroll):
    for kernel, loads, stores in (
        (copy_kernel(unroll), unroll, unroll),
        (triad_kernel(unroll), 2 * unroll, unroll),
        (read_kernel(unroll), unroll, 0),
    ):
        code = sass(kernel)
        assert code.wide_loads >= loads
        assert code.count(r"STG.*128") >= stores
        assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
        assert code.registers <= 64
        assert code.longest_run >= min(loads, 4)
