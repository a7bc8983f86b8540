"""`numba:cuda`: membound's own kernels on NVIDIA GPUs, written in Numba's CUDA dialect.

Matrices and caches are packed and copied once, in `prepare`; a launch starts kernels whose arguments were
packed then too. The variant `+graph` captures them, so that one call starts all. Kernels:
membound.kernels.cuda.

>>> backend.open("cuda:0+graph", threads=2).accelerator.memory_bytes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import Accelerator, Backend, BackendUnavailable, Device
from membound.kernels.inputs import AttentionInputs, Inputs
from membound.kernels.work import DecodeAttention, LatentAttention, Prefill, Work

if TYPE_CHECKING:
    from membound.kernels.cuda.gpu import Gpu, Launch

VARIANTS = ("graph",)
PACKAGES = ("numba-cuda", "numba", "nvidia-nvvm", "cuda-bindings")
NO_DRIVER = (
    "install NVIDIA's driver 580 or newer where there is a GPU; `membound list` shows what else there is"
)
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class NumbaCuda(Backend):
    """Decode attention over every cache, on one GPU."""

    _gpu: Gpu
    _graph = False
    _launches: Sequence[Sequence[Launch]] = ()
    _output: Callable[[], npt.NDArray[np.float32]]
    _stored: int | None = None

    @classmethod
    def devices(cls) -> Sequence[str]:
        """Every GPU that the driver has, plain and with graphs. Raises BackendUnavailable."""
        driver = _import("driver")
        try:
            count = driver.count()
        except RuntimeError as error:
            raise BackendUnavailable(f"no NVIDIA GPU can be used: {error}", NO_DRIVER) from None
        if not count:
            raise BackendUnavailable("NVIDIA's driver finds no GPU", NO_DRIVER)
        return [name for i in range(count) for name in (f"cuda:{i}", f"cuda:{i}+graph")]

    def open(self, device: str, threads: int) -> Device:
        """Take a GPU: `cuda`, `cuda:1`, `cuda:0+graph`. Raises BackendUnavailable."""
        base, *variants = device.split("+")
        if unknown := [name for name in variants if name not in VARIANTS]:
            raise BackendUnavailable(f"unknown variant {unknown[0]!r}; known: {', '.join(VARIANTS)}")
        kind, _, index = base.partition(":")
        if kind != "cuda" or not (index or "0").isdigit():
            raise BackendUnavailable(f"numba has no device {base!r} here; GPUs are cuda:0, cuda:1 and so on")
        module = _import("gpu")
        try:
            self._gpu = module.open_gpu(int(index or 0))
        except module.GpuError as error:
            raise BackendUnavailable(f"no NVIDIA GPU can be used: {error}", NO_DRIVER) from None
        self._graph = "graph" in variants
        gpu = self._gpu
        facts = Accelerator(gpu.memory_bytes, gpu.cache_bytes, gpu.multiprocessors, gpu.target, gpu.pci)
        return Device(f"numba:{device}", gpu.name, threads, _versions(), facts)

    def supports(self, work: Work) -> str | None:
        """None, or which kernel is missing."""
        if isinstance(work, Prefill):
            return "prompts are not built from decode kernels (no compute-bound GEMM here)"
        if isinstance(work, DecodeAttention | LatentAttention):
            return str(reason) if (reason := _import("attention_plan").unsupported_attention(work)) else None
        return f"there is no CUDA kernel of a {work.kind} yet"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Pack and copy every input set, run each once, capture them where graphs are asked for."""
        self.close()
        try:
            assert isinstance(inputs, AttentionInputs)
            self._prepare_attention(inputs)
            for launches in self._launches:
                _start(launches)
            self.sync()
        except RuntimeError as error:
            if OUT_OF_MEMORY in str(error):
                raise MemoryError(f"the GPU is out of memory: {error}") from None
            raise
        if self._graph:
            self._launches = [[self._gpu.capture(launches)] for launches in self._launches]

    def launch(self, slot: int) -> None:
        """Put the kernels of that input set into the stream; returns at once."""
        _start(self._launches[slot])

    def sync(self) -> None:
        """Wait until the stream is empty."""
        self._gpu.synchronize()

    def output(self) -> npt.NDArray[np.float32]:
        """The last launch's result."""
        return self._output()

    def stored_bytes(self) -> int | None:
        """Packed bytes where padding adds more than 1 % to what the work asks for."""
        return self._stored

    def mark(self) -> object | None:
        """An event in the stream."""
        return self._gpu.mark()

    def elapsed_s(self, start: object, end: object) -> float:
        """Seconds between two events."""
        return self._gpu.elapsed_s(start, end)

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._launches, self._output, self._stored = (), _no_output, None
        if hasattr(self, "_gpu"):
            self._gpu.close()

    def _prepare_attention(self, inputs: AttentionInputs) -> None:
        from membound.kernels.cuda.attention_plan import prepare_attention

        prepared = prepare_attention(self._gpu, inputs)
        self._launches = prepared.launches
        self._output = lambda: prepared.out.read().reshape(inputs.q.shape)


def _import(name: str) -> Any:
    """A module of the CUDA kernels. Raises BackendUnavailable where Numba's CUDA target is not installed."""
    from importlib import import_module

    try:
        return import_module(f"membound.kernels.cuda.{name}")
    except ModuleNotFoundError as error:
        if str(error.name).startswith("membound"):
            raise
        reason = f"numba's CUDA target is not installed (no {error.name})"
        raise BackendUnavailable(reason, 'pip install "membound[cuda]"') from None


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
