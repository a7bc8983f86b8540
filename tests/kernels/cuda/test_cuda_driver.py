# ruff: noqa: N802, N815 - the names are the driver's
"""Memory, launches, graphs and events through the driver's API, held against a driver written for the tests."""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from membound.kernels.cuda.compile import Kernel, cuda
from membound.kernels.cuda.device import driver
from membound.kernels.cuda.device.gpu import GpuError


class Code(enum.IntEnum):
    SUCCESS = 0
    INVALID = 1


class FakeDriver:
    """What driver.py uses of cuda.bindings.driver; device memory is the host's."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=16,
        CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE=38,
    )
    CU_MEMHOSTALLOC_DEVICEMAP = 2
    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DEFAULT=0)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(self, capability: tuple[int, int] = (9, 0), gpus: int = 1) -> None:
        self.attributes = {75: capability[0], 76: capability[1], 16: 132, 38: 50 << 20}
        self.gpus = gpus
        self.memory: dict[int, Any] = {}
        self.launched: list[tuple[Any, ...]] = []
        self.modules: list[bytes] = []
        self.captured: list[tuple[Any, ...]] | None = None
        self.graphs: list[Any] = []
        self.executable: list[Any] = []
        self.events: list[int] = []
        self.fail: str | None = None

    def __getattr__(self, name: str) -> Any:
        """Calls that only need to succeed."""
        if name.startswith("cu"):
            return lambda *arguments: (Code.INVALID if self.fail == name else Code.SUCCESS, 7)
        raise AttributeError(name)

    def cuGetErrorName(self, code):
        return Code.SUCCESS, b"CUDA_ERROR_INVALID_VALUE"

    def cuDeviceGetCount(self):
        return Code.SUCCESS, self.gpus

    def cuDeviceGetName(self, length, device):
        return Code.SUCCESS, b"Test GPU\0\0".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, which, device):
        return Code.SUCCESS, self.attributes[which]

    def cuDeviceTotalMem(self, device):
        return Code.SUCCESS, 80 << 30

    def cuDeviceGetPCIBusId(self, length, device):
        return Code.SUCCESS, b"0000:A4:00.0".ljust(length, b"\0")

    def cuMemAlloc(self, size):
        if self.fail == "cuMemAlloc":
            return Code.INVALID, None
        space = np.full(size + 64, 0xAB, np.uint8)
        address = -(-space.ctypes.data // 64) * 64
        self.memory[address] = space
        return Code.SUCCESS, address

    def cuMemFree(self, address):
        del self.memory[address]
        return (Code.SUCCESS,)

    def cuMemHostAlloc(self, size, flags):
        assert flags == self.CU_MEMHOSTALLOC_DEVICEMAP
        return self.cuMemAlloc(size)

    def cuMemHostGetDevicePointer(self, host, flags):
        return Code.SUCCESS, host

    def cuMemFreeHost(self, host):
        return self.cuMemFree(host)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        ctypes.memmove(target, source, size)
        return (Code.SUCCESS,)

    cuMemcpyDtoHAsync = cuMemcpyHtoDAsync

    def cuMemsetD8Async(self, target, value, size, stream):
        ctypes.memset(target, value, size)
        return (Code.SUCCESS,)

    def cuModuleLoadData(self, code):
        self.modules.append(code)
        return Code.SUCCESS, len(self.modules)

    def cuModuleGetFunction(self, module, name):
        return Code.SUCCESS, (module, name)

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        if self.fail == "cuLaunchKernel":
            return (Code.INVALID,)
        where = self.launched if self.captured is None else self.captured
        where.append((function, (gx, gy, gz), (bx, by, bz), shared, stream, parameters))
        return (Code.SUCCESS,)

    def cuStreamBeginCapture(self, stream, mode):
        self.captured = []
        return (Code.SUCCESS,)

    def cuStreamEndCapture(self, stream):
        graph, self.captured = self.captured, None
        self.graphs.append(graph)
        return Code.SUCCESS, graph

    def cuGraphInstantiate(self, graph, flags):
        if self.fail == "cuGraphInstantiate":
            return Code.INVALID, None
        self.executable.append(graph)
        return Code.SUCCESS, graph

    def cuGraphLaunch(self, graph, stream):
        self.launched += graph
        return (Code.SUCCESS,)

    def cuGraphDestroy(self, graph):
        assert graph in self.graphs
        self.graphs.remove(graph)
        return (Code.SUCCESS,)

    def cuGraphExecDestroy(self, graph):
        self.executable.remove(graph)
        return (Code.SUCCESS,)

    def cuEventCreate(self, flags):
        self.events.append(len(self.events) + 100)
        return Code.SUCCESS, self.events[-1]

    def cuEventDestroy(self, event):
        self.events.remove(event)
        return (Code.SUCCESS,)

    def cuEventElapsedTime(self, start, end):
        assert {start, end} <= set(self.events)
        return Code.SUCCESS, 2.5


def fill(target, count, factor):
    target[cuda.grid(1)] = count * factor


FILL = Kernel("fill", fill, ("f32*", "i32", "f32"), 96)


@pytest.fixture
def fake(monkeypatch):
    fake = FakeDriver()
    monkeypatch.setattr(driver, "cu", fake)
    monkeypatch.setattr(driver.cubins, "find", lambda kernel, target: f"{kernel.name} {target}".encode())
    return fake


def test_a_gpu_says_what_it_is(fake):
    gpu = driver.open_gpu()
    assert (gpu.name, gpu.target, gpu.multiprocessors, gpu.stream) == ("Test GPU", "9.0a", 132, 7)
    assert (gpu.memory_bytes, gpu.cache_bytes, gpu.pci) == (80 << 30, 50 << 20, "0000:A4:00.0")


def test_memory_is_copied_both_ways_and_given_back(fake):
    gpu = driver.DriverGpu()
    values = np.random.default_rng().standard_normal((3, 5)).astype(np.float32)
    array, zeros = gpu.array(values), gpu.zeros(6, np.uint16)
    np.testing.assert_array_equal(array.read(), values.ravel())
    np.testing.assert_array_equal(zeros.read(), np.zeros(6, np.uint16))
    array.write(-values)
    np.testing.assert_array_equal(array.read(), -values.ravel())
    assert (array.size_bytes, zeros.size_bytes) == (60, 12)
    with pytest.raises(ValueError, match="4 bytes do not fill an array of 60"):
        array.write(np.zeros(1, np.float32))
    gpu.close()
    assert fake.memory == {}


def test_words_are_shared_with_the_host_and_given_back(fake):
    gpu = driver.DriverGpu()
    words = gpu.shared(8)
    assert words.values.tolist() == [0] * 8
    words.values[3] = 7
    (space,) = fake.memory.values()
    assert np.count_nonzero(space[space != 0xAB]) == 1  # the same memory, all of it set
    launch = gpu.bind(FILL, 1, (words, 1, 1.0))
    launch.start()
    assert parameters(fake.launched[-1], ctypes.c_uint64) == [words.address]
    gpu.close()
    assert fake.memory == {}


def parameters(launch, *kinds):
    """The arguments that the driver would read at the packed addresses."""
    pointers = ctypes.cast(launch[-1], ctypes.POINTER(ctypes.c_void_p))
    return [ctypes.cast(pointers[i], ctypes.POINTER(kind))[0] for i, kind in enumerate(kinds)]


def test_a_launch_passes_what_the_kernel_takes(fake):
    gpu = driver.DriverGpu()
    target = gpu.zeros(96, np.float32)
    launch = gpu.bind(FILL, (2, 3), (target, -5, 0.5))
    launch.start()
    launch.start()
    first, second = fake.launched
    assert first == second
    assert first[:5] == ((1, b"fill"), (2, 3, 1), (96, 1, 1), 0, 7)
    kinds = (ctypes.c_uint64, ctypes.c_int32, ctypes.c_float)
    assert parameters(first, *kinds) == [target.address, -5, 0.5]
    assert fake.modules == [b"fill 9.0a"]


def test_memory_of_others_is_an_argument_without_a_copy(fake):
    gpu = driver.DriverGpu()
    own = gpu.zeros(4, np.float32)
    assert own.__cuda_array_interface__["shape"] == (4,)
    other = SimpleNamespace(__cuda_array_interface__={"data": (4096, False), "strides": None})
    for argument, address in ((own, own.address), (other, 4096), (8192, 8192)):
        launch = gpu.bind(FILL, 1, (argument, 1, 1.0))
        launch.start()
        assert parameters(fake.launched[-1], ctypes.c_uint64) == [address]


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        (
            SimpleNamespace(__cuda_array_interface__={"data": (4096, False), "strides": (8,)}),
            "not contiguous",
        ),
        (4100, "aligned to 16 bytes"),
        ("x", "aligned to 16 bytes"),
    ],
    ids=["strided", "unaligned", "text"],
)
def test_memory_that_kernels_cannot_read_is_refused(fake, argument, match):
    with pytest.raises(TypeError, match=f"fill: argument 0 is .*{match}"):
        driver.DriverGpu().bind(FILL, 1, (argument, 1, 1.0))
    with pytest.raises(TypeError, match="takes 3 arguments, not 1"):
        driver.DriverGpu().bind(FILL, 1, (0,))


def test_a_graph_holds_its_launches_in_order(fake):
    gpu = driver.DriverGpu()
    target = gpu.zeros(4, np.float32)
    launches = [gpu.bind(FILL, n, (target, n, 1.0)) for n in (1, 2)]
    graph = gpu.capture(launches)
    assert fake.launched == []
    graph.start()
    assert [launch[1][0] for launch in fake.launched] == [1, 2]


def test_graphs_and_events_are_given_back(fake):
    gpu = driver.DriverGpu()
    launch = gpu.bind(FILL, 1, (gpu.zeros(4, np.float32), 1, 1.0))
    gpu.capture([launch]).start()
    assert (fake.graphs, len(fake.executable)) == (
        [],
        1,
    )  # what was instantiated does not need what it was made of
    for _ in range(3):
        gpu.elapsed_s(gpu.mark(), gpu.mark())
    assert fake.events == []
    fake.fail = "cuGraphInstantiate"
    with pytest.raises(GpuError, match="CUDA_ERROR_INVALID_VALUE"):
        gpu.capture([launch])
    assert fake.graphs == []
    fake.fail = None
    gpu.close()
    assert fake.executable == []


def test_a_failed_capture_is_ended(fake):
    gpu = driver.DriverGpu()
    launch = gpu.bind(FILL, 1, (0, 1, 1.0))
    fake.fail = "cuLaunchKernel"
    with pytest.raises(GpuError, match="CUDA_ERROR_INVALID_VALUE"):
        gpu.capture([launch])
    assert fake.captured is None


def test_events_tell_seconds(fake):
    gpu = driver.DriverGpu()
    assert gpu.elapsed_s(gpu.mark(), gpu.mark()) == 2.5e-3


@pytest.mark.parametrize("call", ["cuMemAlloc", "cuLaunchKernel", "cuStreamSynchronize", "cuEventRecord"])
def test_what_the_driver_refuses_is_an_error(fake, call):
    gpu = driver.DriverGpu()
    launch = gpu.bind(FILL, 1, (0, 1, 1.0))
    fake.fail = call
    actions = {
        "cuMemAlloc": lambda: gpu.zeros(1, np.float32),
        "cuLaunchKernel": launch.start,
        "cuStreamSynchronize": gpu.synchronize,
        "cuEventRecord": gpu.mark,
    }
    with pytest.raises(GpuError, match="CUDA_ERROR_INVALID_VALUE"):
        actions[call]()


def test_missing_and_old_gpus_are_told(monkeypatch):
    monkeypatch.setattr(driver, "cu", FakeDriver(gpus=2))
    with pytest.raises(GpuError, match="no GPU number 2: the driver has 2"):
        driver.DriverGpu(2)
    monkeypatch.setattr(driver, "cu", FakeDriver(capability=(7, 5)))
    with pytest.raises(GpuError, match=r"Test GPU: compute capability 7\.5 is too old"):
        driver.DriverGpu()


def test_a_missing_driver_is_told_in_one_line(monkeypatch):
    def missing(flags):
        raise RuntimeError("libcuda is\nnot there")

    monkeypatch.setattr(driver, "cu", SimpleNamespace(cuInit=missing))
    with pytest.raises(GpuError, match=r"^libcuda is not there$"):
        driver.count()
