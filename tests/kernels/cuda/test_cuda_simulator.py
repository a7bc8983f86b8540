"""The simulator: results of small kernels, and refusal of what a GPU would do wrong in silence."""

from __future__ import annotations

import numpy as np
import pytest

from membound.kernels.cuda import ptx
from membound.kernels.cuda.compile import Kernel, cuda, device
from membound.kernels.cuda.device import simulator
from membound.kernels.cuda.ptx import (
    commit_copies,
    copy4_async,
    load4,
    load4_shared,
    store4,
    wait_copies,
    wait_copies_but,
)

FULL = 0xFFFFFFFF


def kernel(function, parameters, threads=64):
    return Kernel(function.__name__, function, parameters, threads)


@device
def twice(x):
    return x * np.float32(2)


def test_a_grid_of_blocks_writes_what_its_threads_compute():
    def scale(source, target, count, factor):
        i = cuda.grid(1)
        if i < count:
            target[i] = twice(source[i]) * factor

    x = np.random.default_rng().standard_normal(100).astype(np.float32)
    y = np.full(100, np.nan, np.float32)
    simulator.launch(kernel(scale, ("f32*", "f32*", "i32", "f32")), 2, (x, y, 99, 3))
    np.testing.assert_array_equal(y[:99], x[:99] * 2 * 3)
    assert np.isnan(y[99])


def test_blocks_have_two_dimensions():
    def place(target):
        if cuda.threadIdx.x == 0:
            target[cuda.blockIdx.y * cuda.gridDim.x + cuda.blockIdx.x] += cuda.blockDim.x + cuda.blockIdx.y

    y = np.zeros(6, np.int32)
    simulator.launch(kernel(place, ("i32*",), 32), (3, 2), (y,))
    np.testing.assert_array_equal(y, [32, 32, 32, 33, 33, 33])


