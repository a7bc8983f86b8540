"""What a model computes that Llama and Qwen do not, by name: a backend says which of it is missing before anything runs.

>>> from membound.kernels.models import get_model
>>> features(get_model("gemma-3-1b").decoder, tokens=1024)
('sliding windows', 'norms behind attention and MLP', 'GELU gates', 'several RoPEs', 'gains of the embedding')
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from membound.kernels.mixers import GatedDelta, Mamba2
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mlp
from membound.kernels.rope import LinearScaling, LongRopeScaling, ProportionalScaling, YarnScaling
from membound.kernels.steps import Prefill, Step

WINDOWS, CHUNKS = "sliding windows", "chunked attention"
SOFTCAPS, SINKS, SCALES = "softcaps of scores", "attention sinks", "scores with a scale of their own"
BOUNDS = frozenset({WINDOWS, CHUNKS, SOFTCAPS, SINKS})
"""What attention goes by besides which token comes before which."""
TEMPERATURES, L2_NORMS, WIDE_NORMS = "temperatures", "L2 norms of heads", "norms over all heads"
NO_ROPE, PART_ROPE, NEIGHBOURS = "layers without RoPE", "RoPE on a part of a head", "RoPE of neighbours"
LINEAR, YARN, LONGROPE, ROPES = "linearly scaled RoPE", "YaRN", "LongRoPE", "several RoPEs"
OTHER_BIASES, MLP_BIASES = "biases of attention but on q, k and v", "biases in the MLP"
GELU_GATES, GELU, RELU2 = "GELU gates", "exact GELU", "squared ReLU"
OUT_NORMS, PARALLEL, LAYER_NORM = "norms behind attention and MLP", "parallel halves", "LayerNorm"
RESIDUALS, LOGIT_GAINS, LOGIT_CAPS = "gains of residuals", "gains of logits", "softcaps of logits"
EMBEDDING_GAINS = "gains of the embedding"
"""Of no concern to a backend that is given hidden states; an engine looks tokens up itself."""
LATENT, EXPERTS, SHARED, SHARED_GATES = (
    "latent attention",
    "experts",
    "shared experts",
    "gates of shared experts",
)
SIGMOIDS, GROUPS, CORRECTIONS = "sigmoid routers", "groups of experts", "corrections of the choice of experts"
FACTORS, ON_INPUT = "factors of experts' shares", "shares that multiply what goes into experts"
EXPERT_BIASES, CLAMPED, DENSE_LAYERS = (
    "biases of experts",
    "clamped gates",
    "dense layers among those with experts",
)
UNEVEN_SHARES = "shares of experts that do not add up to 1"
DELTAS, MAMBAS, INDEXES = "gated DeltaNet", "Mamba-2", "attention with an indexer"
GATED, NARROW, NO_MLP = "gated attention", "values narrower than keys", "layers without an MLP"
UNGATED, RELU2_GATES = "experts without gates", "gates of squared ReLU"
TWO_WIDTHS, KEYS_AS_VALUES = "heads of two widths", "keys that are values"
VALUE_NORMS, LAYER_GAINS, PROPORTIONAL = "norms of values", "gains of layers", "proportional RoPE"
BESIDE, ROUTER_GAINS = "norms around experts beside an MLP", "gains of routers"
GEMMA_4 = frozenset(
    {TWO_WIDTHS, KEYS_AS_VALUES, VALUE_NORMS, LAYER_GAINS, PROPORTIONAL, BESIDE, ROUTER_GAINS}
)
MORE_WIDTHS = "heads of more than two widths"
NEWER = (
    frozenset({DELTAS, MAMBAS, INDEXES, GATED, NARROW, NO_MLP, UNGATED, RELU2_GATES, MORE_WIDTHS}) | GEMMA_4
)
"""What this year's hybrid models compute, and a backend has only where it says so."""

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
    | {
        LATENT,
        EXPERTS,
        SHARED,
        SHARED_GATES,
        SIGMOIDS,
        GROUPS,
        CORRECTIONS,
        FACTORS,
        ON_INPUT,
        EXPERT_BIASES,
        CLAMPED,
    }
    | {DENSE_LAYERS, UNEVEN_SHARES}
)
"""All of them but `NEWER`."""
SCALINGS = {
    LinearScaling: LINEAR, YarnScaling: YARN, LongRopeScaling: LONGROPE, ProportionalScaling: PROPORTIONAL,
}  # fmt: skip


