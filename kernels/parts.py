"""A decoder as layers of parts: what its matrices, its cache and its attention hold, whichever family it is of.

>>> attention = Attention(q_heads=32, kv_heads=8, head_dim=128, window=4096)
>>> layer = Layer(attention, Experts(count=8, chosen=2, expert=Mlp(14336)))
>>> model = Decoder("mixtral-8x7b", hidden=4096, vocab=32000, layers=(layer,) * 32)
>>> round(model.stored_weights / 1e9, 1), round(model.token_weights / 1e9, 1)
(46.7, 12.7)

Equal layers are one object, and `Decoder.kinds` has one to three entries in every model that is known here. Beside what they
hold, parts carry what is computed: that changes no count. `reference` and `forward` compute it. Formulas: docs/prediction.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf

from membound.kernels.mixers import ROPE_OF_NEIGHBOURS as ROPE_OF_NEIGHBOURS
from membound.kernels.mixers import GatedDelta, Mamba2, state_bytes
from membound.kernels.mixers import Latent as Latent
from membound.kernels.mixers import Matrices as Matrices
from membound.kernels.mixers import triangle as _triangle
from membound.kernels.mlps import Experts as Experts
from membound.kernels.mlps import Mlp as Mlp
from membound.kernels.mlps import Router as Router
from membound.kernels.mlps import size_of as _size
from membound.kernels.rope import Rope

PLAIN_ROPE = Rope()


@dataclass(frozen=True, slots=True)
class Attention:
    """Attention over keys and values of `kv_heads`, each shared by `q_heads / kv_heads` query heads.

    A token sees `window` tokens, itself included, or those since the last multiple of `chunk`; 0: all. `biases`: which of q, k,
    v and o have one. `head_norm`: norms of queries and keys, ``head`` (one gain of `head_dim` for all heads), ``all`` (all heads
    together), ``l2`` (no gain, and behind RoPE) or none. `sinks`: a learned logit a query head, in the denominator of softmax.

    `rope`: None where positions are not told. `scale` of scores; 0: 1/√head_dim. `softcap`: scores s become cap·tanh(s / cap).
    `temperature`: floor and slope of Llama 4's, ln(⌊(position + 1) / floor⌋ + 1) · slope + 1 times the query. `value_dim`: width of a
    value; 0: `head_dim`. `gated`: what comes out is multiplied by the sigmoid of one more product (Qwen3-Next). `keys_are_values`: one
    product makes both, which norms and RoPE then tell apart (Gemma 4). `value_norm`: a norm of each value, without a gain (Gemma 4).
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    window: int = 0
    chunk: int = 0
    biases: str = ""
    head_norm: str = ""
    sinks: bool = False
    rope: Rope | None = PLAIN_ROPE
    scale: float = 0.0
    softcap: float = 0.0
    temperature: tuple[float, float] | None = None
    value_dim: int = 0
    gated: bool = False
    keys_are_values: bool = False
    value_norm: bool = False

    def matrices(self, hidden: int) -> Matrices:
        """The four products or three, and that of a gate."""
        q, k = self.q_heads * self.head_dim, self.kv_heads * self.head_dim
        v, out = (heads * (self.value_dim or self.head_dim) for heads in (self.kv_heads, self.q_heads))
        gate = {"out_gate": (out, hidden)} if self.gated else {}
        values = {} if self.keys_are_values else {"v": (v, hidden)}
        return {"q": (q, hidden), "k": (k, hidden), **values, **gate, "o": (hidden, out)}

    def vectors(self, hidden: int) -> int:
        """Numbers of biases, norms' gains and sinks."""
        return sum(self.vector_widths(hidden).values())

    def vector_widths(self, hidden: int) -> Mapping[str, int]:
        """The same by name: q_norm and k_norm, q_bias and so on, sinks."""
        widths = {name: n for name, (n, _) in self.matrices(hidden).items()}
        normed = {"head": (self.head_dim,) * 2, "all": (widths["q"], widths["k"])}.get(self.head_norm, ())
        gains = dict(zip(("q_norm", "k_norm"), normed, strict=False))
        sinks = {"sinks": self.q_heads} if self.sinks else {}
        return gains | {f"{name}_bias": widths[name] for name in self.biases if name in widths} | sinks

    @property
    def gainless_norms(self) -> str:
        """Which of q, k and v have a norm of each head without a gain, q and k behind RoPE."""
        return "qk" * (self.head_norm == "l2") + "v" * self.value_norm

    @property
    def token_numbers(self) -> int:
        """Cached numbers a token."""
        return self.kv_heads * (self.head_dim + (self.value_dim or self.head_dim))

    @property
    def pair_flops(self) -> int:
        """FLOPs for a query token and a token that it sees."""
        return 2 * self.q_heads * (self.head_dim + (self.value_dim or self.head_dim))

    def seen(self, position: int) -> int:
        """Tokens before it that the token at `position` sees."""
        if self.chunk:
            return position % self.chunk
        return min(position, self.window - 1) if self.window else position

    def pairs(self, tokens: int) -> int:
        """Pairs of a token and one that it sees, itself among them, in a prompt of that many."""
        if self.chunk:
            whole, rest = divmod(tokens, self.chunk)
            return whole * _triangle(self.chunk) + _triangle(rest)
        full = min(tokens, self.window) if self.window else tokens
        return _triangle(full) + (tokens - full) * self.window


