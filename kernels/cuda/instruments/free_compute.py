"""Products and attention on CUDA that do more arithmetic than they need, over the same bytes.

    numbers = gpu.array(constants(fmas=8))                              # chains.py
    bind_linear(gpu, loaded_plan(plan), replace(matrix, scales=numbers), x, y)
    prepare_attention(gpu, inputs, numbers)

An instrument: if memory alone decides, time stays as it is until the arithmetic takes as long as the bytes.
The kernels are those of dot.py and attention.py with chains of multiply-adds spread between their loads, `fmas`
for each number that is loaded. They are float32 and leave the tensor cores, on which attention runs, alone.
"""

from __future__ import annotations

from dataclasses import replace

from membound.kernels.cuda.attention.cache_tiles import ROWS
from membound.kernels.cuda.attention.plan import unsupported_attention
from membound.kernels.cuda.matmul.dot import FORMATS, Dot
from membound.kernels.cuda.matmul.linear import Plan
from membound.kernels.work import DecodeAttention, Linear, Work

CACHE_FORMATS = ("bf16", "f16")
"""Without scales, in whose place the constants of the chains travel."""


def refusal(work: Work) -> str | None:
    """Why these kernels cannot do a work, or None."""
    if isinstance(work, Linear):
        if work.weight not in FORMATS or work.m != 1 or work.act != "float":
            return f"extra arithmetic goes with one row and weights in {', '.join(FORMATS)}"
        return None
    if not isinstance(work, DecodeAttention):
        return "extra arithmetic goes with single operations"
    if reason := unsupported_attention(work):
        return reason
    if work.kv not in CACHE_FORMATS or work.q_heads > ROWS * work.kv_heads:
        formats = ", ".join(CACHE_FORMATS)
        return f"extra arithmetic goes with a cache in {formats} and up to {ROWS} query heads a KV head"
    return None


def loaded_plan(plan: Plan) -> Plan:
    """The plan of a product with one row, with extra arithmetic. Its matrix has `constants` for scales."""
    if not isinstance(plan.variant, Dot):
        raise AssertionError(f"{type(plan.variant).__name__} is no Dot")
    return replace(plan, variant=replace(plan.variant, loaded=True))
