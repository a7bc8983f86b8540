"""Which models ONNX Runtime runs here, and why not others: by formats of weights and caches, and by what a model computes.

>>> from membound.kernels.work import parse
>>> model_reason(parse("step:model=llama-3-8b,weight=int8,kv=bf16"), "cpu", exports=False)
'ONNX Runtime has no attention over a bfloat16 cache on CPUs'
"""

from __future__ import annotations

from membound.backends.onnx_runtime.device import EXPORT
from membound.kernels import features
from membound.kernels.features import missing, tokens_of
from membound.kernels.parts import Attention, Latent
from membound.kernels.weights.formats import FORMATS
from membound.kernels.work import DecodeAttention, Prefill, RoutedExperts, Step

# Widths of heads that GroupQueryAttention takes, without and with RoPE: with others ONNX Runtime 1.31 builds
# the session and fails in the first launch.
HEAD_STEP, ROTATED_HEAD_STEP = 8, 16
KV_REASONS = {
    "bf16": "ONNX Runtime has no attention over a bfloat16 cache on CPUs",
    "int8": "ONNX Runtime's int8 cache has fixed scales, not one a token and head",
    "fp8": "attention over an fp8 cache is not among the graphs built here",
}
STEPS_ALONE = frozenset({features.WINDOWS, features.CHUNKS, features.LATENT})
"""A step's cache holds its window and no more; of a prompt ONNX Runtime would mask what lies before it, not skip it."""
LACKING = frozenset(
    {
        features.TEMPERATURES,
        features.L2_NORMS,
        features.ON_INPUT,
        features.LAYER_NORM,
        features.PARALLEL,
        features.GELU,
        features.RELU2,
    }
)
FEATURES = features.EVERY - LACKING
"""What a graph of a step that is built here computes beyond Llama and Qwen."""
EXPORTED = (features.EMBEDDING_GAINS,)


def model_reason(work: Step | Prefill, kind: str, exports: bool) -> str | None:
    """Why this provider does not run a model, or None. `exports`: as torch exports it."""
    has = FEATURES if isinstance(work, Step) else FEATURES - STEPS_ALONE
    if reason := missing(work, EXPORTED if exports else has):
        return reason
    if isinstance(work, Step) and work.queries > 1 and (reason := _several_reason(work, exports)):
        return reason
    if isinstance(work.shape.decoder.layers[0].mixer, Latent):
        if kind != "cpu":
            return "latent attention is built for the CPU provider alone"
        return "latent attention is built over a float32 cache" if work.kv != "f32" else None
    for layer in work.shape.decoder.kinds:
        rope = layer.mixer.rope
        if isinstance(layer.mixer, Attention) and rope is not None and rope.dim % ROTATED_HEAD_STEP:
            return f"GroupQueryAttention turns a multiple of {ROTATED_HEAD_STEP} columns of a head, not {rope.dim}"
    if work.kv == "f16" and exports:
        return f"+{EXPORT} has a float32 cache only"
    return attention_reason(work, kind)


def _several_reason(work: Step, exports: bool) -> str | None:
    """Why not a step of several queries a sequence."""
    if exports:
        return f"+{EXPORT} steps with one query a sequence, not {work.queries}"
    if isinstance(work.shape.decoder.layers[0].mixer, Latent):
        return None
    if work.batch > 1:
        return f"GroupQueryAttention takes several queries of one sequence, not of {work.batch}"
    if features.CHUNKS in features.features(work.shape.decoder, tokens_of(work)):
        return f"GroupQueryAttention has no mask of chunks for several queries a sequence, as {work.queries}"
    return None


def attention_reason(work: DecodeAttention | Step | Prefill, kind: str) -> str | None:
    """Why not over this cache or with heads of this width."""
    if isinstance(work, DecodeAttention):
        if work.queries > 1 and work.batch > 1:
            return f"GroupQueryAttention takes several queries of one sequence, not of {work.batch}"
        width, step, rotated = work.head_dim, HEAD_STEP, ""
    else:
        width, step, rotated = work.shape.head_dim, ROTATED_HEAD_STEP, " with RoPE"
    if width % step:
        return f"GroupQueryAttention takes heads of a multiple of {step}{rotated}, not {width}"
    if work.kv == "f16" and kind != "cpu":
        return "attention over a float16 cache is built for the CPU provider alone"
    return KV_REASONS.get(work.kv)


def experts_reason(work: RoutedExperts | Step | Prefill, kind: str) -> str | None:
    """Why not experts of this format, or on this provider."""
    if kind != "cpu":
        return "routed experts are built for the CPU provider alone"
    return "routed experts are built without zero points" if FORMATS[work.weight].zeros else None
