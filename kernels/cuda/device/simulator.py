"""CUDA kernels on NumPy arrays, without a GPU: the same source, one thread after another.

>>> from membound.kernels.cuda.instruments.stream import copy_kernel
>>> launch(copy_kernel(4), grid=2, arguments=(source, target, 1000))

A kernel's function is rebuilt with a stand-in for `numba.cuda` and the doubles (emulation.py) of ptx.py's
operations. Every CUDA thread is a greenlet (of the extra `test`), which runs until it must wait for others (a barrier, a
shuffle, tensor cores), so runs are deterministic. Stricter than a GPU, it refuses
with SimulationError what a GPU would do wrong in silence: an index outside an array, a group of words that is
not aligned to its size, threads of a warp that wait at different operations, a barrier that some never reach.
Shared and local arrays start as garbage, as they do on a GPU.

What it cannot show: races between warps, the cost of anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import CellType, CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from membound.kernels.cuda import ptx
from membound.kernels.cuda.compile import WARP, Kernel, cuda
from membound.kernels.cuda.device import emulation
from membound.kernels.cuda.device.gpu import Grid, blocks, check_count, dtype_of

_END = "the end of the kernel"


class SimulationError(AssertionError):
    """The kernel did what a GPU would not forgive. The message says what, and which thread did it."""


def launch(kernel: Kernel, grid: Grid, arguments: Sequence[Any]) -> None:
    """Run `kernel` on a grid of blocks. Arrays are flat and of the parameter's type, written in place."""
    shape = blocks(grid)
    check_count(kernel, arguments)
    values = [_argument(kernel, i, value) for i, value in enumerate(arguments)]
    for z, y, x in np.ndindex(shape[2], shape[1], shape[0]):
        _Block(kernel, shape, (x, y, z)).run(values)


def _argument(kernel: Kernel, position: int, value: Any) -> Any:
    parameter = kernel.parameters[position]
    dtype = dtype_of(parameter)
    if not parameter.endswith("*"):
        return dtype.type(value)
    if not isinstance(value, np.ndarray) or value.dtype != dtype or value.ndim != 1:
        raise TypeError(f"{kernel.name}: argument {position} must be a flat array of {dtype}, not {value!r}")
    return Memory(value)


class Memory:
    """An array as a kernel sees it; an index must lie inside."""

    __slots__ = ("array", "flat", "size")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.flat = array.reshape(-1)
        self.size = len(array) if array.ndim == 1 else -1

    def __getitem__(self, index: Any) -> Any:
        if self.size < 0 or not 0 <= index < self.size:
            self._check(index)
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if self.size < 0 or not 0 <= index < self.size:
            self._check(index)
        self.array[index] = value

    def _check(self, index: Any) -> None:
        each = index if isinstance(index, tuple) else (index,)
        if len(each) != self.array.ndim or not all(
            0 <= i < size for i, size in zip(each, self.array.shape, strict=True)
        ):
            raise SimulationError(f"index {index} is outside of an array of shape {self.array.shape}")

    def group(self, index: Any, size_bytes: int = 16) -> npt.NDArray[Any]:
        """The elements of `size_bytes` from `index` on, which must be a multiple of that many bytes."""
        flat, count = self.flat, size_bytes // self.flat.itemsize
        if index % count:
            raise SimulationError(f"index {index} is not aligned to {size_bytes} bytes")
        if not 0 <= index <= len(flat) - count:
            raise SimulationError(f"{size_bytes} bytes at index {index} are outside of {len(flat)} elements")
        return flat[int(index) : int(index) + count]


@dataclass(slots=True)
class _Thread:
    """One CUDA thread."""

    index: int
    place: SimpleNamespace
    life: Any = None
    """Its greenlet."""
    waits_at: str = ""
    received: Any = None
    arrays: int = 0


@dataclass(slots=True)
class _Warp:
    """What its threads have given to the operation at which they wait for each other."""

    threads: list[_Thread]
    operation: str = ""
    given: dict[int, Any] = field(default_factory=dict)
    elsewhere: int = 0
    """Threads that have ended or wait at the block's barrier."""


