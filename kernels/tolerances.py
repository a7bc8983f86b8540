"""How far a correct backend may be from the reference, by the format of what it computes with.

>>> from membound.kernels.work import parse
>>> tolerance(parse("linear:n=8,k=32,weight=int8"))
0.008
"""

from __future__ import annotations

from math import sqrt

from membound.kernels.work import (
    DecodeAttention,
    LatentAttention,
    Linear,
    OnnxStep,
    Prefill,
    RoutedExperts,
    Work,
)

# Largest relative errors of correct arithmetic. Measured: the reference against itself with activations
# rounded as a runtime may round them (every intermediate, the worst case), on random inputs.
LINEAR_TOLERANCE = {
    "f32": 1e-4,  # float32 sums: 1e-6 at k = 16k; TF32-like shortcuts (5e-4) must fail
    "f16": 2e-3,  # x and y rounded to float16: 3e-4
    "bf16": 8e-3,  # x and y rounded to bfloat16: 2.4e-3
    "int8": 8e-3,  # weight only: runtimes compute these in bfloat16 too
    "int4g32": 8e-3,
    "int4g128": 8e-3,
    "int4g32z": 8e-3,
    "int4g128z": 8e-3,
    "q8_0": 8e-3,
    "q4_0": 8e-3,
    "q4_k": 8e-3,
    "fp8g128": 8e-3,
    "fp8b128": 8e-3,
    "mxfp4": 8e-3,
    "stored": 8e-3,
}
INT8_ACT_TOLERANCE = 0.03  # x quantised by block 0.010, asymmetric a row 0.012, to seven bits 0.020
ATTENTION_TOLERANCE = {
    "f32": 1e-4,
    "f16": 2e-3,  # the same in float16
    "bf16": 0.01,  # q, probabilities and output rounded to bfloat16: 0.002 to 0.008
    "fp8": 0.01,  # the same: only the cache is fp8. With q and probabilities in e4m3 too: 0.01 to 0.11
    "int8": 0.03,  # q quantised to int8 a head for integer products: 0.003 to 0.019
}
LONG_CONTEXT, LONG_ROOM = 16 << 10, 1.3
"""Probabilities in bfloat16 over more tokens than that: torch on a processor without bfloat16 reached 0.0102 at 32k."""
LATENT_ROOM = (
    2  # one row for all heads: q rounded to bfloat16 alone gives 0.003, in one of fifty cases 0.0095
)
ONNX_TOLERANCE = {name: LINEAR_TOLERANCE[name] for name in ("f16", "bf16", "int8")} | {
    "fp8": LINEAR_TOLERANCE["bf16"],
    "int4": LINEAR_TOLERANCE["int4g32"],
}
"""Of an exported decoder, by the format of its weights, as of a step."""
EXPERT_ROOM = 2
"""Two products, an activation and a sum follow each other: bfloat16 everywhere gives 0.0038 to 0.0048, twice what one product gives."""
EMPTY_STATE_ROOM = 2
"""Behind an empty state the first tokens' answers are sums of few terms, of which the norm of a head keeps the direction alone: bfloat16
everywhere gives 0.006 to 0.010 · sqrt(1 + layers) with gated DeltaNet, 0.004 to 0.007 with Mamba-2, in steps 0.002 (`dose-delta`, `dose-mamba`)."""
INT8_ACT_STEP_TOLERANCE = (
    0.055  # gated activations have long tails: seven bits give 0.04 to 0.05·sqrt(1 + layers)
)


def tolerance(work: Work) -> float:
    """The largest relative error that a correct backend may have on this work.

    Errors of layers are independent and add up in squares: a step and a prompt may have sqrt(1 + layers)
    times the error of their worst operation. Measured on Llama-3.2-1B with 16 layers, as a fraction of
    this bound: bfloat16 everywhere 0.5, int8 activations by block 0.35, to seven bits 0.8 to 0.9.
    """
    if isinstance(work, Linear):
        return INT8_ACT_TOLERANCE if work.act == "int8" else LINEAR_TOLERANCE[work.weight]
    if isinstance(work, LatentAttention):
        return LATENT_ROOM * ATTENTION_TOLERANCE[work.kv]
    if isinstance(work, DecodeAttention):
        room = LONG_ROOM if work.kv == "bf16" and work.context > LONG_CONTEXT else 1.0
        return room * ATTENTION_TOLERANCE[work.kv]
    if isinstance(work, OnnxStep):
        by_format = max(ONNX_TOLERANCE.get(work.weight, 0.0), ATTENTION_TOLERANCE[work.kv])
        return (INT8_ACT_STEP_TOLERANCE if work.act == "int8" else by_format) * sqrt(1 + work.bill.layers)
    if isinstance(work, RoutedExperts):
        one = INT8_ACT_TOLERANCE if work.act == "int8" else LINEAR_TOLERANCE[work.weight]
        return EXPERT_ROOM * one
    linears = INT8_ACT_STEP_TOLERANCE if work.act == "int8" else LINEAR_TOLERANCE[work.weight]
    empty = isinstance(work, Prefill) and any(work.shape.decoder.state_bytes)
    worst = max(linears, ATTENTION_TOLERANCE[work.kv]) * (EMPTY_STATE_ROOM if empty else 1)
    return worst * sqrt(1 + work.shape.layers)
