"""A GPU through NVIDIA's driver: loads machine code, packs arguments once, starts launches, graphs, events.

>>> from membound.kernels.cuda.instruments.stream import copy_kernel
>>> gpu = DriverGpu(0)
>>> gpu.bind(copy_kernel(4), 2, (gpu.array(source), target, 1000)).start()

It uses the device's primary context, which other libraries in the process share, so that arrays of theirs are
arguments without a copy. Launches go straight to cuLaunchKernel: Numba's own launch unpacks every array into
seven arguments, which costs more than a short kernel.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import driver as cu

from membound.kernels.cuda.compile import CompileError, Kernel, parse_target, target_of
from membound.kernels.cuda.device import cubins
from membound.kernels.cuda.device.gpu import Gpu, GpuError, Grid, Launch, blocks, check_count

ALIGNMENT = 16
_NUMBERS = {"i32": ctypes.c_int32, "u32": ctypes.c_uint32, "f32": ctypes.c_float}


def _checked(result: tuple[Any, ...]) -> Any:
    """The value behind the driver's error code. Raises GpuError with the error's name."""
    code, *values = result
    if int(code) != 0:
        _, name = cu.cuGetErrorName(code)
        raise GpuError(name.decode() if isinstance(name, bytes) else f"CUDA error {int(code)}")
    return values[0] if values else None


def count() -> int:
    """How many GPUs there are. Raises GpuError where the driver is missing or fails."""
    try:
        _checked(cu.cuInit(0))
        return int(_checked(cu.cuDeviceGetCount()))
    except RuntimeError as error:
        raise GpuError(" ".join(str(error).split())) from None


def open_gpu(ordinal: int = 0) -> Gpu:
    """GPU number `ordinal` of this machine. Raises GpuError if it is not there."""
    return DriverGpu(ordinal)


class DeviceArray:
    """Flat memory of a DriverGpu."""

    def __init__(self, gpu: DriverGpu, count: int, dtype: npt.DTypeLike) -> None:
        self._stream = gpu.stream
        self.dtype = np.dtype(dtype)
        self.size_bytes = count * self.dtype.itemsize
        self.address = int(_checked(cu.cuMemAlloc(max(1, self.size_bytes))))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """How other libraries see the memory, without a copy."""
        count = self.size_bytes // self.dtype.itemsize
        return {
            "shape": (count,),
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": self._stream,
        }

    def write(self, values: npt.NDArray[Any]) -> None:
        """Copy from the host."""
        if values.nbytes != self.size_bytes or not values.flags.c_contiguous:
            raise ValueError(f"{values.nbytes} bytes do not fill an array of {self.size_bytes}")
        _checked(cu.cuMemcpyHtoDAsync(self.address, values.ctypes.data, self.size_bytes, self._stream))
        _checked(cu.cuStreamSynchronize(self._stream))

    def read(self) -> npt.NDArray[Any]:
        """A flat copy on the host."""
        values = np.empty(self.size_bytes // self.dtype.itemsize, self.dtype)
        _checked(cu.cuMemcpyDtoHAsync(values.ctypes.data, self.address, self.size_bytes, self._stream))
        _checked(cu.cuStreamSynchronize(self._stream))
        return values


class SharedWords:
    """Words of the host in page-locked memory that a DriverGpu reaches over the link."""

    def __init__(self, count: int) -> None:
        self.host = int(_checked(cu.cuMemHostAlloc(4 * count, int(cu.CU_MEMHOSTALLOC_DEVICEMAP))))
        self.address = int(_checked(cu.cuMemHostGetDevicePointer(self.host, 0)))
        self.values = np.ctypeslib.as_array((ctypes.c_uint32 * count).from_address(self.host))
        self.values[:] = 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """How a launch sees the memory."""
        shape, data = self.values.shape, (self.address, False)
        return {"shape": shape, "typestr": "<u4", "data": data, "strides": None, "version": 3}


class _KernelLaunch:
    """One kernel with packed arguments. `kept` keeps alive what the packed addresses point to."""

    def __init__(
        self, function: Any, shape: tuple[int, ...], stream: int, values: list[Any], kept: Sequence[Any]
    ) -> None:
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._call = (function, *shape, 0, stream, ctypes.addressof(pointers), 0)
        self._kept = (pointers, values, kept)

    def start(self) -> None:
        """Put it into the stream."""
        _checked(cu.cuLaunchKernel(*self._call))


class _Event:
    """A moment in the stream. The driver's event goes when nobody holds this any more."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        weakref.finalize(self, cu.cuEventDestroy, handle).atexit = False


class _GraphLaunch:
    """Captured launches. `kept` are those."""

    def __init__(self, graph: Any, stream: int, kept: Sequence[Launch]) -> None:
        self._call = (graph, stream)
        self._kept = kept

    def start(self) -> None:
        """Put it into the stream."""
        _checked(cu.cuGraphLaunch(*self._call))