class _Block:
    """A block of threads, run one after another."""

    def __init__(self, kernel: Kernel, grid: tuple[int, ...], position: tuple[int, ...]) -> None:
        self.kernel = kernel
        self.threads = [_Thread(i, _xyz((i, 0, 0))) for i in range(kernel.threads)]
        self.warps = [_Warp(self.threads[i : i + WARP]) for i in range(0, kernel.threads, WARP)]
        self.at_barrier: list[_Thread] = []
        self.alive = kernel.threads
        self.current = self.threads[0]
        self.ready = deque(self.threads)
        self.rest: Callable[[], Any] = lambda: None
        """Lets the others run until the caller is among those that are ready, and comes first."""
        self.shared: list[Memory] = []
        self.module = _CudaModule(self, grid, position)
        doubles = emulation.Doubles(self.exchange, lambda: self.current.index)
        self.replaced: dict[int, Any] = {
            id(getattr(ptx, name)): getattr(doubles, name) for name in emulation.NAMES
        }
        self.replaced[id(cuda)] = self.module
        self.function = self.double(kernel.function)

    # Rebuilding functions

    def rebuilt(self, function: FunctionType) -> Any:
        """The function with doubles in place of what only a GPU can do."""
        known = self.replaced.get(id(function))
        if known is None:
            names = _names(function.__code__)
            scope = {k: self.double(v) if k in names else v for k, v in function.__globals__.items()}
            cells = tuple(CellType(self.double(c.cell_contents)) for c in function.__closure__ or ())
            known = FunctionType(
                function.__code__, scope, function.__name__, function.__defaults__, cells or None
            )
            self.replaced[id(function)] = known
        return known

    def double(self, value: Any) -> Any:
        if id(value) in self.replaced:
            return self.replaced[id(value)]
        if isinstance(value, ModuleType):
            return self.module_double(value)
        function = getattr(value, "py_func", value)
        return self.rebuilt(function) if isinstance(function, FunctionType) else value

    def module_double(self, module: ModuleType) -> Any:
        """``ptx.load4`` is looked up in the module when it runs."""
        if module is not ptx:
            return module
        return SimpleNamespace(**{n: self.replaced[id(getattr(ptx, n))] for n in emulation.NAMES})

    # Running

    def run(self, values: list[Any]) -> None:
        """All threads to their end."""
        from greenlet import getcurrent, greenlet

        self.rest = getcurrent().switch
        for thread in self.threads:
            thread.life = greenlet(self.live)
        try:
            while self.ready:
                self.current = self.ready.popleft()
                self.current.life.switch(self.current, values)
            if self.alive:
                waiting = {t.waits_at for t in self.threads if t.waits_at is not _END}
                raise SimulationError(f"threads wait for each other forever at {sorted(waiting)}")
        except Exception as error:
            error.add_note(f"thread {self.current.index} of {self.kernel.name}, block {self.module.place}")
            raise
        finally:
            for thread in self.threads:
                if thread.life:  # it has begun and not ended, since another has failed
                    thread.life.throw()

    def live(self, thread: _Thread, values: list[Any]) -> None:
        self.function(*values)
        self.end(thread)

    # Waiting for each other

    def exchange(self, operation: str, value: Any) -> tuple[list[Any], int]:
        """Give a value to the warp; the values of all its threads, and the caller's lane."""
        thread = self.current
        warp, lane = self.warps[thread.index // WARP], thread.index % WARP
        thread.waits_at = operation
        if warp.elsewhere or (warp.given and warp.operation != operation):
            others = {t.waits_at for t in warp.threads} - {"", operation}
            raise SimulationError(f"one thread of a warp is at {operation}, another at {sorted(others)}")
        warp.operation = operation
        warp.given[lane] = value
        if len(warp.given) < len(warp.threads):
            self.rest()
            return thread.received, lane
        given, warp.given = [warp.given[i] for i in range(len(warp.threads))], {}
        for other in warp.threads:
            other.waits_at, other.received = "", given
            if other is not thread:
                self.ready.append(other)
        return given, lane

    def barrier(self) -> None:
        thread = self.current
        thread.waits_at = "syncthreads"
        self.warps[thread.index // WARP].elsewhere += 1
        self.at_barrier.append(thread)
        self.release_barrier()
        self.rest()

    def release_barrier(self) -> None:
        if self.alive and len(self.at_barrier) == self.alive:
            for thread in self.at_barrier:
                thread.waits_at = ""
                self.warps[thread.index // WARP].elsewhere -= 1
            self.ready.extend(self.at_barrier)
            self.at_barrier = []

    def end(self, thread: _Thread) -> None:
        warp = self.warps[thread.index // WARP]
        if warp.given:
            raise SimulationError(f"a thread has ended, others of its warp wait for it at {warp.operation}")
        thread.waits_at = _END
        warp.elsewhere += 1
        self.alive -= 1
        self.release_barrier()

    def shared_array(self, shape: Any, dtype: Any) -> Memory:
        """The n-th shared array that a thread asks for is the same for all threads of the block."""
        thread = self.current
        if thread.arrays == len(self.shared):
            self.shared.append(garbage(shape, dtype))
        thread.arrays += 1
        return self.shared[thread.arrays - 1]


def garbage(shape: Any, dtype: Any) -> Memory:
    """An array that nobody has written yet: NaN, or all bits set."""
    array = np.empty(shape, getattr(dtype, "name", dtype))
    array.view(np.uint8).fill(0xFF)
    return Memory(array)


def _names(code: CodeType) -> set[str]:
    """Global names that a function uses, those of its inner functions included."""
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return {*code.co_names}.union(*(_names(c) for c in inner))


class _CudaModule:
    """What kernels use of `numba.cuda`, for one block."""

    def __init__(self, block: _Block, grid: tuple[int, ...], position: tuple[int, ...]) -> None:
        self._block = block
        self.place = position
        self.gridDim = _xyz(grid)
        self.blockIdx = _xyz(position)
        self.blockDim = _xyz((block.kernel.threads, 1, 1))
        self.shared = SimpleNamespace(
            array=lambda shape, dtype, alignment=0: block.shared_array(shape, dtype)
        )
        self.local = SimpleNamespace(array=lambda shape, dtype, alignment=0: garbage(shape, dtype))
        self.atomic = SimpleNamespace(
            add=_atomic(np.add), xor=_atomic(np.bitwise_xor), max=_atomic(np.maximum)
        )

    @property
    def threadIdx(self) -> SimpleNamespace:  # noqa: N802  (CUDA's name)
        return self._block.current.place

    def grid(self, dimensions: int) -> int:
        """The thread's number in a grid of one dimension."""
        if dimensions != 1:
            raise AssertionError("only grids of one dimension")
        return int(self.blockIdx.x * self.blockDim.x + self.threadIdx.x)

    def nanosleep(self, nanoseconds: Any) -> None:
        """Nothing: there is no time here."""

    def syncthreads(self) -> None:
        self._block.barrier()

    def syncwarp(self, mask: int = 0xFFFFFFFF) -> None:
        self._block.exchange("syncwarp", None)

    def shfl_xor_sync(self, mask: int, value: Any, distance: int) -> Any:
        values, lane = self._block.exchange("shfl_xor_sync", value)
        return values[lane ^ distance]

    def shfl_sync(self, mask: int, value: Any, source: Any) -> Any:
        values, _ = self._block.exchange("shfl_sync", value)
        return values[int(source) % WARP]

    def shfl_down_sync(self, mask: int, value: Any, distance: int) -> Any:
        values, lane = self._block.exchange("shfl_down_sync", value)
        return values[lane + distance] if lane + distance < WARP else value


def _xyz(values: tuple[int, ...]) -> SimpleNamespace:
    x, y, z = values
    return SimpleNamespace(x=x, y=y, z=z)


def _atomic(operation: Callable[[Any, Any], Any]) -> Callable[[Memory, Any, Any], Any]:
    def update(memory: Memory, index: Any, value: Any) -> Any:
        before = memory[index]
        memory[index] = operation(before, value)
        return before

    return update
