"""What this machine's vectors can do, decided once, from the features that Numba compiles for.

>>> INSTRUCTION_SET, LANES
('avx512', 16)

AVX-512 (VNNI, AMX where present), AVX2 with FMA, and for everything else (NEON among it) plain LLVM vectors of
128 bits, which any target can lower. NUMBA_CPU_NAME=generic forces the plain path.
"""

from __future__ import annotations

import llvmlite.binding as llvm
from numba.core import config


def _features() -> frozenset[str]:
    """The features that Numba will compile for on this machine."""
    if config.CPU_FEATURES:
        return frozenset(f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+"))
    if config.CPU_NAME and config.CPU_NAME != "host":
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


FEATURES = _features()
AVX512 = {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= FEATURES
AVX2 = {"avx2", "fma", "f16c"} <= FEATURES
VNNI = AVX512 and "avx512vnni" in FEATURES
BF16_DOT = AVX512 and "avx512bf16" in FEATURES
FMA = AVX2 or AVX512 or llvm.get_process_triple().startswith("aarch64")
HALF = AVX2 or AVX512 or llvm.get_process_triple().startswith("aarch64")
LANES = 16 if AVX512 else 8 if AVX2 else 4
AMD = llvm.get_host_cpu_name().startswith("znver")
INSTRUCTION_SET = "avx512" if AVX512 else "avx2" if AVX2 else "plain"
REGISTERS = 32 if AVX512 or (not AVX2 and FMA) else 16
