"""Extra arithmetic: right results at every dose, and machine code that really does it, in registers."""

from __future__ import annotations

import re

import numba
import numpy as np
import pytest

from membound.backends.numba.cpu import NumbaCpu
from membound.errors import Unsupported
from membound.kernels import reference
from membound.kernels.cpu.instruments.free_compute import (
    CHAINS,
    loaded_attention_kernel,
    loaded_linear_kernel,
    refusal,
)
from membound.kernels.cpu.matmul.grouping import grouping
from membound.kernels.cpu.simd.features import AMD, AVX512, LANES
from membound.kernels.seeded import make_inputs
from membound.kernels.work import DecodeAttention, Linear, Step, Work

BOUND = 5e-6  # float32 sums of exact products, as for the kernels without extra arithmetic


def error_of(work: Work, fmas: int, threads: int = 2) -> float:
    backend = NumbaCpu()
    backend.open("cpu", threads)
    backend.add_arithmetic(work, fmas)
    inputs = make_inputs(work, int(np.random.default_rng().integers(1 << 40)), 2)
    backend.prepare(work, inputs)
    worst = 0.0
    for slot in range(2):
        backend.launch(slot)
        worst = max(worst, reference.relative_error(backend.output(), reference.compute(inputs, slot)))
    return worst


@pytest.mark.instruction_set
@pytest.mark.parametrize("fmt", ["f32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("n", "k"), [(515, 1100), (37, 131), (9, 3), (256, 64)])
def test_products_stay_what_they_are_at_any_dose(fmt: str, n: int, k: int) -> None:
    for fmas in (0, 1, 7):
        assert error_of(Linear(n, k, weight=fmt), fmas) < BOUND


@pytest.mark.slow
@pytest.mark.parametrize("kv", ["f32", "bf16"])
def test_attention_stays_what_it_is_at_any_dose(kv: str) -> None:
    heads = 2 * grouping(kv, 4, 128).heads
    for context, fmas in ((1, 3), (257, 0), (1000, 5)):
        assert error_of(DecodeAttention(context, heads, 2, 128, kv=kv), fmas) < BOUND


@pytest.mark.parametrize(
    ("work", "part"),
    [
        (Linear(64, 64, 2, "f32"), "one row"),
        (Linear(64, 64, weight="int8"), "f32, bf16, f16"),
        (DecodeAttention(64, kv="int8"), "f32, bf16"),
        (DecodeAttention(64, 64, 2, 128, kv="f32"), "small groups"),
        (DecodeAttention(64, 4, 4, LANES // 2, kv="f32"), "head_dim"),
        (Step("tiny", context=8), "single operations"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(work: Work, part: str) -> None:
    assert part in (refusal(work) or "")
    with pytest.raises(Unsupported, match=re.escape(part)):
        NumbaCpu().add_arithmetic(work, 1)


def test_a_dose_is_for_one_preparation_only() -> None:
    backend, work = NumbaCpu(), Linear(64, 64, weight="f32")
    backend.open("cpu", 1)
    backend.add_arithmetic(work, 1)
    backend.prepare(work, make_inputs(work, 1))
    assert backend._extra_fmas is None


def assembly_of(name: str, fmt: str) -> str:
    """Compiled anew, as a cached kernel has no text."""
    if name == "linear":
        error_of(Linear(64, 64, weight=fmt), 1)
        kernel = loaded_linear_kernel(fmt)
    else:
        error_of(DecodeAttention(64, 8, 2, 128, kv=fmt), 1)
        kernel = loaded_attention_kernel(fmt, 4)
    fresh = numba.njit(kernel.py_func)
    fresh.compile(kernel.signatures[0])
    return "".join(fresh.inspect_asm().values())


def loops(assembly: str) -> list[list[str]]:
    """The instructions of every block that jumps back to its own start."""
    found = []
    for block in re.split(r"^(?=\.L\w+:)", assembly, flags=re.M):
        label, _, body = block.partition(":")
        lines = [line.strip() for line in body.splitlines() if line.startswith("\t")]
        jumps = [i for i, line in enumerate(lines) if re.fullmatch(rf"j\w+\t{re.escape(label)}", line)]
        if jumps:
            found.append(lines[: jumps[0] + 1])
    return found


def chain_loops(assembly: str) -> list[list[str]]:
    """Loops that hold only chains: v = v·half + half on registers, nothing loaded, nothing stored."""
    chain = re.compile(r"vfmadd\w+ps\t%zmm(\d+), %zmm\1, %zmm\d+")
    return [
        loop
        for loop in loops(assembly)
        if (fmas := [line for line in loop if line.startswith("vfmadd")])
        and all(chain.fullmatch(line) for line in fmas)
    ]


@pytest.mark.skipif(not AVX512, reason="the assembly is that of AVX-512")
@pytest.mark.parametrize(
    ("name", "fmt"),
    [("linear", "f32"), ("linear", "bf16"), pytest.param("attention", "f32", marks=pytest.mark.slow)],
)
def test_a_round_is_a_multiply_add_for_each_chain_and_nothing_else(name: str, fmt: str) -> None:
    """One multiply-add for each loaded vector: as many chains as vectors are loaded between two rounds."""
    assembly = assembly_of(name, fmt)
    found = chain_loops(assembly)
    assert len(found) >= 2
    assert {sum(line.startswith("vfmadd") for line in loop) % CHAINS for loop in found} == {0}
    for loop in found:
        others = [line for line in loop if not line.startswith("vfmadd")]
        counting = (
            r"add|sub|inc|dec|cmp|test|j|neg|lea|nop|mov[bwlq]\t\$-?\d+, %"  # a constant into a register, too
        )
        assert all(re.match(counting, line) for line in others), others
        written = {line.rpartition("%")[2] for line in loop if line.startswith("vfmadd")}
        assert len(written) == CHAINS  # none was merged with another
    if name == "linear":
        assert len(spills(assembly)) <= (0 if AMD else SPILLED[fmt])


SPILLED = {"f32": 0, "bf16": 7}
"""Vectors on the stack. Seven is what LLVM 22 gives where it takes the processor for a Rocket Lake; AMD's Zen had none."""


def spills(assembly: str) -> list[str]:
    """Vectors that move to or from the stack between many multiply-adds."""
    blocks = re.split(r"^(?=\.L\w+:)", assembly, flags=re.M)
    busy = [block for block in blocks if len(re.findall(r"^\tvfmadd", block, re.M)) >= 2 * CHAINS]
    assert busy
    moved = r"^\tvmovup.*%zmm.*rsp.*|^\tvmovup.*rsp.*%zmm.*"
    return [line for block in busy for line in re.findall(moved, block, re.M)]
