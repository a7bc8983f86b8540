"""Attention as launches: every input set on memory of its own, in as many parts as the GPU asks for."""

from __future__ import annotations

import pytest

from membound.kernels.cuda.attention.plan import prepare_attention, unsupported_attention
from membound.kernels.cuda.device.simulated import SimulatedGpu
from membound.kernels.inputs import AttentionInputs
from membound.kernels.reference import compute, relative_error, tolerance
from membound.kernels.seeded import make_inputs
from membound.kernels.work import DecodeAttention, LatentAttention, parse


@pytest.mark.parametrize(
    ("spec", "multiprocessors", "launches"),
    [
        ("attention:context=37,q_heads=4,kv_heads=2,head_dim=32,batch=2,kv=int8,page=16", 2, 1),
        ("attention:context=530,q_heads=2,kv_heads=1,head_dim=32,kv=fp8,page=32", 2, 2),
        ("attention:context=300,q_heads=2,kv_heads=1,head_dim=64,kv=bf16", 3, 2),
        ("mla:context=20,q_heads=3,kv=bf16,page=16", 2, 1),
        pytest.param("mla:context=70,q_heads=2,kv=int8", 2, 2, marks=pytest.mark.slow),
    ],
)
def test_every_slot_agrees_with_the_reference(spec: str, multiprocessors: int, launches: int) -> None:
    work = parse(spec)
    assert isinstance(work, DecodeAttention | LatentAttention)
    assert unsupported_attention(work) is None
    inputs = make_inputs(work, seed=4, slots=2)
    assert isinstance(inputs, AttentionInputs)
    gpu = SimulatedGpu(multiprocessors)
    prepared = prepare_attention(gpu, inputs)
    assert [len(each) for each in prepared.launches] == [launches] * 2
    for slot in (1, 0):
        gpu.capture(prepared.launches[slot]).start()
        y = prepared.out.read().reshape(*inputs.q.shape[:2], -1)
        assert relative_error(y, compute(inputs, slot)) < tolerance(work) / 2


def test_what_cannot_run_has_a_reason() -> None:
    assert "do not take f32" in (unsupported_attention(LatentAttention(9, kv="f32")) or "")
    assert "multiples of 16 tokens, not 8" in (unsupported_attention(LatentAttention(9, page=8)) or "")
    assert "do not take f32" in (unsupported_attention(DecodeAttention(9, kv="f32")) or "")
