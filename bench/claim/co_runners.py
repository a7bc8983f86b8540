"""The co-runners of an experiment in one worker: the harness's own on CPUs, the backend's on an accelerator.

>>> with CoRunners([1]) as co_runners:
...     co_runners.for_device(one).work("bandwidth", duty=0.5)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from membound.backends.api import CoRunner
from membound.bench.ceilings.rotating import rotating_bytes
from membound.bench.measure.cold_backend import ColdBackend
from membound.kernels.cpu.instruments.co_runner import CpuCoRunner


class CoRunners:
    """Starts a co-runner when it is asked for first: touching its memory takes seconds. Leaving it ends them."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = list(cpus)
        self._stack = ExitStack()
        self._on_cpus: CoRunner | None = None
        self._on_device: CoRunner | None = None

    def __enter__(self) -> CoRunners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def for_device(self, one: ColdBackend) -> CoRunner:
        """The co-runner that takes from what this contestant launches. Raises Unsupported."""
        if one.device.accelerator is not None:
            if self._on_device is None:
                self._on_device = self._stack.enter_context(one.backend.co_runner())
            return self._on_device
        if self._on_cpus is None:
            self._on_cpus = self._stack.enter_context(
                CpuCoRunner(self._cpus, rotating_bytes(len(self._cpus)))
            )
        return self._on_cpus
