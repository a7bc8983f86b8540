"""What the tests of vector operations share: random inputs, and running a compiled probe on guarded output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from membound.kernels.cpu.simd.features import LANES
from membound.kernels.weights.formats import from_bf16, to_bf16

rng = np.random.default_rng()  # fresh inputs at every run
F32 = npt.NDArray[np.float32]


def probe(body: Callable[..., None]) -> Any:
    return numba.njit(body)


def floats(count: int, scale: float = 1.0) -> F32:
    return rng.standard_normal(count).astype(np.float32) * np.float32(scale)


def signed(count: int) -> npt.NDArray[np.int8]:
    return rng.integers(-127, 128, count, np.int8)


def ints(count: int) -> npt.NDArray[np.int32]:
    return rng.integers(-(1 << 20), 1 << 20, count, np.int32)


def result(run: Any, *args: Any, count: int = LANES, dtype: Any = np.float32) -> npt.NDArray[Any]:
    """What `run(out, *args)` wrote, checked not to have gone beyond `count` numbers."""
    out = np.full(count + 64, 77, dtype)
    run(out[:], *args)
    assert (out[count:] == 77).all()
    return out[:count]


def stored(fmt: str, count: int) -> tuple[npt.NDArray[Any], F32]:
    """Random numbers as stored and as float32."""
    if fmt == "int8":
        small = signed(count)
        return small, small.astype(np.float32)
    values = floats(count)
    if fmt == "bf16":
        return to_bf16(values), from_bf16(to_bf16(values))
    if fmt == "f16":
        values[::5] *= np.float32(2.0**-20)  # float16 has no normal numbers there
        half = values.astype(np.float16)
        return half.view(np.uint16), half.astype(np.float32)
    return values, values
