"""Compiling without a GPU: targets, launch bounds, machine code, and clear words where it cannot be done."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from sass import sass

from membound.kernels.cuda import compile as compiling
from membound.kernels.cuda.compile import (
    CompileError,
    Kernel,
    compile_cubin,
    compile_ptx,
    cuda,
    device,
    parse_target,
    target_of,
)
from membound.kernels.cuda.ptx import load4, store4, unpack_e4m3


@device
def doubled(x):
    return x + x


def copy(source, target, packets, factor):
    i = cuda.grid(1)
    if i < packets:
        a, b, c, d = load4(source, 4 * i)
        store4(target, 4 * i, doubled(a), b, c, d)
        target[0] = np.uint32(factor)


COPY = Kernel("copy", copy, ("u32*", "u32*", "i32", "f32"), 256, blocks_per_sm=4)


def test_targets_are_compute_capabilities():
    assert parse_target("9.0a") == (9, 0, "a")
    assert parse_target("8.6") == (8, 6, "")
    assert parse_target("12.0a") == (12, 0, "a")
    assert [target_of(8, 9), target_of(9, 0), target_of(10, 3)] == ["8.9", "9.0a", "10.3a"]


@pytest.mark.parametrize(
    ("target", "match"), [("sm_90", "no compute capability"), ("7.5", "too old"), ("", "no compute")]
)
def test_wrong_targets_are_refused(target, match):
    with pytest.raises(CompileError, match=match):
        compile_cubin(COPY, target)


@pytest.mark.parametrize(
    "wrong",
    [{"name": "Copy!"}, {"parameters": ("f64*",)}, {"threads": 0}, {"threads": 2048}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_kernels_are_refused(wrong):
    with pytest.raises(ValueError, match="kernel '"):
        Kernel(**{"name": "copy", "function": copy, "parameters": ("u32*",), "threads": 32, **wrong})


@pytest.mark.cuda_compile
def test_portable_assembly_says_what_a_launch_may_be():
    text = compile_ptx(COPY, "9.0a")
    assert ".target sm_90a" in text
    assert ".visible .entry copy(" in text
    assert ".maxntid 256, 1, 1" in text
    assert ".minnctapersm 4" in text
    assert text.count(".param .u64") == 2
    assert ".target sm_80" in compile_ptx(COPY, "8.0")


@pytest.mark.cuda_compile
def test_machine_code_is_linked_and_read_back():
    cubin = compile_cubin(COPY, "9.0a")
    assert cubin[:4] == b"\x7fELF"
    assert b"\0.text.copy\0" in cubin
    code = sass(COPY)
    assert (code.wide_loads, code.local, code.stack_bytes, code.doubles) == (1, 0, 0, 0)
    assert code.count("STG.*128") == 1
    assert 0 < code.registers <= 64
    assert code.longest_run == 1


@pytest.mark.cuda_compile
def test_reading_back_sees_what_contracts_forbid():
    def bad(source, target, n):
        kept = cuda.local.array(64, np.float32)
        for i in range(n):
            kept[i] = source[i]
        target[0] = math.sqrt(np.float64(kept[n // 2]))

    code = sass(Kernel("bad", bad, ("f32*", "f32*", "i32"), 32))
    assert code.local > 0
    assert code.stack_bytes >= 256
    assert code.doubles > 0


def test_a_missing_compiler_is_told_with_the_command_that_helps(monkeypatch):
    def broken(*_args, **_options):
        raise OSError("libnvvm.so: cannot open shared object file")

    monkeypatch.setattr("numba.cuda.codegen.nvrtc.get_arch_option", broken)
    with pytest.raises(CompileError, match=r"pip install 'membound\[cuda-compile\]'.*libnvvm"):
        compile_cubin(Kernel("other", copy, COPY.parameters, 32), "8.0")


@pytest.mark.cuda_compile
def test_what_the_assembler_refuses_is_a_compile_error():
    def convert(source, target):
        target[cuda.threadIdx.x] = unpack_e4m3(source[cuda.threadIdx.x])

    with pytest.raises(CompileError, match=r"e4m3x2.* requires \.target sm_89"):
        compile_cubin(Kernel("convert", convert, ("u32*", "u32*"), 32), "8.0")


def test_without_numba_cuda_the_import_names_the_extra():
    code = (
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'numba_cuda' else find(name, *a)\n"
        "import membound.kernels.cuda.compile"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "numba-cuda is not installed: pip install 'membound[cuda]'" in done.stderr


def test_numpy_without_row_stack_is_helped():
    """NumPy 2.5 took it away; numba-cuda names it when it is imported."""
    code = (
        "import numpy as np; vars(np).pop('row_stack', None)\n"
        "from membound.kernels.cuda.compile import cuda\n"
        "assert np.row_stack is np.vstack and cuda.implementation == 'NVIDIA'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_what_numpy_deprecates_of_numba_cuda_is_no_error():
    """NumPy 2.5 warns of np.timedelta64("nat"), which numba-cuda up to 0.30 makes when it is imported."""
    code = (
        "import numpy as np, warnings\n"
        "class Old(np.timedelta64):\n"
        "    def __new__(cls, value, *unit):\n"
        "        if not unit: warnings.warn('the unit is generic', DeprecationWarning)\n"
        "        return real(value, *unit)\n"
        "real, np.timedelta64 = np.timedelta64, Old\n"
        "from membound.kernels.cuda.compile import cuda\n"
        "assert cuda.implementation == 'NVIDIA'"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_the_module_offers_what_kernels_import():
    assert set(compiling.__all__) >= {"cuda", "device", "intrinsic", "types", "Kernel"}
