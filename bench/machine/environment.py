"""Inherited variables that change how fast runtimes are, or what they do: unset in workers, set alike, or in the row.

>>> recorded({"OMP_STACKSIZE": "1G", "OMP_DYNAMIC": "true", "VLLM_API_KEY": "…", "HOME": "/root"})
{'OMP_STACKSIZE': '1G'}
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from membound.bench.machine.secrets import SECRET, without_secrets

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
POLICY_VARIABLES = (
    *("OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PROC_BIND", "OMP_PLACES", "KMP_BLOCKTIME"),
    *(
        "OMP_THREAD_LIMIT",
        "OMP_DYNAMIC",
        "OMP_NESTED",
        "OMP_MAX_ACTIVE_LEVELS",
        "OMP_SCHEDULE",
        "MKL_DYNAMIC",
    ),
    *("NUMBA_DISABLE_JIT", "NUMBA_OPT", "NUMBA_BOUNDSCHECK", "NUMBA_DEBUG", "NUMBA_DEBUGINFO"),
    *("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE", "TORCHDYNAMO_SUPPRESS_ERRORS"),
    *("NUMBA_LOOP_VECTORIZE", "NUMBA_SLP_VECTORIZE", "NUMBA_DISABLE_PERFORMANCE_WARNINGS"),
)
"""Unset in workers: spinning, pinning and limits that were set for something else would favour one runtime, or give it
fewer threads than the row says; Numba without its optimiser is eight times slower; torch.compile would do nothing."""
SPIN_COUNT = 10_000
"""Turns that a waiting thread of GNU OpenMP spins before it sleeps, a fraction of a millisecond. By its own
choice it spins for several: where another process holds a core, the scheduler then keeps two threads of a
team on one core, and every parallel region takes a whole time slice (8 ms measured, against 35 µs)."""
COMPANY = "MEMBOUND_COMPANY"
"""Variable of workers beside which others are meant to run, on other cores: see `run.companion`. Nobody else may set it: with
it, what others do is no disturbance."""
BLAS_TIMEOUT = 20
"""A waiting thread of OpenBLAS spins for 2 to the power of this many ticks of the processor's clock before it sleeps, half a
millisecond. By its own choice it spun for 110 ms after each of NumPy's turns, beyond the read ceiling that comes next: that
was 3 to 16 % lower than the one before in four runs of an AMD Milan (medians), and NumPy's share higher by half of that."""
SET = {
    "GOMP_SPINCOUNT": str(SPIN_COUNT),
    "OPENBLAS_THREAD_TIMEOUT": str(BLAS_TIMEOUT),
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
}
"""Set alike in all workers. torch.compile keeps its precompiled header not in its cache but in the folder for temporary files, which
each worker has of its own: every process compiled it anew, for 8 s (torch 2.13), though all of its kernels were there."""
TELLING = re.compile(
    r"(NUMBA|OMP|KMP|GOMP|LIBOMP|MKL|VML|OPENBLAS|BLIS|BLAS|GOTO|TBB|TORCH|TORCHDYNAMO|TORCHINDUCTOR|AOTINDUCTOR|TRITON|PYTORCH"
    r"|ATEN|XNNPACK|ONEDNN|DNNL|ACL|ORT|OPENVINO|VLLM|FLASHINFER|XFORMERS|TOKENIZERS|RAYON|LLAMA|GGML|NPY|MKLDNN|ROCBLAS|HIPBLASLT"
    r"|MIOPEN|CUDA|CUBLAS|CUDNN|NVIDIA|NCCL|GLOO|UCX|HIP|ROCR|HSA|AMD|GPU|ROCM|ZE|SYCL|MALLOC|GLIBC|TCMALLOC|JEMALLOC|MIMALLOC)_\w+"
    r"|LD_(PRELOAD|AUDIT|BIND_NOW|BIND_NOT|DYNAMIC_WEAK|PROFILE)|(_RJEM_)?MALLOC_CONF|UV_THREADPOOL_SIZE"
    r"|THP_MEM_ALLOC_ENABLE|LRU_CACHE_CAPACITY"  # of torch on arm64
    r"|PYTHON(MALLOC|MALLOCSTATS|OPTIMIZE|DEVMODE|ASYNCIODEBUG|TRACEMALLOC|FAULTHANDLER|DEBUG|PROFILEIMPORTTIME|_GIL|_JIT|_CPU_COUNT"
    r"|_CONTEXT_AWARE_WARNINGS|_PERF_JIT_SUPPORT|PERFSUPPORT)"
)
"""Names of variables that a runtime, an allocator, a driver, the loader or Python itself reads."""
FOLDERS = re.compile(r".*_(HOME|PATH|DIR|ROOT|CACHE)")
"""Where something lies is no setting, and names a machine's folders."""
SWITCH = re.compile(r"[0-9]{1,6}|true|false|yes|no|on|off", re.IGNORECASE)
"""What no folder is called: under such a name it is a setting all the same, as in TORCHINDUCTOR_FX_GRAPH_CACHE=0."""
LIBRARIES, CHOSEN = "LD_LIBRARY_PATH", "set"
"""May choose another BLAS, or OpenMP, than a runtime brings. Rows say that it is set, and name no folders of the machine."""
MOST_VALUE = 200


def worker_environment(threads: int, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: one thread count for every pool, spinning kept short."""
    kept = {name: value for name, value in base.items() if name not in POLICY_VARIABLES}
    return kept | {name: str(threads) for name in THREAD_VARIABLES} | SET


def recorded(base: Mapping[str, str]) -> dict[str, str]:
    """What of an environment reaches the runtimes of workers and may change figures, for their rows. No secrets."""
    handled = {*THREAD_VARIABLES, *POLICY_VARIABLES, *SET}
    found = {LIBRARIES: CHOSEN} if base.get(LIBRARIES) else {}
    return found | {
        name: without_secrets(base[name], base)[:MOST_VALUE]
        for name in sorted(base)
        if TELLING.fullmatch(name)
        and name not in handled
        and not SECRET.search(name)
        and (not FOLDERS.fullmatch(name) or SWITCH.fullmatch(base[name]))
    }
