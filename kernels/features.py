"""What a model computes that Llama and Qwen do not, by name: a backend says which of it is missing before anything runs.

>>> from membound.kernels.models import get_model
>>> features(get_model("gemma-3-1b").decoder, tokens=1024)
('sliding windows', 'norms behind attention and MLP', 'GELU gates', 'several RoPEs', 'gains of the embedding')
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from membound.kernels.parts import Attention, Decoder, Layer, Mlp
from membound.kernels.rope import LinearScaling, LongRopeScaling, YarnScaling
from membound.kernels.steps import Prefill, Step

WINDOWS, CHUNKS = "sliding windows", "chunked attention"
SOFTCAPS, SINKS, SCALES = "softcaps of scores", "attention sinks", "scores with a scale of their own"
TEMPERATURES, L2_NORMS, WIDE_NORMS = "temperatures", "L2 norms of heads", "norms over all heads"
NO_ROPE, PART_ROPE, NEIGHBOURS = "layers without RoPE", "RoPE on a part of a head", "RoPE of neighbours"
LINEAR, YARN, LONGROPE, ROPES = "linearly scaled RoPE", "YaRN", "LongRoPE", "several RoPEs"
OTHER_BIASES, MLP_BIASES = "biases of attention but on q, k and v", "biases in the MLP"
GELU_GATES, GELU, RELU2 = "GELU gates", "exact GELU", "squared ReLU"
OUT_NORMS, PARALLEL, LAYER_NORM = "norms behind attention and MLP", "parallel halves", "LayerNorm"
RESIDUALS, LOGIT_GAINS, LOGIT_CAPS = "gains of residuals", "gains of logits", "softcaps of logits"
EMBEDDING_GAINS = "gains of the embedding"
"""Of no concern to a backend that is given hidden states; an engine looks tokens up itself."""

EVERY = frozenset(
    {
        WINDOWS,
        CHUNKS,
        SOFTCAPS,
        SINKS,
        SCALES,
        TEMPERATURES,
        L2_NORMS,
        WIDE_NORMS,
        NO_ROPE,
        PART_ROPE,
        NEIGHBOURS,
    }
    | {LINEAR, YARN, LONGROPE, ROPES, OTHER_BIASES, MLP_BIASES, GELU_GATES, GELU, RELU2, OUT_NORMS, PARALLEL}
    | {LAYER_NORM, RESIDUALS, LOGIT_GAINS, LOGIT_CAPS, EMBEDDING_GAINS}
)
"""All of them."""
SCALINGS = {LinearScaling: LINEAR, YarnScaling: YARN, LongRopeScaling: LONGROPE}


def features(decoder: Decoder, tokens: int) -> tuple[str, ...]:
    """What of the above a dense decoder computes over `tokens` tokens in all; a window that holds all of them is none."""
    found = [name for layer in decoder.kinds for name in _of_layer(layer, tokens)]
    if len({layer.mixer.rope for layer in decoder.kinds if layer.mixer.rope}) > 1:
        found.append(ROPES)
    whole = {
        EMBEDDING_GAINS: decoder.embedding_gain != 1,
        LAYER_NORM: decoder.norm == "layer" or decoder.norm_vectors != 1,
        LOGIT_GAINS: decoder.logit_gain != 1,
        LOGIT_CAPS: decoder.logit_softcap != 0,
    }
    found += [name for name, there in whole.items() if there]
    return tuple(dict.fromkeys(found))


def tokens_of(work: Step | Prefill) -> int:
    """Tokens of a sequence in all."""
    return work.context + 1 if isinstance(work, Step) else work.tokens


def missing(work: Step | Prefill, has: Collection[str] = ()) -> str | None:
    """Why a backend that has these features cannot run the work, or None."""
    lacking = [name for name in features(work.shape.decoder, tokens_of(work)) if name not in has]
    return f"{work.model} asks for {', '.join(lacking)}, which it lacks" if lacking else None


def _of_layer(layer: Layer, tokens: int) -> Iterator[str]:
    mixer, mlp = layer.mixer, layer.mlp
    if not isinstance(mixer, Attention) or not isinstance(mlp, Mlp):
        raise AssertionError("no dense layer")
    rope = mixer.rope
    there = {
        WINDOWS: 0 < mixer.window < tokens,
        CHUNKS: 0 < mixer.chunk < tokens,
        OTHER_BIASES: mixer.biases not in ("", "qkv"),
        WIDE_NORMS: mixer.head_norm == "all",
        L2_NORMS: mixer.head_norm == "l2",
        SINKS: mixer.sinks,
        SCALES: mixer.scale not in (0, mixer.head_dim**-0.5),
        SOFTCAPS: mixer.softcap != 0,
        TEMPERATURES: mixer.temperature is not None,
        NO_ROPE: rope is None,
        PART_ROPE: rope is not None and rope.dim != 0,
        NEIGHBOURS: rope is not None and rope.neighbours,
        OUT_NORMS: layer.norms in ("after", "both"),
        PARALLEL: layer.norms == "parallel",
        RESIDUALS: layer.residual != 1,
        MLP_BIASES: mlp.bias,
        GELU_GATES: mlp.gated and mlp.activation == "gelu_tanh",
        GELU: mlp.activation == "gelu",
        RELU2: mlp.activation == "relu2",
    }
    yield from (name for name, so in there.items() if so)
    if rope is not None and type(rope.scaling) in SCALINGS:
        yield SCALINGS[type(rope.scaling)]
