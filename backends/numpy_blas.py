"""``numpy:cpu``: float32 products, one or those of routed experts, by NumPy's BLAS, and a short complete example of the contract.

>>> backend = NumpyBlas(); backend.open("cpu", threads=2)
>>> from membound.kernels.seeded import make_inputs
>>> backend.prepare(work, make_inputs(work, seed=1, slots=4)); backend.launch(0); backend.output()

A BLAS computes in none of the other weight formats, so everything else is unsupported. Experts go one after the other, each
with the rows that chose it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from membound.backends.api import NO_FILES, Backend, Device, cpu_name
from membound.errors import BackendUnavailable, Unsupported
from membound.kernels.forward import silu
from membound.kernels.inputs import ExpertInputs, LinearInputs
from membound.kernels.routing import mixed, route
from membound.kernels.weights.formats import F32, Weight
from membound.kernels.work import Linear, OnnxStep, RoutedExperts

if TYPE_CHECKING:
    from membound.kernels.inputs import Inputs
    from membound.kernels.work import Work


class NumpyBlas(Backend):
    """y = x · Wᵀ through the BLAS that NumPy was built with, limited to the threads asked for."""

    _launch: Callable[[int], object]
    _limits: Any = None
    _ids: npt.NDArray[np.int64] | None = None

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
        """Supports float32 products, alone or in experts."""
        if isinstance(work, OnnxStep):
            return NO_FILES
        if not isinstance(work, Linear | RoutedExperts):
            return "only linear and experts"
        return None if work.weight == "f32" else "NumPy's BLAS has f32 only"

    def prepare(self, work: Work, inputs: Inputs) -> None:
        """Make the weight of each slot, or the experts that slots share; x and y are shared."""
        if reason := self.supports(work):
            raise Unsupported(reason)
        self._ids = None
        if isinstance(inputs, ExpertInputs):
            self._prepare_experts(inputs)
            return
        if not isinstance(inputs, LinearInputs):
            raise AssertionError(f"{type(inputs).__name__} is no LinearInputs")
        x, weights = inputs.x, [_columns(inputs.weight(slot)) for slot in range(inputs.slots)]
        self._y = np.empty((inputs.work.m, inputs.work.n), np.float32)
        self._launch = lambda slot: np.matmul(x, weights[slot], out=self._y)

    def _prepare_experts(self, inputs: ExpertInputs) -> None:
        experts = [
            [tuple(map(_columns, inputs.expert(weight_set, number))) for number in range(inputs.work.count)]
            for weight_set in range(inputs.weight_sets)
        ]
        routers = [inputs.router(slot).T for slot in range(inputs.slots)]

        def launch(slot: int) -> None:
            here = experts[inputs.set_of(slot)]

            def expert(number: int, x: F32) -> F32:
                gate, up, down = here[number]
                hidden: F32 = (silu(x @ gate) * (x @ up)) @ down
                return hidden

            self._ids, shares = route(inputs.x @ routers[slot], inputs.work.chosen)
            self._y = mixed(inputs.x, self._ids, shares, expert).astype(np.float32)

        self._launch = launch

    def launch(self, slot: int) -> None:
        """Multiply; returns when done."""
        self._launch(slot)

    def sync(self) -> None:
        """Nothing runs behind the call."""

    def output(self) -> npt.NDArray[np.float32]:
        """A copy of y [m, n] or [batch, hidden] of the last launch."""
        return self._y.copy()

    def settings(self) -> dict[str, Any]:
        """Of experts, how many different ones the last launch took."""
        return {} if self._ids is None else {"experts_read": np.unique(self._ids).size}

    def close(self) -> None:
        """Give the BLAS its threads back."""
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None


def _columns(weight: Weight) -> F32:
    """A matrix [n, k] as [k, n], as a row is multiplied by it."""
    return np.asarray(weight.values, np.float32).T