NORMS = {
    "before": ("attention_norm", "mlp_norm"),
    "after": ("attention_out_norm", "mlp_out_norm"),
    "both": ("attention_norm", "mlp_norm", "attention_out_norm", "mlp_out_norm"),
    "parallel": ("attention_norm",),
    "both_beside": (
        *("attention_norm", "mlp_norm", "attention_out_norm", "mlp_out_norm"),
        *("shared_out_norm", "experts_norm", "experts_out_norm"),
    ),
    "half": ("attention_norm",),
}
"""Where norms of the width of the model stand: on what goes into attention and MLP, on what comes out (OLMo 2), on both
(Gemma, GLM-4), one for both halves, which start from the same x (Cohere), on both and around experts beside an MLP (Gemma 4), or on the
mixer of a layer without an MLP (Nemotron-H)."""
Mixer = Attention | Latent | GatedDelta | Mamba2
"""What a layer's first half may be."""


@dataclass(frozen=True, slots=True)
class Layer:
    """Attention and an MLP or experts. `norms` as in `NORMS`; `residual`: what comes out of each half is multiplied by it (Granite).

    `gain`: what comes out of both is multiplied by a number of the layer's own (Gemma 4).
    """

    mixer: Mixer
    mlp: Mlp | Experts
    norms: str = "before"
    residual: float = 1.0
    gain: bool = False

    @property
    def attention(self) -> Attention | Latent:
        """The mixer of a layer that has a cache. Raises AssertionError where it has a state."""
        if isinstance(self.mixer, GatedDelta | Mamba2):
            raise AssertionError("a state, which has neither heads nor a cache")
        return self.mixer

    def streamed(self, hidden: int, tokens: float) -> float:
        """Numbers of the matrices that a pass over `tokens` tokens reads; infinitely many read all experts."""
        mixer = _size(self.mixer.matrices(hidden))
        if isinstance(self.mlp, Mlp):
            return mixer + _size(self.mlp.matrices(hidden))
        expert = _size(self.mlp.matrices(hidden))
        return mixer + self.mlp.always(hidden) + self.mlp.distinct(tokens) * expert


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model that decodes, by what its parts hold.

    `tied`: the LM head is the embedding table. `norm_vectors`: numbers a column that a norm has: 1 gain, 2 with a bias, 0 without
    either. `head_bias`: of the LM head. `folder`: where config.json lies; '' for a built-in one. `left_out`: what else it holds, in
    words. `norm`: rms or layer, with `eps` in it. The embedding is multiplied by `embedding_gain`, the logits l by `logit_gain`;
    they become cap·tanh(l / cap) with `logit_softcap`. `family`: its model_type. `not_known`: what of its arithmetic is not
    known here, in words; '' where all is.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied: bool = False
    norm_vectors: int = 1
    head_bias: bool = False
    folder: str = ""
    left_out: str = ""
    norm: str = "rms"
    eps: float = 1e-5
    embedding_gain: float = 1.0
    logit_gain: float = 1.0
    logit_softcap: float = 0.0
    family: str = ""
    not_known: str = ""
    kinds: Mapping[Layer, int] = field(init=False, repr=False, compare=False)
    """The layers that differ, with how many there are of each."""

    def __post_init__(self) -> None:
        seen: dict[Layer, Layer] = {}
        object.__setattr__(self, "layers", tuple(seen.setdefault(layer, layer) for layer in self.layers))
        object.__setattr__(self, "kinds", Counter(self.layers))

    @property
    def experts(self) -> bool:
        """Some layers route tokens to experts."""
        return any(isinstance(layer.mlp, Experts) for layer in self.kinds)

    def streamed_weights(self, tokens: float) -> float:
        """Weights that one pass over `tokens` tokens reads: every matrix once, of experts those that are expected."""
        layers = sum(count * layer.streamed(self.hidden, tokens) for layer, count in self.kinds.items())
        return layers + self.vocab * self.hidden

    @property
    def token_weights(self) -> float:
        """Weights that one token is multiplied by."""
        return self.streamed_weights(1)

    @property
    def stored_weights(self) -> float:
        """Weights of all matrices, the embedding table among them."""
        return self.streamed_weights(inf) + (0 if self.tied else self.vocab * self.hidden)

    @property
    def parameters(self) -> int:
        """All numbers of the model: matrices, norms, biases."""
        each = sum(
            count * (layer.mixer.vectors(self.hidden) + layer.mlp.vectors(self.hidden) + layer.gain)
            for layer, count in self.kinds.items()
        )
        norms = 1 + sum(count * len(NORMS[layer.norms]) for layer, count in self.kinds.items())
        head = self.vocab * self.head_bias
        return round(self.stored_weights) + each + norms * self.hidden * self.norm_vectors + head

    def vector_widths(self, layer: Layer) -> Mapping[str, int]:
        """Norms, biases and sinks of a layer by name with their widths, but those of experts.

        A norm that has a bias is followed by it: attention_norm, attention_norm_bias.
        """
        norms: dict[str, int] = {}
        for name in NORMS[layer.norms]:
            norms |= dict.fromkeys((name, f"{name}_bias")[: self.norm_vectors], self.hidden)
        gain = {"layer_gain": 1} if layer.gain else {}
        return {
            **layer.mixer.vector_widths(self.hidden), **norms, **layer.mlp.vector_widths(self.hidden), **gain,
        }  # fmt: skip

    @property
    def least_layers(self) -> int:
        """The first layers that hold each kind."""
        return max(self.layers.index(kind) for kind in self.kinds) + 1

    def cached_numbers(self, context: int) -> int:
        """Numbers of the cache of a sequence that a step at `context` reads and writes: those that it sees, its own, and an index's keys."""
        return sum(
            count
            * (layer.mixer.token_numbers * (layer.mixer.seen(context) + 1) + _keys(layer) * (context + 1))
            for layer, count in self.kinds.items()
        )

    @property
    def token_numbers(self) -> int:
        """Numbers that a token adds to the cache."""
        return sum(count * (layer.mixer.token_numbers + _keys(layer)) for layer, count in self.kinds.items())

    @property
    def state_bytes(self) -> tuple[int, int]:
        """Bytes of states that do not grow, which a step reads and writes for a sequence."""
        found = [
            (count, state_bytes(layer.mixer))
            for layer, count in self.kinds.items()
            if isinstance(layer.mixer, GatedDelta | Mamba2)
        ]
        return sum(count * read for count, (read, _) in found), sum(
            count * written for count, (_, written) in found
        )

    @property
    def state_flops(self) -> int:
        """FLOPs of those states for a token."""
        return sum(
            count * layer.mixer.token_flops
            for layer, count in self.kinds.items()
            if isinstance(layer.mixer, GatedDelta | Mamba2)
        )

    def attention_flops(self, context: int) -> int:
        """FLOPs of attention, indexes and states for one token after `context` others."""
        pairs = sum(
            count
            * (layer.mixer.pair_flops * (layer.mixer.seen(context) + 1) + _key_flops(layer) * (context + 1))
            for layer, count in self.kinds.items()
        )
        return pairs + self.state_flops

    def prompt_attention_flops(self, tokens: int) -> int:
        """FLOPs of causal attention, indexes and states within a prompt."""
        pairs = sum(
            count
            * (layer.mixer.pair_flops * layer.mixer.pairs(tokens) + _key_flops(layer) * _triangle(tokens))
            for layer, count in self.kinds.items()
        )
        return pairs + tokens * self.state_flops

    def with_layers(self, layers: int) -> Decoder:
        """The same model with its first layers; 0 keeps all."""
        return replace(self, layers=self.layers[:layers]) if layers else self


def _keys(layer: Layer) -> int:
    """Numbers of an index's key of a token."""
    return layer.mixer.index.token_numbers if isinstance(layer.mixer, Latent) and layer.mixer.index else 0


def _key_flops(layer: Layer) -> int:
    return layer.mixer.index.pair_flops if isinstance(layer.mixer, Latent) and layer.mixer.index else 0
