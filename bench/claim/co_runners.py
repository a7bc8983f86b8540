"""The co-runners of an experiment in one worker: the harness's own on CPUs, the backend's on an accelerator.

>>> with CoRunners([1]) as co_runners:
...     co_runners.for_device(one).work("bandwidth", duty=0.5)
...     co_runners.leave(one)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from membound.backends.api import CoRunner
from membound.bench.ceilings.rotating import rotating_bytes
from membound.bench.measure.cold_backend import ColdBackend


class CoRunners:
    """Starts a co-runner when it is asked for first: touching its memory takes seconds. Leaving it ends them.

    That of the CPUs serves all contestants; a device's belongs to the backend that offered it and ends before it.
    """

    def __init__(self, cpus: Sequence[int]) -> None:
        self._cpus = list(cpus)
        self._stack = ExitStack()
        self._on_cpus: CoRunner | None = None
        self._on_devices: dict[int, tuple[CoRunner, ExitStack]] = {}

    def __enter__(self) -> CoRunners:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def for_device(self, one: ColdBackend) -> CoRunner:
        """The co-runner that takes from what this contestant launches. Raises Unsupported."""
        if one.device.accelerator is None:
            if self._on_cpus is None:
                from membound.kernels.cpu.instruments.co_runner import CpuCoRunner  # and with it Numba

                started = CpuCoRunner(self._cpus, rotating_bytes(len(self._cpus)))
                self._on_cpus = self._stack.enter_context(started)
            return self._on_cpus
        if id(one) not in self._on_devices:
            stack = ExitStack()
            self._on_devices[id(one)] = stack.enter_context(one.backend.co_runner()), stack
        return self._on_devices[id(one)][0]

    def leave(self, one: ColdBackend) -> None:
        """End the co-runner on this contestant's device, which must still be open; nothing if it has none."""
        if found := self._on_devices.pop(id(one), None):
            found[1].close()
