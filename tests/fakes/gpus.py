"""Whether this machine has an NVIDIA GPU that its driver answers for: asked of the driver itself, without a runtime."""

from __future__ import annotations

import ctypes


def why_none() -> str:
    """Why tests marked `gpu` cannot run here; empty if they can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "needs an NVIDIA GPU: there is no driver (libcuda.so.1); bash .ci/gpu runs these tests where there is one"
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return f"needs an NVIDIA GPU: the driver finds none (status {status})"
    return ""