def test_shuffles_reach_their_warp():
    def shuffle(source, target):
        i = cuda.threadIdx.x
        target[i] = cuda.shfl_xor_sync(FULL, source[i], 5)
        target[64 + i] = cuda.shfl_sync(FULL, source[i], 7)
        target[128 + i] = cuda.shfl_down_sync(FULL, source[i], 4)

    x = np.random.default_rng().standard_normal(64).astype(np.float32)
    y = np.zeros(192, np.float32)
    simulator.launch(kernel(shuffle, ("f32*", "f32*")), 1, (x, y))
    i = np.arange(64)
    np.testing.assert_array_equal(y[:64], x[i ^ 5])
    np.testing.assert_array_equal(y[64:128], x[i // 32 * 32 + 7])
    np.testing.assert_array_equal(y[128:], x[np.where(i % 32 < 28, i + 4, i)])


def test_warps_meet_in_shared_memory():
    def reverse(source, target):
        i = cuda.threadIdx.x
        shared = cuda.shared.array(64, np.uint32, 16)
        if i < 16:
            copy4_async(shared, 4 * i, source, 4 * i)
            commit_copies()
            wait_copies()
        cuda.syncthreads()
        target[i] = shared[63 - i]

    x = np.random.default_rng().integers(0, 1 << 32, 64, np.uint32)
    y = np.zeros(64, np.uint32)
    simulator.launch(kernel(reverse, ("u32*", "u32*")), 1, (x, y))
    np.testing.assert_array_equal(y, x[::-1])


def test_copies_arrive_no_earlier_than_they_are_waited_for():
    def late(source, target):
        shared = cuda.shared.array(8, np.uint32, 16)
        shared[0], shared[4] = np.uint32(0), np.uint32(0)
        for i in range(2):
            copy4_async(shared, 4 * i, source, 4 * i)
            commit_copies()
        target[0] = shared[0]
        wait_copies_but(1)
        target[1], target[2] = shared[0], shared[4]
        wait_copies_but(0)
        a, _, _, d = load4_shared(shared, 4)
        target[3], target[4] = a, d

    x = np.arange(10, 18, dtype=np.uint32)
    y = np.zeros(5, np.uint32)
    simulator.launch(kernel(late, ("u32*", "u32*"), 1), 1, (x, y))
    np.testing.assert_array_equal(y, [0, 10, 0, 14, 17])


def test_a_wait_for_more_groups_than_the_instruction_takes_is_refused():
    def wait(target):
        wait_copies_but(16)
        target[0] = np.uint32(1)

    with pytest.raises(ValueError, match="a constant from 0 to 15, not 16"):
        simulator.launch(kernel(wait, ("u32*",), 1), 1, (np.zeros(1, np.uint32),))


def test_atomics_add_up_over_blocks():
    def count(target, words):
        cuda.atomic.add(target, 0, 1)
        cuda.atomic.xor(words, 0, np.uint32(cuda.threadIdx.x))

    y, w = np.zeros(1, np.int32), np.zeros(1, np.uint32)
    simulator.launch(kernel(count, ("i32*", "u32*"), 33), 3, (y, w))
    assert y[0] == 99
    assert w[0] == np.bitwise_xor.reduce(np.arange(33))


def test_local_and_shared_arrays_start_as_garbage():
    def read(target):
        a, b = cuda.local.array(2, np.float32), cuda.shared.array(2, np.uint32)
        target[0], target[1] = a[0], b[1]

    y = np.zeros(2, np.float32)
    simulator.launch(kernel(read, ("f32*",), 1), 1, (y,))
    assert np.isnan(y[0])
    assert y[1] == 2**32


# What it refuses


def refused(function, parameters, arguments, match, threads=64):
    with pytest.raises(simulator.SimulationError, match=match):
        simulator.launch(kernel(function, parameters, threads), 1, arguments)


def test_indices_outside_are_refused():
    def late(target, start):
        target[start + cuda.threadIdx.x] = 1

    refused(late, ("i32*", "i32"), (np.zeros(64, np.int32), 1), "64 is outside")
    refused(late, ("i32*", "i32"), (np.zeros(64, np.int32), -1), "-1 is outside")


def test_wide_accesses_must_be_aligned_and_inside():
    def shift(source, target, start):
        a, b, c, d = load4(source, start)
        store4(target, 0, a, b, c, d)

    x = np.arange(8, dtype=np.uint32)
    simulator.launch(kernel(shift, ("u32*", "u32*", "i32"), 1), 1, (x, x, 4))
    np.testing.assert_array_equal(x, [4, 5, 6, 7, 4, 5, 6, 7])
    refused(shift, ("u32*", "u32*", "i32"), (x, x, 2), "not aligned", 1)
    refused(shift, ("u32*", "u32*", "i32"), (x, x, 8), "outside of 8", 1)
    refused(shift, ("u8*", "u32*", "i32"), (x.view(np.uint8), x, 8 + 4), "not aligned", 1)


def test_threads_of_a_warp_must_not_wait_at_different_operations():
    def diverge(target):
        if cuda.threadIdx.x < 8:
            cuda.syncwarp()
        else:
            target[0] = cuda.shfl_sync(FULL, target[0], 0)

    refused(diverge, ("f32*",), (np.zeros(1, np.float32),), "shfl_sync.*syncwarp", 32)


def test_threads_must_not_leave_while_their_warp_waits_for_them():
    def early(target):
        if cuda.threadIdx.x > 8:
            cuda.syncwarp()
        target[0] = 1

    def late(target):
        if cuda.threadIdx.x < 8:
            cuda.syncwarp()
        target[0] = 1

    for function in (early, late):
        refused(function, ("i32*",), (np.zeros(1, np.int32),), "syncwarp|has ended", 32)


def test_threads_that_wait_forever_are_told():
    def stuck(target):
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()
        elif cuda.threadIdx.x < 48:
            cuda.syncwarp()
        else:
            cuda.syncthreads()
        target[0] = 1

    refused(stuck, ("i32*",), (np.zeros(1, np.int32),), "wait for each other forever")


def test_a_failure_of_a_thread_is_the_launchs():
    def fail(target):
        cuda.syncthreads()
        if cuda.threadIdx.x == 40:
            target[0] = target[1 // (cuda.threadIdx.x - 40)]
        cuda.syncthreads()

    with pytest.raises(ZeroDivisionError) as caught:
        simulator.launch(kernel(fail, ("i32*",)), 1, (np.zeros(1, np.int32),))
    assert caught.value.__notes__ == ["thread 40 of fail, block (0, 0, 0)"]


def test_arguments_must_be_of_the_parameters_types():
    def nothing(target, count):
        pass

    for arguments in ((np.zeros(1), 1), (np.zeros((1, 1), np.float32), 1), (1.0, 1)):
        with pytest.raises(TypeError, match="argument 0 must be a flat array of float32"):
            simulator.launch(kernel(nothing, ("f32*", "i32")), 1, arguments)
    with pytest.raises(TypeError, match="takes 2 arguments, not 1"):
        simulator.launch(kernel(nothing, ("f32*", "i32")), 1, (np.zeros(1, np.float32),))


def test_every_operation_of_ptx_has_its_double():
    from membound.kernels.cuda.device.emulation import NAMES

    defined = {name for name, value in vars(ptx).items() if type(value).__name__ == "_Intrinsic"}
    assert defined == set(NAMES)
