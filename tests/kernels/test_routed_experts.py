"""The work `experts`: bytes and FLOPs by hand and as published, which experts a batch may take, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from membound.kernels.inputs import ExpertInputs
from membound.kernels.reference import compute, experts, relative_error, silu, tolerance, typical_size
from membound.kernels.routing import route
from membound.kernels.seeded import make_inputs
from membound.kernels.slots import SET_BYTES, fitting_slots, slots_to_defeat
from membound.kernels.weights.formats import FORMATS, dequantize
from membound.kernels.work import RoutedExperts, SpecError, Traffic, held_bytes, parse

ROUTER = 128 * 2048 * 4
QWEN = 9_437_184
"""Bytes of an expert of Qwen3-30B-A3B in bfloat16."""


def test_the_published_example() -> None:
    one = RoutedExperts(hidden=2048, width=768)
    assert one.expert_bytes == QWEN
    assert one.distinct == 8
    assert one.traffic == Traffic(
        weights_bytes=75_497_472 + ROUTER, activations_read_bytes=8192, activations_written_bytes=8192
    )
    assert one.flops == 75_497_472 + 2 * 128 * 2048
    assert (
        RoutedExperts(hidden=2880, width=2880, count=32, chosen=4, weight="f32").expert_bytes == 12 * 2880**2
    )


@pytest.mark.parametrize(("batch", "distinct"), [(2, 16), (4, 29), (8, 52), (32, 112)])
def test_bytes_follow_from_the_batch(batch: int, distinct: int) -> None:
    work = RoutedExperts(hidden=2048, width=768, batch=batch)
    assert work.distinct == distinct
    assert work.traffic.weights_bytes == distinct * QWEN + ROUTER
    assert work.flops == batch * RoutedExperts(hidden=2048, width=768).flops
    assert RoutedExperts(hidden=2048, width=768, batch=batch, distinct=9).flops == work.flops


def test_scales_are_those_of_three_matrices() -> None:
    int8 = RoutedExperts(
        hidden=96, width=64, count=5, chosen=2, batch=3, weight="int8", act="int8", distinct=4
    )
    assert (int8.traffic.weights_bytes, int8.traffic.scales_bytes) == (
        4 * 3 * 96 * 64 + 5 * 96 * 4,
        4 * 4 * (64 + 64 + 96),
    )
    int4 = RoutedExperts(hidden=96, width=64, count=5, chosen=2, weight="int4g32")
    assert int4.traffic.scales_bytes == 2 * 3 * 96 * 64 // 32 * 2


def test_memory_holds_experts_that_no_row_takes() -> None:
    work = RoutedExperts(hidden=64, width=32, count=16, chosen=4, weight="f32")
    assert work.slots_a_set == 4
    apart = work.footprint_bytes - 4 * work.expert_bytes
    assert apart == 16 * 64 * 4 + 2 * 64 * 4
    assert [held_bytes(work, slots) - slots * apart for slots in (1, 4, 5)] == [
        16 * work.expert_bytes,
        16 * work.expert_bytes,
        32 * work.expert_bytes,
    ]
    room = held_bytes(work, 4) + 4 * SET_BYTES
    assert fitting_slots(work, 9, room) == 4
    assert slots_to_defeat(work, cache_bytes=1 << 30, budget_bytes=room) == 4
    assert fitting_slots(work, 9, 1) == 2
    assert held_bytes(parse("linear:n=8,k=8"), 3) == 3 * parse("linear:n=8,k=8").footprint_bytes
    assert held_bytes(parse("step:model=tiny"), 3) == parse("step:model=tiny").footprint_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "experts",
            r"experts: hidden, width missing; keys: hidden, width, count, chosen, batch, weight, act",
        ),
        ("experts:hidden=8,width=8,count=4,chosen=5", r"chosen=5 must be at most count=4"),
        ("experts:hidden=8,width=8,distinct=7", r"distinct=7 must be from chosen=8 to 8, the fewer of count"),
        ("experts:hidden=8,width=8,batch=2,distinct=17", r"distinct=17 must be from chosen=8 to 16"),
        ("experts:hidden=8,width=8,count=9,batch=2,distinct=10", r"distinct=10 must be from chosen=8 to 9"),
        ("experts:hidden=8,width=8,distinct=-1", r"distinct=-1 must be a whole number from 1"),
        ("experts:hidden=8,width=0", r"width=0 must be a whole number from 1"),
        ("experts:hidden=8,width=8,weight=fp4", r"weight='fp4' is unknown"),
        ("experts:hidden=8,width=8,act=int8", r"act=int8 goes with weight=int8"),
        ("experts:hidden=32,width=48,weight=int4g32", r"experts: width=48 must be a multiple of 32"),
        ("experts:hidden=256,width=128,weight=q4_k", r"experts: width=128 must be a multiple of 256"),
        ("experts:hidden=160,width=128,weight=int4g128", r"experts: hidden=160 must be a multiple of 128"),
        (
            "experts:hidden=4,width=8,chosen=1,batch=9,distinct=9",
            r"hidden=4 must be at least 9: each different",
        ),
        ("experts:hidden=8,width=8,expert=8", r"unknown key 'expert'"),
    ],
)
def test_bad_specs_name_the_wrong_part(text: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@given(
    st.integers(1, 2048),
    st.integers(1, 64),
    st.integers(1, 1 << 20),
    st.sampled_from([*FORMATS]),
    st.integers(0, 1 << 40),
)
def test_every_spec_reads_back(count: int, chosen: int, batch: int, weight: str, drawn: int) -> None:
    chosen = min(chosen, count)
    most = min(count, batch * chosen)
    distinct = chosen + drawn % (most - chosen + 1) if drawn % 3 else 0
    work = RoutedExperts(2048, 256, count, chosen, batch, weight, distinct=distinct)
    assert parse(work.spec) == work
    assert f"distinct={work.distinct}" in work.spec
    assert chosen <= work.distinct <= most
    assert work.footprint_bytes == work.traffic.total_bytes <= work.held_bytes(1)


def made(spec: str, seed: int, slots: int) -> ExpertInputs:
    inputs = make_inputs(parse(spec), seed, slots)
    assert isinstance(inputs, ExpertInputs)
    return inputs


def test_slots_take_other_experts_and_the_router_leads_to_them() -> None:
    inputs = made("experts:hidden=96,width=16,count=13,chosen=2,batch=3,distinct=5,weight=f32", 7, 5)
    assert (inputs.weight_sets, [inputs.set_of(slot) for slot in range(5)]) == (3, [0, 0, 1, 1, 2])
    taken = []
    for slot in range(5):
        plan = inputs.plan(slot)
        ids, _ = route(inputs.x @ inputs.router(slot).T, 2)
        assert np.array_equal(np.sort(ids), np.sort(plan))
        taken.append({(inputs.set_of(slot), e) for e in plan.reshape(-1).tolist()})
        assert len(taken[-1]) == 5
    assert len(set.union(*taken)) == 25
    assert not np.array_equal(inputs.router(0)[:, :9], inputs.router(1)[:, :9])


def test_every_matrix_has_bits_of_its_own_and_the_same_again() -> None:
    inputs = made("experts:hidden=32,width=32,count=3,chosen=3,weight=bf16", 7, 2)
    matrices = [m.values.tobytes() for s in range(2) for e in range(3) for m in inputs.expert(s, e)]
    assert len(set(matrices)) == 18
    again = made("experts:hidden=32,width=32,count=3,chosen=3,weight=bf16", 7, 2)
    assert [m.values.tobytes() for s in range(2) for e in range(3) for m in again.expert(s, e)] == matrices
    assert np.array_equal(again.router(1), inputs.router(1))
    assert np.array_equal(again.x, inputs.x)


def test_the_reference_is_the_sum_over_the_plan() -> None:
    inputs = made("experts:hidden=48,width=33,count=7,chosen=3,batch=4,distinct=6,weight=int8", 3, 2)
    expected = np.zeros((4, 48))
    x = inputs.x.astype(np.float64)
    logits = x @ inputs.router(1).astype(np.float64).T
    for b, row in enumerate(inputs.plan(1)):
        shares = np.exp(logits[b, row]) / np.exp(logits[b, row]).sum()
        for share, e in zip(shares, row, strict=True):
            gate, up, down = (
                dequantize(w).astype(np.float64) for w in inputs.expert(inputs.set_of(1), int(e))
            )
            expected[b] += share * (down @ (silu(gate @ x[b]) * (up @ x[b])))
    assert relative_error(compute(inputs, 1), expected) < 1e-6
    assert 0.7 < np.linalg.norm(expected) / typical_size(inputs, 1) < 1.4


@pytest.mark.parametrize(
    ("wrong", "least"),
    [("one expert of eight swapped", 2.0), ("shares all alike", 2.0), ("gate and up exchanged", 2.0)],
)
def test_what_is_wrong_is_beyond_the_tolerance(wrong: str, least: float) -> None:
    inputs = made("experts:hidden=256,width=64,count=32,chosen=8,batch=2,weight=bf16", 5, 1)
    expected, x = compute(inputs, 0), inputs.x.astype(np.float64)
    ids, shares = route(x @ inputs.router(0).T.astype(np.float64), 8)
    if wrong == "one expert of eight swapped":
        ids[0, 7] = next(e for e in range(32) if e not in ids[0])
    elif wrong == "shares all alike":
        shares[:] = 1 / 8
    y = np.zeros_like(expected)
    for b, j in np.ndindex(2, 8):
        gate, up, down = (dequantize(w).astype(np.float64) for w in inputs.expert(0, int(ids[b, j])))
        if wrong == "gate and up exchanged":
            gate, up = up, gate
        y[b] += shares[b, j] * (down @ (silu(gate @ x[b]) * (up @ x[b])))
    assert relative_error(y, expected) > least * tolerance(inputs.work)
    assert relative_error(experts(inputs, 0), expected) == 0
