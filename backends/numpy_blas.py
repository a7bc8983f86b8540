"""``numpy:cpu``: a float32 Linear by NumPy's BLAS, and the shortest complete example of the contract.

>>> backend = NumpyBlas(); backend.open("cpu", threads=2)
>>> from membound.kernels.seeded import make_inputs
>>> backend.prepare(work, make_inputs(work, seed=1, slots=4)); backend.launch(0); backend.output()

A BLAS computes in none of the other weight formats, so everything else is unsupported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import NO_FILES, Backend, Device, cpu_name
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.inputs import LinearInputs
from membound.kernels.work import Linear, OnnxStep

if TYPE_CHECKING:
    from membound.kernels.inputs import Inputs
    from membound.kernels.work import Work


class NumpyBlas(Backend):
    """y = x · Wᵀ through the BLAS that NumPy was built with, limited to the threads asked for."""

    _limits: Any = None

    def open(self, device: str, threads: int) -> Device:
        """Open the CPU. Raises BackendUnavailable without threadpoolctl or without a BLAS that it can limit."""
        if device != "cpu":
            raise BackendUnavailable(f"numpy has no device {device!r}; it has: cpu")
        try:
            import threadpoolctl
        except ImportError:
            raise BackendUnavailable(
                "threadpoolctl, which sets the threads of NumPy's BLAS, is not installed",
                "pip install threadpoolctl",
            ) from None
        np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)  # load the BLAS before looking for it
        self._limits = threadpoolctl.threadpool_limits(threads, user_api="blas")
        found = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        if not found or any(pool["num_threads"] != threads for pool in found):
            self.close()
            counts = ", ".join(f"{p['internal_api']}: {p['num_threads']}" for p in found) or "no BLAS found"
            raise BackendUnavailable(f"NumPy's BLAS does not run on {threads} threads ({counts})")
        names = ", ".join(f"{p['internal_api']} {p['version']} {p.get('architecture', '')}" for p in found)
        return Device(
            f"numpy:{device}",
            cpu_name(),
            threads,
            {"numpy": np.__version__, "blas": names},
        )

    def supports(self, work: Work) -> str | None:
        """Supports only a float32 Linear."""
        if isinstance(work, OnnxStep):
            return NO_FILES
        if not isinstance(work, Linear):
            return "only linear"
        return None if work.weight == "f32" else "NumPy's BLAS has f32 only"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Make the weight of each slot; x and y are shared."""
        if reason := self.supports(work):
            raise Unsupported(reason)
        if not isinstance(inputs, LinearInputs):
            raise AssertionError(f"{type(inputs).__name__} is no LinearInputs")
        self._x = inputs.x
        self._weights = [np.asarray(inputs.weight(slot).values, np.float32).T for slot in range(inputs.slots)]
        self._y = np.empty((inputs.work.m, inputs.work.n), np.float32)

    def launch(self, slot: int) -> None:
        """Multiply; returns when done."""
        np.matmul(self._x, self._weights[slot], out=self._y)

    def sync(self) -> None:
        """Nothing runs behind the call."""

    def output(self) -> npt.NDArray[np.float32]:
        """A copy of y [m, n] of the last launch."""
        return self._y.copy()

    def close(self) -> None:
        """Give the BLAS its threads back."""
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None
