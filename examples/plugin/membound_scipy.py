"""``scipy:cpu``: a float32 Linear through the BLAS that SciPy brings. A whole backend, made for copying."""

import platform

import scipy
from scipy.linalg.blas import sgemm

from membound.backends.api import Backend, BackendUnavailable, Device


class SciPyBlas(Backend):
    """y = x · Wᵀ; the worker has set the BLAS's threads in its environment before SciPy is imported."""

    def open(self, device, threads):
        """Take the CPU; any other device is refused."""
        if device != "cpu":
            raise BackendUnavailable(f"scipy has no device {device!r}; it has: cpu")
        return Device("scipy:cpu", platform.machine(), threads, {"scipy": scipy.__version__})

    def supports(self, work):
        """None, or why not."""
        return None if work.kind == "linear" and work.weight == "f32" else "only linear with weight=f32"

    def prepare(self, work, inputs):
        """One weight for each input set, not copied; transposed views are what Fortran expects."""
        self.x = inputs.x.T
        self.weights = [inputs.weight(slot).values.T for slot in range(inputs.slots)]

    def launch(self, slot):
        """yᵀ [n, m] = W [n, k] · xᵀ [k, m]."""
        self.y = sgemm(1.0, self.weights[slot], self.x, trans_a=True)

    def sync(self):
        """Nothing runs behind the call."""

    def output(self):
        """The last product, [m, n]."""
        return self.y.T
