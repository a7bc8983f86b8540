"""Works on torch's backend, compared with the reference.

>>> backend = check("cpu+matmul", "attention:context=77,kv=f32", seed=3)
"""

from __future__ import annotations

import numpy as np

from membound.backends.pytorch.backend import PyTorch
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

THREADS = 2


def opened(device: str = "cpu") -> PyTorch:
    backend = PyTorch()
    backend.open(device, THREADS)
    return backend


def check(device: str, spec: str, seed: int, limit: float | None = None) -> PyTorch:
    """Run each of three input sets twice, out of order, and hold it against the reference."""
    work = parse(spec)
    inputs = make_inputs(work, seed, slots=3)
    backend = opened(device)
    assert backend.supports(work) is None
    backend.prepare(work, inputs)
    expected = [compute(inputs, slot) for slot in range(inputs.slots)]
    for slot in (*range(inputs.slots), 0):
        backend.launch(slot)
        backend.sync()
        y = backend.output()
        assert y.dtype == np.float32
        assert relative_error(y, expected[slot]) < (limit or tolerance(work)), slot
    return backend
