"""The model that a step or a prompt runs: a decoder, its shape in a few numbers and its layers as parts.

>>> from membound.kernels.models import get_model
>>> get_model("llama-3-8b").layer_matrices["down"]
(4096, 14336)
>>> get_model("gemma-3-1b").decoder.layers[0].mixer.window
512

The numbers describe a decoder as Llama and Qwen have it. Whatever else a model computes stands in its parts, which reference
and kernels go by: `membound.kernels.features` names it, so that a backend can say what it lacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

from membound.errors import MemboundError
from membound.kernels.parts import Attention, Decoder, Experts, Latent, Layer, Mlp
from membound.kernels.rope import Llama3Scaling, Rope

PLAIN = ("", "llama", "mistral", "qwen2", "qwen3")
"""Families whose files have Llama's names, and built-in shapes."""


class ModelError(MemboundError, ValueError):
    """A model is unknown, or its folder cannot be taken. The message names the file, the field and what is supported."""


class Storage(Protocol):
    """How a folder or a file stores matrices: `weights/stored` knows each way."""

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder: RMSNorm, RoPE, grouped-query attention, gated or plain MLP, LM head, or what its parts say.

    `rope_scaling` holds Llama 3's (factor, low_freq_factor, high_freq_factor, original_context) or ().
    `window` is how many tokens a layer with sliding-window attention sees, from layer `window_from` on; 0 where every
    layer sees all. `content` is what a folder is known by: a hash of its config.json and of its weights' headers.
    `scheme` says how the matrices are stored where they are quantised.
    `assumed` are the fields that its config.json leaves to Transformers' defaults, with their values. `parts`: the layers of a
    model that the other fields do not describe in full; None where they do.
    """

    name: str
    hidden: int
    layers: int
    q_heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    gated: bool = True
    rope_scaling: tuple[float, ...] = ()
    folder: str = ""
    window: int = 0
    window_from: int = 0
    scheme: Storage | None = None
    content: str = field(default="", compare=False)
    assumed: tuple[str, ...] = field(default=(), compare=False)
    parts: Decoder | None = field(default=None, repr=False)

    @property
    def dense(self) -> bool:
        """No experts and no latent attention, and all layers have matrices of the same shapes."""
        if self.parts is None:
            return True
        kinds, width = self.parts.kinds, self.hidden
        plain = all(isinstance(kind.mixer, Attention) and isinstance(kind.mlp, Mlp) for kind in kinds)
        shapes = ((*kind.mixer.matrices(width).items(), *kind.mlp.matrices(width).items()) for kind in kinds)
        return plain and len(set(shapes)) == 1

    @property
    def q_dim(self) -> int:
        """Width of all query heads together."""
        return self.q_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key heads together."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer of a dense model as name -> (n, k), in the order of use."""
        h, i = self.hidden, self.intermediate
        matrices = {
            "q": (self.q_dim, h),
            "k": (self.kv_dim, h),
            "v": (self.kv_dim, h),
            "o": (h, self.q_dim),
            "gate": (i, h),
            "up": (i, h),
            "down": (h, i),
        }
        if not self.gated:
            del matrices["gate"]
        return matrices

    @property
    def parameters(self) -> int:
        """Matrix parameters that a step of one sequence streams (the embedding table is not one of them unless tied)."""
        return round(self.decoder.token_weights)

    @property
    def decoder(self) -> Decoder:
        """The model as layers of parts."""
        return self.parts or _decoder(self)

    def with_layers(self, layers: int) -> Model:
        """The same model with fewer layers; 0 keeps all."""
        if not layers:
            return self
        window = self.window if layers > self.window_from else 0
        parts = self.parts.with_layers(layers) if self.parts else None
        return replace(self, layers=layers, window=window, parts=parts)


@lru_cache(maxsize=64)
def _decoder(model: Model) -> Decoder:
    """The parts of a model that its numbers describe."""
    scaling = Llama3Scaling(*model.rope_scaling) if model.rope_scaling else None
    attention = Attention(
        model.q_heads,
        model.kv_heads,
        model.head_dim,
        biases="qkv" if model.qkv_bias else "",
        head_norm="head" if model.qk_norm else "",
        rope=Rope(model.rope_theta, scaling=scaling),
    )
    mlp = Mlp(model.intermediate, model.gated, activation="silu" if model.gated else "gelu_tanh")
    layer = Layer(attention, mlp)
    late = replace(layer, mixer=replace(attention, window=model.window))
    layers = tuple(late if index >= model.window_from else layer for index in range(model.layers))
    return Decoder(
        model.name, model.hidden, model.vocab, layers, model.tied, folder=model.folder, eps=model.norm_eps
    )


def model_of(decoder: Decoder, content: str = "") -> Model:
    """A decoder as a model that is run. Raises ModelError for one whose arithmetic is not known.

    Of latent attention the numbers describe its cache: one KV head as wide as a row of it. `intermediate` is the widest MLP's.
    """
    if decoder.not_known:
        raise ModelError(decoder.not_known)
    mixer, width = _first_attention(decoder), max(_width(layer.mlp) for layer in decoder.kinds)
    scaling, mlp = mixer.rope.scaling if mixer.rope else None, decoder.layers[0].mlp
    model = Model(
        name=decoder.name,
        hidden=decoder.hidden,
        layers=len(decoder.layers),
        q_heads=mixer.q_heads,
        kv_heads=1 if isinstance(mixer, Latent) else mixer.kv_heads,
        head_dim=mixer.token_numbers if isinstance(mixer, Latent) else mixer.head_dim,
        intermediate=width,
        vocab=decoder.vocab,
        rope_theta=mixer.rope.theta if mixer.rope else 10000.0,
        norm_eps=decoder.eps,
        tied=decoder.tied,
        qkv_bias=isinstance(mixer, Attention) and {*"qkv"} <= {*mixer.biases},
        qk_norm=isinstance(mixer, Attention) and mixer.head_norm == "head",
        gated=mlp.gated if isinstance(mlp, Mlp) else mlp.expert.gated,
        rope_scaling=(scaling.factor, scaling.low, scaling.high, scaling.original)
        if isinstance(scaling, Llama3Scaling)
        else (),
        folder=decoder.folder,
        content=content,
    )
    if isinstance(mixer, Latent) or decoder.experts or decoder.layers[0].mixer is not mixer:
        return replace(model, parts=decoder)
    plain = replace(_decoder(model), family=decoder.family)
    return model if plain == decoder and decoder.family in PLAIN else replace(model, parts=decoder)


def _first_attention(decoder: Decoder) -> Attention | Latent:
    """The mixer of the first layer that has a cache. Raises ModelError for a model of states alone."""
    for layer in decoder.layers:
        if isinstance(layer.mixer, Attention | Latent):
            return layer.attention
    raise ModelError(f"{decoder.name}: a model without any attention is counted and not run here")


def _width(mlp: Mlp | Experts) -> int:
    """The width between the products of an MLP, of all experts that a token takes."""
    if isinstance(mlp, Mlp):
        return mlp.width
    return mlp.chosen * mlp.expert.width + (mlp.shared.width if mlp.shared else 0)
