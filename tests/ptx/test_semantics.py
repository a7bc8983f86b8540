"""The executor against numbers worked out by hand from the ISA, and its meaning of instructions mutated: kernels must notice."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from executor import decode as decoding
from executor import exchange, sections
from executor.gpu import PtxGpu
from executor.numbers import fused, to_bf16, to_e4m3
from executor.operations import OPERATIONS
from test_kernels import check, run

U32 = np.uint32


def words(*values: int) -> Any:
    return np.array(values, np.uint32)


@pytest.mark.parametrize(
    ("opcode", "qualifiers", "operands", "result"),
    [
        ("prmt", ("b32",), (words(0x33221100), words(0x77665544), words(0x7520)), words(0x77552200)),
        ("prmt", ("b32",), (words(0x00008000), words(0), words(0x9999)), words(0xFFFFFFFF)),
        ("lop3", ("b32",), (words(0xF0), words(0xCC), words(0xAA), words(0xEA)), words(0xEA)),
        ("lop3", ("b32",), (words(0xF0), words(0xCC), words(0xAA), words(0x96)), words(0x96)),
        ("shf", ("l", "wrap", "b32"), (words(0x80000001), words(0x1), words(33)), words(0x3)),
        ("shf", ("r", "clamp", "b32"), (words(0x2), words(0x5), words(40)), words(0x5)),
        ("shr", ("s32",), (np.array([-8], np.int32), words(40)), np.array([-1], np.int32)),
        ("shl", ("b32",), (words(1), words(32)), words(0)),
        ("mul", ("hi", "u32"), (words(0x80000000), words(6)), words(3)),
        (
            "mul",
            ("wide", "s32"),
            (np.array([-2], np.int32), np.array([2**30], np.int32)),
            np.array([-(2**31)]),
        ),
        ("div", ("s64",), (np.array([-7]), np.array([2])), np.array([-3])),
        ("rem", ("s64",), (np.array([-7]), np.array([2])), np.array([-1])),
        ("max", ("ftz", "f32"), (np.float32([np.nan, 1e-40]), np.float32([2, -1])), np.float32([2, 0])),
        ("cvt", ("rn", "bf16x2", "f32"), (np.float32([1]), np.float32([2])), words(0x3F804000)),
        ("cvt", ("rn", "f16x2", "e4m3x2"), (np.array([0xB87E], np.uint16),), words(0xBC005F00)),
        (
            "cvt",
            ("rn", "satfinite", "e4m3x2", "f32"),
            (np.float32([-1]), np.float32([1e9])),
            np.array([0xB87E], np.uint16),
        ),
        (
            "cvt",
            ("rni", "s32", "f32"),
            (np.float32([2.5, -1.5, np.nan, 3e9]),),
            np.int32([2, -2, 0, 2**31 - 1]),
        ),
        (
            "fma",
            ("rn", "f16x2"),
            (words(0x3C006410), words(0x3C002C00), words(0xBC00D480)),
            words(0x0000C700),
        ),
        ("setp", ("ltu", "f32"), (np.float32([np.nan, 1]), np.float32([1, 1])), np.array([True, False])),
    ],
)
def test_an_instruction_is_what_the_isa_says(
    opcode: str, qualifiers: Any, operands: Any, result: Any
) -> None:
    with np.errstate(all="ignore"):
        found = OPERATIONS[opcode].compute(qualifiers, *operands)
    assert found.dtype == result.dtype
    np.testing.assert_array_equal(found, result)


def test_every_instruction_that_has_a_meaning_here_cites_its_section() -> None:
    assert set(sections.SECTIONS) == decoding.KNOWN
    for opcode, cited in sections.SECTIONS.items():
        assert cited
        assert all(f"-{opcode}" in anchor for anchor in cited if opcode != "barrier"), opcode


BORROWED = {
    "membound.kernels.cuda.compile": {"Kernel", "compile_ptx"},
    "membound.kernels.cuda.device.gpu": {"Grid", "Launch", "blocks", "check_count", "dtype_of"},
    "membound.kernels.cuda.device.simulated": {"HostArray", "SimulatedGpu"},
}
"""What the executor takes of the package: the compiler, how a launch is written down, and arrays of the host. No meaning."""


def test_the_executor_and_the_simulator_take_no_meaning_of_each_other() -> None:
    here = Path(__file__).parent
    found: dict[str, set[str]] = {}
    for path in (here / "executor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("membound"):
                found.setdefault(str(node.module), set()).update(one.name for one in node.names)
            assert not isinstance(node, ast.Import) or not any("membound" in one.name for one in node.names)
    assert found == BORROWED
    device = here.parents[1] / "kernels/cuda/device"
    assert all("executor" not in path.read_text() for path in device.glob("*.py"))


def test_rounding_to_short_formats_is_that_of_ml_dtypes() -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 20000, np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    for mine, kind in ((to_bf16, ml_dtypes.bfloat16),):
        np.testing.assert_array_equal(mine(values), values.astype(kind).view(np.uint16))
    small = np.random.default_rng(2).normal(0, 30, 20000).astype(np.float32)
    small = np.concatenate([small, np.arange(-500, 500, dtype=np.float32) / 1024])
    small = small[np.abs(small) < 448]
    np.testing.assert_array_equal(
        to_e4m3(small).astype(np.uint8), small.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    )


def test_a_fused_multiply_add_rounds_once() -> None:
    """(1 + 2^-23)² - 1 - 2^-22 is 2^-46; with a product rounded first it would be 0."""
    a = np.float32([1 + 2.0**-23])
    assert fused(a, a, np.float32([-1 - 2.0**-22]))[0] == np.float32(2.0**-46)
    # 1 + 2^-24 lies between two float32; the sum is a little above, so it rounds up, not to even
    assert fused(np.float32([1]), np.float32([1]), np.float32([2.0**-24]))[0] == 1
    up = fused(np.float32([2.0**-24 + 2.0**-40]), np.float32([1]), np.float32([1]))[0]
    assert up == np.float32(1 + 2.0**-23)


def test_shuffles_follow_the_pseudocode() -> None:
    lanes = np.arange(32, dtype=np.uint32)
    full = np.full(32, 0x1F, np.uint32)

    def moved(mode: str, offset: int, limits: Any = full) -> Any:
        return exchange.shuffle(mode, lanes, np.full(32, offset, np.uint32), limits)[0]

    np.testing.assert_array_equal(moved("bfly", 5), lanes ^ 5)
    np.testing.assert_array_equal(moved("idx", 7), np.full(32, 7))
    np.testing.assert_array_equal(moved("down", 4), np.where(lanes < 28, lanes + 4, lanes))
    np.testing.assert_array_equal(
        moved("up", 4, np.zeros(32, np.uint32)), np.where(lanes >= 4, lanes - 4, lanes)
    )
    of_eight = np.full(32, 24 << 8 | 0x1F & 7, np.uint32)
    np.testing.assert_array_equal(moved("idx", 3, of_eight), lanes & ~U32(7) | U32(3))


def test_matrices_lie_in_lanes_as_the_tables_of_the_isa_say() -> None:
    """T0 holds rows 0 and 8 of A in a0, a1 and a2, a3; T4 the next row; T1 the next two columns (Figure of m16n8k16)."""
    assert [(int(r[0]), int(c[0])) for r, c in map(exchange.place_of_a, range(8))] == [
        (0, 0), (0, 1), (8, 0), (8, 1), (0, 8), (0, 9), (8, 8), (8, 9)
    ]  # fmt: skip
    assert [(int(r[5]), int(c[5])) for r, c in map(exchange.place_of_b, range(4))] == [
        (2, 1),
        (3, 1),
        (10, 1),
        (11, 1),
    ]
    assert [(int(r[6]), int(c[6])) for r, c in map(exchange.place_of_c, range(4))] == [
        (1, 4),
        (1, 5),
        (9, 4),
        (9, 5),
    ]
    a, b = np.random.default_rng(3).integers(-8, 8, (2, 16, 16)).astype(np.float16)
    b = b[:, :8]
    fragment_a = [_pair(a, exchange.place_of_a, 2 * i) for i in range(4)]
    fragment_b = [_pair(b, exchange.place_of_b, 2 * i) for i in range(2)]
    sums = exchange.multiply("f16", fragment_a, fragment_b, [np.zeros(32, np.uint32)] * 4)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    for i in range(4):
        np.testing.assert_array_equal(sums[i].view(np.float32), expected[exchange.place_of_c(i)])


def _pair(matrix: Any, place: Callable[[int], Any], i: int) -> Any:
    low, high = (matrix[place(j)].view(np.uint16).astype(np.uint32) for j in (i, i + 1))
    return low | high << U32(16)


# Mutations: a kernel whose result does not change shows nothing about the instruction

PRODUCT = "linear:n=37,k=128,m=5,weight=bf16"
ATTENTION = "attention:context=40,q_heads=2,kv_heads=1,head_dim=32,kv=bf16"
FP8 = "attention:context=40,q_heads=2,kv_heads=1,head_dim=32,kv=fp8"
INT8, INT4 = "linear:n=37,k=128,m=5,weight=int8", "linear:n=37,k=128,m=5,weight=int4g32"
LATENT = "mla:context=40,q_heads=3,kv=bf16"


def _operation(opcode: str, compute: Any) -> Callable[[pytest.MonkeyPatch], None]:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        original = OPERATIONS[opcode]
        patch.setitem(decoding.OPERATIONS, opcode, replace(original, compute=compute(original.compute)))

    return mutate


def _place(name: str, place: Callable[[int], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(exchange, name, place)


GROUP, WITHIN = np.arange(32) >> 2, np.arange(32) % 4
MUTATIONS = {
    "cvt packs its first input low": (
        _operation("cvt", lambda real: lambda q, a, b=None: real(q, a) if b is None else real(q, b, a)),
        (PRODUCT, ATTENTION),
    ),
    "a2 and a3 are the lower rows of A": (
        _place("place_of_a", lambda i: (GROUP + 8 * (i >= 4), WITHIN * 2 + (i & 1) + 8 * (i % 4 >= 2))),
        (PRODUCT,),
    ),
    "the halves of B change places": (
        _place("place_of_b", lambda i: (WITHIN * 2 + (i & 1) + 8 * (i < 2), GROUP)),
        (PRODUCT, ATTENTION),
    ),
    "the rows of C change places": (
        _place("place_of_c", lambda i: (GROUP + 8 * (i < 2), WITHIN * 2 + (i & 1))),
        (ATTENTION,),
    ),
    "movmatrix leaves the matrix as it is": (
        lambda patch: patch.setattr(decoding, "transpose", lambda a: a),
        (LATENT,),
    ),
    "prmt takes a for b": (
        _operation("prmt", lambda real: lambda q, a, b, c: real(q, b, a, c)),
        (INT8, ATTENTION),
    ),
    "prmt counts its nibbles from the top": (
        _operation("prmt", lambda real: lambda q, a, b, c: real(q, a, b, _reversed(c))),
        (INT8, ATTENTION),
    ),
    "e4m3 has its second number low": (
        _operation("cvt", lambda real: lambda q, a, b=None: _turned(q, real(q, a, b))),
        (FP8,),
    ),
    "lop3 takes the table from the top": (
        _operation("lop3", lambda real: lambda q, a, b, c, t: real(q, c, b, a, t)),
        (INT4,),
    ),
    "fma of halves rounds twice": (
        _operation("fma", lambda real: lambda q, a, b, c: real(q, a, b, c) if q[-1] == "f32" else a),
        (INT4,),
    ),
}


def _reversed(selector: Any) -> Any:
    return sum((selector >> U32(4 * i) & U32(15)) << U32(12 - 4 * i) for i in range(4))


def _turned(q: Any, word: Any) -> Any:
    return word >> U32(16) | word << U32(16) if q[-1] == "e4m3x2" else word


@pytest.mark.cuda_compile
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_kernel_notices_a_mutated_instruction(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutate, specs = MUTATIONS[name]
    for spec in specs:
        with pytest.MonkeyPatch.context() as patch:
            mutate(patch)
            error = run(spec, PtxGpu(2), patch)
        assert not error < 0.05, (spec, error)


@pytest.mark.cuda_compile
def test_without_a_mutation_the_same_kernels_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in {spec for _, specs in MUTATIONS.values() for spec in specs}:
        check(spec, monkeypatch)
