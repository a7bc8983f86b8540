"""The simulated GPU: the same code as on hardware gives the same memory."""

from __future__ import annotations

import numpy as np
import pytest

from membound.kernels.cuda.compile import Kernel, cuda
from membound.kernels.cuda.device.simulated import SimulatedGpu


def add(words, target, amount):
    i = cuda.grid(1)
    target[i] = target[i] + (words[i] & np.uint32(0xFF)) + amount


ADD = Kernel("add", add, ("u32*", "f32*", "f32"), 4)


def test_launches_run_in_order_and_see_memory_as_their_elements():
    gpu = SimulatedGpu()
    source = np.arange(16, dtype=np.uint8).reshape(4, 4)
    words, target = gpu.array(source), gpu.zeros(4, np.float32)
    launch = gpu.bind(ADD, 1, (words, target, 0.5))
    launch.start()
    gpu.capture([launch, launch]).start()
    gpu.synchronize()
    np.testing.assert_array_equal(target.read(), 3 * (source[:, 0] + np.float32(0.5)))


def test_arrays_are_copies_that_can_be_written_again():
    gpu = SimulatedGpu()
    values = np.random.default_rng().standard_normal((2, 3)).astype(np.float32)
    array = gpu.array(values)
    array.write(2 * values)
    np.testing.assert_array_equal(array.read(), 2 * values.ravel())
    assert array.size_bytes == 24
    with pytest.raises(ValueError, match="do not fill"):
        array.write(values[:1])
    array.read()[:] = 0
    assert array.read().any()


def test_wrong_arguments_are_refused():
    gpu = SimulatedGpu()
    strided = np.zeros((4, 2), np.float32)[:, 0]
    with pytest.raises(TypeError, match="not contiguous"):
        gpu.bind(ADD, 1, (gpu.zeros(4, np.uint32), strided, 1))
    with pytest.raises(TypeError, match="takes 3 arguments, not 1"):
        gpu.bind(ADD, 1, (1,))


def test_time_passes_between_marks():
    gpu = SimulatedGpu()
    start = gpu.mark()
    assert gpu.elapsed_s(start, gpu.mark()) > 0