class DriverGpu:
    """GPU number `ordinal`. Raises GpuError if it is not there or too old for the kernels."""

    def __init__(self, ordinal: int = 0) -> None:
        found = count()
        if not 0 <= ordinal < found:
            raise GpuError(f"no GPU number {ordinal}: the driver has {found}")
        self.device = _checked(cu.cuDeviceGet(ordinal))
        self.name = _checked(cu.cuDeviceGetName(256, self.device)).split(b"\0")[0].decode()
        limits = cu.CUdevice_attribute
        self.target = target_of(
            self.attribute(limits.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self.attribute(limits.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        try:
            parse_target(self.target)
        except CompileError as error:
            raise GpuError(f"{self.name}: {error}") from None
        self.multiprocessors = self.attribute(limits.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.memory_bytes = int(_checked(cu.cuDeviceTotalMem(self.device)))
        self.cache_bytes = self.attribute(limits.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)
        self.pci = _checked(cu.cuDeviceGetPCIBusId(32, self.device)).split(b"\0")[0].decode()
        self._context = _checked(cu.cuDevicePrimaryCtxRetain(self.device))
        _checked(cu.cuCtxSetCurrent(self._context))
        self.stream = int(_checked(cu.cuStreamCreate(int(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))))
        self._arrays: list[DeviceArray] = []
        self._shared: list[SharedWords] = []
        self._graphs: list[Any] = []
        self._functions: dict[str, Any] = {}

    def attribute(self, which: Any) -> int:
        """A property of the device, by the driver's CUdevice_attribute."""
        return int(_checked(cu.cuDeviceGetAttribute(which, self.device)))

    def array(self, values: npt.NDArray[Any]) -> DeviceArray:
        """A copy of a host array."""
        array = self._empty(values.size, values.dtype)
        array.write(np.ascontiguousarray(values))
        return array

    def zeros(self, count: int, dtype: npt.DTypeLike) -> DeviceArray:
        """`count` elements of all-zero bits."""
        array = self._empty(count, dtype)
        _checked(cu.cuMemsetD8Async(array.address, 0, max(1, array.size_bytes), self.stream))
        return array

    def _empty(self, count: int, dtype: npt.DTypeLike) -> DeviceArray:
        array = DeviceArray(self, count, dtype)
        self._arrays.append(array)
        return array

    def shared(self, count: int) -> SharedWords:
        """`count` words of the host, mapped for the GPU."""
        words = SharedWords(count)
        self._shared.append(words)
        return words

    def bind(self, kernel: Kernel, grid: Grid, arguments: Sequence[Any]) -> Launch:
        """Load the kernel and pack its arguments."""
        check_count(kernel, arguments)
        values = [_packed(kernel, i, value) for i, value in enumerate(arguments)]
        shape = (*blocks(grid), kernel.threads, 1, 1)
        return _KernelLaunch(self._function(kernel), shape, self.stream, values, arguments)

    def _function(self, kernel: Kernel) -> Any:
        if kernel.name not in self._functions:
            module = _checked(cu.cuModuleLoadData(cubins.find(kernel, self.target)))
            self._functions[kernel.name] = _checked(cu.cuModuleGetFunction(module, kernel.name.encode()))
        return self._functions[kernel.name]

    def capture(self, launches: Sequence[Launch]) -> Launch:
        """The launches as one graph. They must have run before: loading code cannot be captured."""
        mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked(cu.cuStreamBeginCapture(self.stream, mode))
        try:
            for launch in launches:
                launch.start()
        finally:
            graph = _checked(cu.cuStreamEndCapture(self.stream))
        try:
            self._graphs.append(_checked(cu.cuGraphInstantiate(graph, 0)))
        finally:
            _checked(cu.cuGraphDestroy(graph))
        return _GraphLaunch(self._graphs[-1], self.stream, launches)

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        _checked(cu.cuStreamSynchronize(self.stream))

    def mark(self) -> Any:
        """An event behind all that was started so far."""
        event = _Event(_checked(cu.cuEventCreate(int(cu.CUevent_flags.CU_EVENT_DEFAULT))))
        _checked(cu.cuEventRecord(event.handle, self.stream))
        return event

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two events that have passed; the driver's resolution is about half a microsecond."""
        if not isinstance(start, _Event) or not isinstance(end, _Event):
            raise TypeError(f"{start!r} and {end!r} are not two marks")
        return float(_checked(cu.cuEventElapsedTime(start.handle, end.handle))) * 1e-3

    def close(self) -> None:
        """Free all arrays, words and graphs; nobody may look at the words or start the graphs any more."""
        self.synchronize()
        for graph in self._graphs:
            _checked(cu.cuGraphExecDestroy(graph))
        self._graphs.clear()
        for array in self._arrays:
            _checked(cu.cuMemFree(array.address))
        self._arrays.clear()
        for words in self._shared:
            _checked(cu.cuMemFreeHost(words.host))
        self._shared.clear()


def _packed(kernel: Kernel, position: int, value: Any) -> Any:
    """An argument as the driver reads it: eight bytes of address or four of number."""
    parameter = kernel.parameters[position]
    if not parameter.endswith("*"):
        return _NUMBERS[parameter](value)
    seen = getattr(value, "__cuda_array_interface__", None)
    address = seen["data"][0] if seen else value
    if seen and seen.get("strides") is not None:
        raise TypeError(f"{kernel.name}: argument {position} is not contiguous")
    if not isinstance(address, int) or address % ALIGNMENT:
        raise TypeError(f"{kernel.name}: argument {position} is no memory aligned to {ALIGNMENT} bytes")
    return ctypes.c_uint64(address)
