"""The vLLM that is installed: what it is built for, its versions, how it is kept offline. Nothing of the kernels is imported.

>>> device_kind()
'cpu'
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

from membound.errors import BackendUnavailable

REMEDY = "membound env create vllm"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core runs in this process, where launches are timed
    "VLLM_LOGGING_LEVEL": "ERROR",
}
UNSET = ("VLLM_CPU_KVCACHE_SPACE",)
"""It would overrule the size of the cache that the work needs."""

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
BLOCK_TOKENS = 128
"""The tokens in a cache block of vLLM on CPUs, the largest in use: sequences are rounded up to it."""


def device_kind() -> str:
    """``cpu`` or ``cuda``: what this build of vLLM is for. Raises BackendUnavailable with the reason."""
    os.environ.update(ENVIRONMENT)
    for name in UNSET:
        os.environ.pop(name, None)
    try:
        from vllm.platforms import current_platform
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise _broken(error) from error
        raise BackendUnavailable("vllm is not installed", REMEDY) from None
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise _broken(error) from error
    kind = str(current_platform.device_type)
    if kind not in ("cpu", "cuda"):
        raise BackendUnavailable(f"vllm finds no device it is built for here (platform {kind or 'none'!r})")
    return kind


def _broken(error: Exception) -> BackendUnavailable:
    text = " ".join(str(error).split())[:300]
    return BackendUnavailable(
        f"vllm is installed, but its import failed with {type(error).__name__}: {text}", f"{REMEDY} --force"
    )


def device_name() -> str:
    """The name of the GPU."""
    from vllm.platforms import current_platform

    return str(current_platform.get_device_name())


def versions() -> dict[str, str]:
    """The versions of vLLM, by the name of its distribution (``vllm``, ``vllm-cpu``), torch and transformers."""
    found = {}
    for name in ("vllm", "vllm-cpu", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
