"""Extra arithmetic on CUDA: right results, the same bytes, as much of it as the dose says, and machine code that does it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from counted_chains import Counter, in_chains, is_chain
from sass import sass

from membound.bench.claim.arms import loaded_elements
from membound.kernels import reference
from membound.kernels.cuda.attention.cache_tiles import Tiles
from membound.kernels.cuda.attention.decode import attention_kernel
from membound.kernels.cuda.attention.plan import prepare_attention
from membound.kernels.cuda.compile import Kernel
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.cuda.instruments.chains import constants
from membound.kernels.cuda.instruments.free_compute import loaded_plan
from membound.kernels.cuda.matmul.dot import Dot, dot_kernel
from membound.kernels.cuda.matmul.linear import bind_linear, plan_linear, upload
from membound.kernels.inputs import AttentionInputs, LinearInputs
from membound.kernels.seeded import make_inputs
from membound.kernels.work import DecodeAttention, Linear, Work

SMALL = 1e-2
"""Constants of chains whose zero is not zero: their sum then shows in the result."""


def computed(work: Work, numbers: np.ndarray) -> float:
    """The error of a work with extra arithmetic as `numbers` say, against the reference."""
    gpu, inputs = SimulatedGpu(), make_inputs(work, int(np.random.default_rng().integers(1 << 30)))
    held = gpu.array(numbers)
    if isinstance(inputs, AttentionInputs):
        prepared = prepare_attention(gpu, inputs, held)
        launches, out = prepared.launches[0], prepared.out
        shape: tuple[int, ...] = inputs.q.shape
    else:
        assert isinstance(inputs, LinearInputs)
        plan = loaded_plan(
            plan_linear(inputs.work.weight, inputs.work.n, inputs.work.k, 1, gpu.multiprocessors)
        )
        x = np.zeros((1, plan.padded_k), np.float32)
        x[:, : inputs.work.k] = inputs.x
        out, shape = gpu.zeros(inputs.work.n, np.float32), (1, inputs.work.n)
        matrix = replace(upload(gpu, [inputs.weight(0)]), scales=held)
        launches = tuple(bind_linear(gpu, plan, matrix, gpu.array(x), out))
    for launch in launches:
        launch.start()
    return reference.relative_error(out.read().reshape(shape), reference.compute(inputs, 0))


WORKS = [
    Linear(32, 256, weight="f32"),
    Linear(16, 512, weight="bf16"),
    DecodeAttention(128, 4, 2, 32, kv="bf16"),
    DecodeAttention(64, 3, 3, 64, kv="f16", page=64),
]


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.spec)
def test_a_dose_is_so_many_multiply_adds_an_element_and_no_more_bytes(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmas, loads = Counter(monkeypatch, "fma_f32"), []
    copies, streams = Counter(monkeypatch, "copy4_async"), Counter(monkeypatch, "stream4_ordered")
    for dose in (0, 1, 3):
        before, loaded = fmas.count, copies.count + streams.count
        assert computed(work, constants(dose)) < reference.tolerance(work)
        loads.append(copies.count + streams.count - loaded)
        assert (fmas.count - before) == dose * loaded_elements(work)
    assert loads[0] == loads[1] == loads[2] > 0


@pytest.mark.parametrize("work", WORKS[::2], ids=lambda work: work.spec)
def test_the_result_depends_on_the_chains(work: Work) -> None:
    """All that keeps it right is a zero that comes with the data: nothing that a compiler could know."""
    numbers = constants(1)
    numbers[-3] = SMALL
    assert computed(work, numbers) > reference.tolerance(work)


def test_odd_shapes_stay_right() -> None:
    for work in (Linear(37, 131, weight="f32"), Linear(9, 3, weight="f16")):
        assert computed(work, constants(2)) < reference.tolerance(work)


# What they are compiled to

DOTS = [Dot("f32", 1, 2, 4, 1, 6), Dot("bf16", 1, 4, 4, 1, 3), Dot("bf16", 1, 1, 4, 1, 12)]


def others(block: list[tuple[str, str]]) -> list[str]:
    return [name for name, operands in block if not is_chain(name, operands)]


def check_chains(kernel: Kernel, each: int) -> None:
    """Rounds of `each` multiply-adds, beside which there is nothing but counting."""
    found = in_chains(kernel)
    assert found
    for block in found:
        assert (len(block) - len(others(block))) % each == 0
        assert [name for name in others(block) if re.match(r"LD|ST|MUFU|HMMA|RED|ATOM", name)] == []
    longest = max(found, key=len)
    assert len(others(longest)) <= 0.2 * (len(longest) - len(others(longest)))


@pytest.mark.cuda_compile
@pytest.mark.parametrize("variant", DOTS, ids=lambda v: v.name)
def test_the_machine_code_of_loaded_products(variant: Dot) -> None:
    plain, kernel = sass(dot_kernel(variant)), dot_kernel(replace(variant, loaded=True))
    code = sass(kernel)
    assert in_chains(dot_kernel(variant)) == []
    check_chains(kernel, (4 if variant.format == "f32" else 8) * variant.rows)
    assert code.count("FFMA") > plain.count("FFMA")
    assert code.count(r"LDGSTS.*128") == variant.rows * variant.stages  # all but one ahead, one in the loop
    assert code.count("LDGSTS") == code.count(r"LDGSTS.*128")
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= 64


@pytest.mark.cuda_compile
@pytest.mark.parametrize("tiles", [Tiles("bf16", 128, 1), Tiles("bf16", 128, 4)], ids=lambda t: t.name)
def test_the_machine_code_of_loaded_attention(tiles: Tiles) -> None:
    plain, kernel = sass(attention_kernel(tiles)), attention_kernel(tiles, loaded=True)
    code = sass(kernel)
    assert in_chains(attention_kernel(tiles)) == []
    check_chains(kernel, 2 * tiles.row_words * 16 // 32)
    assert code.count(r"LDG.*LTC256B\.128") == plain.count(r"LDG.*LTC256B\.128") == code.longest_run == 16
    assert code.count("HMMA") == plain.count("HMMA")
    assert (code.local, code.stack_bytes, code.doubles) == (0, 0, 0)
    assert code.registers <= 255  # two blocks of 128 threads share 65536
