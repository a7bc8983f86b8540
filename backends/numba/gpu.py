"""`numba:cuda`: membound's kernels on NVIDIA GPUs, written in Numba's CUDA dialect.

Matrices and caches are packed and copied once, in `prepare`, as are the arguments of the kernels that a launch
starts. The variant `+graph` captures the kernels, so that one call starts all of them. Kernels: membound.kernels.cuda.

>>> backend = NumbaCuda()
>>> backend.open("cuda:0+graph", threads=2).accelerator.memory_bytes

Not called cuda.py: numba-cuda takes every import whose name holds its own for one of its modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import NO_FILES, Accelerator, Backend, CoRunner, Device, Limit
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.features import EMBEDDING_GAINS, missing
from membound.kernels.inputs import AttentionInputs, Inputs, LinearInputs, ModelInputs
from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Linear,
    OnnxStep,
    Prefill,
    RoutedExperts,
    Step,
    Work,
)

if TYPE_CHECKING:
    from membound.kernels.cuda.device.gpu import Array, Gpu, Launch

VARIANTS = ("graph",)
MOST_ROWS = 64
"""Rows of x up to which the weights are read once; more are the business of a compute-bound GEMM."""
CO_RUNNER_CACHES = 4
"""What a co-runner streams is so many second-level caches: none of it is found there again."""
PACKAGES = ("numba-cuda", "numba", "nvidia-nvvm", "cuda-bindings")
NO_DRIVER = "install NVIDIA's driver, 580 or newer"
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class NumbaCuda(Backend):
    """Linear in every format, decode attention over every cache and whole decode steps, on one GPU."""

    unopened = ("cuda",)

    _gpu: Gpu
    _ordinal = 0
    _graph = False
    _launches: Sequence[Sequence[Launch]] = ()
    _output: Callable[[], npt.NDArray[np.float32]]
    _stored: int | None = None
    _kernels = 0
    _extra_fmas: int | None = None

    @classmethod
    def devices(cls) -> Sequence[str]:
        """Every GPU that the driver has, plain and with graphs. Raises BackendUnavailable."""
        driver = _import("device.driver")
        try:
            count = driver.count()
        except RuntimeError as error:
            raise _no_gpu(error) from None
        if not count:
            raise BackendUnavailable("NVIDIA's driver finds no GPU", NO_DRIVER)
        return [name for i in range(count) for name in (f"cuda:{i}", f"cuda:{i}+graph")]

    def open(self, device: str, threads: int) -> Device:
        """Open a GPU: `cuda`, `cuda:1`, `cuda:0+graph`. Raises BackendUnavailable."""
        base, *variants = device.split("+")
        if unknown := [name for name in variants if name not in VARIANTS]:
            raise BackendUnavailable(f"unknown variant {unknown[0]!r}; known: {', '.join(VARIANTS)}")
        kind, _, index = base.partition(":")
        if kind != "cuda" or not (index or "0").isdecimal():
            raise BackendUnavailable(f"numba has no device {base!r} here; GPUs are cuda:0, cuda:1 and so on")
        driver = _import("device.driver")
        try:
            self._ordinal = int(index or 0)
            self._gpu = driver.open_gpu(self._ordinal)
        except driver.GpuError as error:
            raise _no_gpu(error) from None
        self._graph = "graph" in variants
        gpu = self._gpu
        facts = Accelerator(gpu.memory_bytes, gpu.cache_bytes, gpu.multiprocessors, gpu.target, gpu.pci)
        return Device(f"numba:{device}", gpu.name, threads, _versions(), facts)

    def supports(self, work: Work) -> str | None:
        """None, or what is missing: a kernel, or an instruction of the GPU that was opened."""
        if isinstance(work, OnnxStep):
            return NO_FILES
        if hasattr(self, "_gpu") and (reason := _import("catalogue").unsupported_on(self._gpu.target, work)):
            return _told(reason)
        if isinstance(work, RoutedExperts):
            return "there is no CUDA kernel of routed experts"
        if isinstance(work, Prefill):
            return "prompts are not built from decode kernels (no compute-bound GEMM here)"
        if isinstance(work, Step) and (reason := missing(work, (EMBEDDING_GAINS,))):
            return reason
        if isinstance(work, Step) and work.queries > 1:
            return f"the CUDA kernels step with one query a sequence, not {work.queries}"
        if isinstance(work, DecodeAttention | LatentAttention):
            return _told(_import("attention.plan").unsupported_attention(work))
        if isinstance(work, Linear):
            return _too_many(work.m) or _told(_import("matmul.linear").unsupported(work.weight, work.act))
        return _too_many(work.batch) or _told(_import("step.step").unsupported_step(work))

    def add_arithmetic(self, work: Work, fmas: int) -> None:
        """One row of x, or decode attention over a 16-bit cache: see membound.kernels.cuda.instruments.free_compute."""
        reason = _told(_import("instruments.free_compute").refusal(work))
        if reason is not None:
            raise Unsupported(reason)
        self._extra_fmas = fmas

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Pack and copy every input set, run each once, and capture them if graphs are asked for."""
        self.close()
        extra_fmas, self._extra_fmas = self._extra_fmas, None
        try:
            if isinstance(inputs, LinearInputs):
                self._prepare_linear(inputs, extra_fmas)
            elif isinstance(inputs, AttentionInputs):
                self._prepare_attention(inputs, extra_fmas)
            elif isinstance(inputs, ModelInputs):
                self._prepare_step(inputs)
            else:
                raise Unsupported(NO_FILES)
            for launches in self._launches:
                _start(launches)
            self.sync()
        except RuntimeError as error:
            if OUT_OF_MEMORY in str(error):
                raise MemoryError(f"the GPU is out of memory: {error}") from None
            raise
        self._kernels = len(self._launches[0])
        if self._graph:
            self._launches = [[self._gpu.capture(launches)] for launches in self._launches]

    def launch(self, slot: int) -> None:
        """Put the kernels of that input set into the stream and return at once."""
        _start(self._launches[slot])

    def sync(self) -> None:
        """Wait until the stream is empty."""
        self._gpu.synchronize()

    def output(self) -> npt.NDArray[np.float32]:
        """The last launch's result."""
        return self._output()

    def stored_bytes(self) -> int | None:
        """The packed bytes, if padding adds more than 1 % to what the work asks for."""
        return self._stored

    def settings(self) -> dict[str, Any]:
        """Kernels that a launch starts, one by one or as the nodes of one graph."""
        return {"graph_nodes" if self._graph else "kernel_launches": self._kernels}

    def mark(self) -> object | None:
        """An event in the stream."""
        return self._gpu.mark()

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two events."""
        return self._gpu.elapsed_s(start, end)

    def co_runner(self) -> CoRunner:
        """On a share of the multiprocessors, in a stream of its own: see membound.kernels.cuda.instruments.co_runner."""
        from membound.kernels.cuda.instruments.co_runner import GpuCoRunner

        gpu = _import("device.driver").open_gpu(self._ordinal)
        return GpuCoRunner(gpu, CO_RUNNER_CACHES * gpu.cache_bytes)

    def limits(self, quick: bool) -> Iterator[Limit]:
        """Memory, cache and arithmetic of the GPU. The variant with graphs has none: they would be the same."""
        if not self._graph:
            from membound.backends.numba.gpu_limits import limits

            yield from limits(self._gpu, quick)
            self._gpu.close()

    def close(self) -> None:
        """Free the GPU's memory."""
        self._launches, self._output, self._stored = (), _no_output, None
        if hasattr(self, "_gpu"):
            self._gpu.close()

    def _numbers(self, extra_fmas: int | None) -> Array | None:
        """The constants of extra arithmetic on the GPU; None if there is no extra arithmetic."""
        from membound.kernels.cuda.instruments.chains import constants

        return None if extra_fmas is None else self._gpu.array(constants(extra_fmas))

    def _prepare_linear(self, inputs: LinearInputs, extra_fmas: int | None) -> None:
        from membound.kernels.cuda.instruments.free_compute import loaded_plan
        from membound.kernels.cuda.matmul.linear import bind_linear, plan_linear, upload

        work, gpu, numbers = inputs.work, self._gpu, self._numbers(extra_fmas)
        plan = plan_linear(work.weight, work.n, work.k, work.m, gpu.multiprocessors)
        if numbers is not None:
            plan = loaded_plan(plan)
        wide = np.zeros((work.m, plan.padded_k), np.float32)
        wide[:, : work.k] = inputs.x
        x, y = gpu.array(wide), gpu.zeros(work.m * work.n, np.float32)
        scratch = gpu.zeros(max(4, plan.scratch_words), np.uint32)
        launches, stored = [], 0
        for slot in range(inputs.slots):
            matrix = upload(gpu, [inputs.weight(slot)])
            stored = matrix.stored_bytes
            if numbers is not None:
                matrix = replace(matrix, scales=numbers)
            launches.append(bind_linear(gpu, plan, matrix, x, y, scratch))
        self._launches = launches
        self._output = lambda: y.read().reshape(work.m, work.n)
        asked = work.traffic.weights_bytes + work.traffic.scales_bytes
        self._stored = stored if stored > 1.01 * asked else None

    def _prepare_attention(self, inputs: AttentionInputs, extra_fmas: int | None) -> None:
        from membound.kernels.cuda.attention.plan import prepare_attention

        prepared = prepare_attention(self._gpu, inputs, self._numbers(extra_fmas))
        self._launches = prepared.launches
        self._output = lambda: prepared.out.read().reshape(*inputs.q.shape[:2], -1)

    def _prepare_step(self, inputs: ModelInputs) -> None:
        from membound.kernels.cuda.step.step import prepare_step

        prepared, work = prepare_step(self._gpu, inputs), inputs.work
        self._launches = [prepared.launches]
        self._output = lambda: prepared.logits.read().reshape(work.batch, -1)
        asked = work.traffic.weights_bytes + work.traffic.scales_bytes
        more = prepared.weights_bytes > 1.01 * asked
        self._stored = prepared.weights_bytes + work.traffic.kv_read_bytes if more else None


def _import(name: str) -> Any:
    """A module of the CUDA kernels. Raises BackendUnavailable if Numba's CUDA target is not installed."""
    from importlib import import_module

    try:
        return import_module(f"membound.kernels.cuda.{name}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("membound"):
            raise
        reason = f"numba's CUDA target is not installed (no {error.name})"
        raise BackendUnavailable(reason, 'pip install "membound[cuda]"') from None


def _no_gpu(error: Exception) -> BackendUnavailable:
    return BackendUnavailable(f"no NVIDIA GPU can be used: {str(error).rstrip('.')}", NO_DRIVER)


def _too_many(rows: int) -> str | None:
    return f"the kernels take up to {MOST_ROWS} rows, not {rows}" if rows > MOST_ROWS else None


def _told(reason: str | None) -> str | None:
    """What a module of the kernels says, which is imported where it is needed."""
    return reason


def _start(launches: Sequence[Launch]) -> None:
    for launch in launches:
        launch.start()


def _no_output() -> npt.NDArray[np.float32]:
    raise RuntimeError("output before prepare")


def _versions() -> dict[str, str]:
    """Of what is installed; carried kernels need no compiler."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
