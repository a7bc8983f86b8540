"""Numbers that follow from a tensor's name and shape alone, so that a stored case needs neither."""

from __future__ import annotations

from math import log2
from zlib import crc32

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]


def named_tensor(name: str, shape: tuple[int, ...], plus: float = 0.0) -> F32:
    """Random numbers of a tensor, exact in bfloat16 but for norms: matrices of variance near 1/k, norms near one, small biases.

    `plus`: what the model adds to a norm's gain. Raw words of PCG64 are the same in every version of NumPy.
    """
    count = int(np.prod(shape))
    words = np.random.PCG64(crc32(name.encode())).random_raw(count)
    values = ((words >> np.uint64(56)).astype(np.int64) - 128).reshape(shape) / 128
    if len(shape) > 1:
        gain = 2.0 if "q_proj" in name or "q_b_proj" in name else 4.0 if "gate.weight" in name else 1.0
        gain = 16.0 if "router.proj" in name else gain  # of Gemma 4, which divides by the root of the width
        scaled = values * gain * 2.0 ** -round(log2(shape[-1] / 3) / 2)
    elif ("norm" in name and not name.endswith("bias")) or name.endswith(("_scalar", "scale")):
        scaled = 1 - plus + values / 4
    else:
        scaled = values * (2.0 if name.endswith("sinks") else 0.25)
    return scaled.astype(np.float32)


def plus_of(kind: str, name: str) -> float:
    """What a model of that model_type adds to a norm's gain: one in Gemma and in Qwen's hybrids but for the norm behind their states."""
    if kind.startswith("gemma") and not kind.startswith("gemma4"):
        return 1.0
    return float(kind.startswith(("qwen3_5", "qwen3_next")) and "linear_attn" not in name)