def features(decoder: Decoder, tokens: int) -> tuple[str, ...]:
    """What of the above a decoder computes over `tokens` tokens in all; a window that holds all of them is none."""
    found = [name for layer in decoder.kinds for name in _of_layer(layer, tokens)]
    if len({layer.mixer.rope for layer in decoder.kinds if layer.mixer.rope}) > 1:
        found.append(ROPES)
    widths = {
        (layer.mixer.q_heads, layer.mixer.kv_heads, layer.mixer.head_dim, layer.mixer.keys_are_values)
        for layer in decoder.kinds
        if isinstance(layer.mixer, Attention)
    }
    if len(widths) > 1:
        found.append(TWO_WIDTHS if len(widths) == 2 else MORE_WIDTHS)
    if len({type(layer.mlp) for layer in decoder.kinds}) > 1:
        found.append(DENSE_LAYERS)
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
    return work.context + work.queries if isinstance(work, Step) else work.tokens


def bounded(work: Step | Prefill) -> bool:
    """Whether the model has any of `BOUNDS`."""
    return not BOUNDS.isdisjoint(features(work.shape.decoder, tokens_of(work)))


def missing(work: Step | Prefill, has: Collection[str] = ()) -> str | None:
    """Why a backend that has these features cannot run the work, or None."""
    lacking = [name for name in features(work.shape.decoder, tokens_of(work)) if name not in has]
    return f"{work.model} asks for {', '.join(lacking)}, which it lacks" if lacking else None


def _of_layer(layer: Layer, tokens: int) -> Iterator[str]:
    mixer, mlp = layer.mixer, layer.mlp
    there = {
        LATENT: isinstance(mixer, Latent),
        INDEXES: isinstance(mixer, Latent) and mixer.index is not None,
        DELTAS: isinstance(mixer, GatedDelta),
        MAMBAS: isinstance(mixer, Mamba2),
        NO_MLP: layer.norms == "half",
        OUT_NORMS: layer.norms in ("after", "both", "both_beside"),
        BESIDE: layer.norms == "both_beside",
        LAYER_GAINS: layer.gain,
        PARALLEL: layer.norms == "parallel",
        RESIDUALS: layer.residual != 1,
    }
    if isinstance(mixer, Attention):
        there = _of_attention(mixer, tokens) | there
    there |= _of_mlp(mlp) if isinstance(mlp, Mlp) else _of_experts(mlp)
    yield from (name for name, so in there.items() if so)
    rope = mixer.rope
    if isinstance(mixer, Attention) and rope is not None and type(rope.scaling) in SCALINGS:
        yield SCALINGS[type(rope.scaling)]


def _of_attention(mixer: Attention, tokens: int) -> dict[str, bool]:
    rope = mixer.rope
    return {
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
        GATED: mixer.gated,
        NARROW: mixer.value_dim not in (0, mixer.head_dim),
        KEYS_AS_VALUES: mixer.keys_are_values,
        VALUE_NORMS: mixer.value_norm,
    }


def _of_mlp(mlp: Mlp) -> dict[str, bool]:
    return {
        MLP_BIASES: mlp.bias,
        GELU_GATES: mlp.gated and mlp.activation == "gelu_tanh",
        GELU: mlp.activation == "gelu",
        RELU2: mlp.activation == "relu2" and not mlp.gated and mlp.width > 0,
        RELU2_GATES: mlp.activation == "relu2" and mlp.gated,
    }


def _of_experts(experts: Experts) -> dict[str, bool]:
    router = experts.router
    return {
        EXPERTS: True,
        SHARED: experts.shared is not None,
        SHARED_GATES: experts.shared_gate,
        SIGMOIDS: router.score == "sigmoid",
        GROUPS: router.groups > 1,
        CORRECTIONS: router.correction,
        ROUTER_GAINS: router.gains,
        FACTORS: router.factor != 1,
        UNEVEN_SHARES: not router.normalised,
        ON_INPUT: router.on_input,
        EXPERT_BIASES: experts.expert.bias or router.bias,
        CLAMPED: experts.expert.activation == "clamped",
        GELU_GATES: experts.expert.activation == "gelu_tanh",
        GELU: experts.expert.activation == "gelu",
        RELU2: experts.expert.activation == "relu2" and not experts.expert.gated,
        RELU2_GATES: experts.expert.activation == "relu2" and experts.expert.gated,
        UNGATED: not experts.expert.gated,
    }
