"""The kernel of routed experts against the float64 reference: formats, odd shapes, blocks that are not full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from membound.kernels.cpu.compile import set_threads
from membound.kernels.cpu.experts import packed_experts
from membound.kernels.cpu.experts.blocks import block_recipes, sizes_of
from membound.kernels.cpu.experts.packed_experts import PackedExperts
from membound.kernels.cpu.experts.routes import choose_experts, empty_blocks, group_rows
from membound.kernels.cpu.matmul import recipe as recipes
from membound.kernels.inputs import ExpertInputs
from membound.kernels.reference import compute, relative_error
from membound.kernels.routing import route
from membound.kernels.seeded import make_inputs
from membound.kernels.work import parse

EXACT, BF16_X, INT8 = 4e-6, 6e-3, 6e-3
"""float32 sums; x and what lies between the products rounded to bfloat16; an activation on the other side of a boundary."""


def run(
    spec: str, seed: int | None = None, slots: int = 2, threads: int = 2
) -> tuple[PackedExperts, ExpertInputs]:
    set_threads(2)
    seed = int(np.random.default_rng().integers(1 << 31)) if seed is None else seed
    inputs = make_inputs(parse(spec), seed, slots)
    assert isinstance(inputs, ExpertInputs)
    return PackedExperts(inputs, threads), inputs


def bound(inputs: ExpertInputs) -> float:
    work = inputs.work
    if work.act == "int8":
        return INT8
    blocks = packed_experts.block_sizes(inputs)
    rounded = any(r.method in ("tile", "pairs") for r in block_recipes(work.weight, work.act, blocks))
    return BF16_X if rounded else EXACT


def check(spec: str, slots: int = 2) -> None:
    packed, inputs = run(spec, slots=slots)
    for slot in range(slots):
        packed.run(slot)
        assert np.array_equal(np.sort(packed.choice), np.sort(inputs.plan(slot)))
        assert relative_error(packed.output, compute(inputs, slot)) < bound(inputs), slot


OFTEN = ["hidden=97,width=51,count=5,chosen=3,weight=bf16"]
"""What plain pytest compiles: a kernel takes many seconds."""
SELDOM = [
    "hidden=97,width=51,count=5,chosen=1,batch=3,weight=f32",
    "hidden=96,width=64,count=9,chosen=2,batch=7,distinct=7,weight=int4g32,act=int8",
    "hidden=301,width=37,count=16,chosen=2,batch=8,distinct=2,weight=int8,act=int8",
]


@pytest.mark.parametrize("spec", [*OFTEN, *(pytest.param(spec, marks=pytest.mark.slow) for spec in SELDOM)])
def test_every_slot_agrees_with_the_reference(spec: str) -> None:
    check(f"experts:{spec}")


def test_threads_change_nothing() -> None:
    outputs = []
    for threads in (1, 2):
        packed, _ = run(f"experts:{OFTEN[0]}", seed=5, threads=threads)
        packed.run(0)
        outputs.append(packed.output)
    assert np.array_equal(*outputs)


@pytest.mark.slow
def test_a_router_that_goes_its_own_way_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that the plan has no size for: fuller ones take them, and what is too much goes round again."""
    monkeypatch.setattr(packed_experts, "block_sizes", lambda inputs: "1+2")
    packed, inputs = run("experts:hidden=97,width=51,count=5,chosen=3,batch=7,weight=f32", slots=1)
    router = np.random.default_rng().standard_normal((5, 97)).astype(np.float32)
    monkeypatch.setattr(ExpertInputs, "router", lambda self, slot: router)
    packed = PackedExperts(inputs, 2)
    packed.run(0)
    ids, _ = route(inputs.x @ router.T, 3)
    assert np.array_equal(packed.choice, ids)
    assert max(np.unique(ids, return_counts=True)[1]) > 2
    assert relative_error(packed.output, compute(inputs, 0)) < EXACT


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 8), st.integers(0, 1 << 30))
def test_the_choice_is_that_of_the_rule(rows: int, count: int, chosen: int, seed: int) -> None:
    chosen = min(chosen, count)
    rng = np.random.default_rng(seed)
    logits = np.full((rows, count + 5), 99, np.float32)
    logits[:, :count] = rng.integers(-3, 4, (rows, count)) if seed % 2 else rng.standard_normal((rows, count))
    ids, shares = np.full(rows * chosen, -1), np.zeros(rows * chosen, np.float32)
    choose_experts(logits.reshape(-1), count + 5, rows, count, chosen, ids, shares)
    expected, weights = route(logits[:, :count], chosen)
    assert np.array_equal(ids.reshape(rows, chosen), expected)
    assert np.allclose(shares.reshape(rows, chosen), weights, atol=1e-6)


@settings(deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 12), st.integers(1, 5), st.sampled_from(["1", "2", "1+3", "2+5", "9"])
)
def test_blocks_hold_every_pair_once(rows: int, count: int, chosen: int, sizes: str) -> None:
    chosen = min(chosen, count)
    rng = np.random.default_rng()
    ids = np.concatenate([rng.permutation(count)[:chosen] for _ in range(rows)])
    takes = np.array(sizes_of(sizes))
    blocks = empty_blocks(rows, chosen, count, int(takes[-1]))
    of = group_rows(ids, rows, chosen, count, takes, blocks)
    seen = []
    for i in range(of):
        pairs = blocks.pairs[blocks.first[i] : blocks.first[i] + blocks.used[i]]
        assert (ids[pairs] == blocks.expert[i]).all()
        assert blocks.size[i] in takes
        assert 1 <= blocks.used[i] <= blocks.size[i]
        fitting = takes[takes >= blocks.used[i]]
        assert blocks.size[i] == (fitting[0] if fitting.size else takes[-1]) or blocks.used[i] == takes[-1]
        seen += pairs.tolist()
    assert sorted(seen) == list(range(rows * chosen))
    assert np.all(np.diff(blocks.expert[:of]) >= 0)


def test_blocks_of_one_work_share_a_layout_where_there_are_matrix_tiles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recipes, "AMX_BF16", True)
    for cached in (recipes.choose, block_recipes):
        cached.cache_clear()
    try:
        few, many = block_recipes("bf16", "float", "1+4"), block_recipes("bf16", "float", "1+7")
        assert "tile" not in {r.method for r in few}
        assert [(r.m, r.method, r.padded_k(33)) for r in many] == [(1, "tile", 64), (7, "tile", 64)]
        assert [r.m for r in block_recipes("bf16", "float", "3+20")] == [3, 20]
    finally:
        monkeypatch.undo()
        for cached in (recipes.choose, block_recipes):
            cached.cache_clear()
