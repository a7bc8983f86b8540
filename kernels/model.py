"""The shape of a model in matrices, whoever it comes from: `models` has the built-in ones, `model_folder` reads others.

>>> from membound.kernels.models import get_model
>>> get_model("llama-3-8b").layer_matrices["down"]
(4096, 14336)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from membound.errors import MemboundError


class ModelError(MemboundError, ValueError):
    """A model is unknown, or its folder cannot be taken. The message names the file, the field and what is supported."""


@dataclass(frozen=True, slots=True)
class Model:
    """A dense decoder: RMSNorm, RoPE, grouped-query attention, gated or plain MLP, LM head.

    `rope_scaling` holds Llama 3's (factor, low_freq_factor, high_freq_factor, original_context) or ().
    `window` is how many tokens a layer with sliding-window attention sees, from layer `window_from` on; 0 where every
    layer sees all. `content` is what a folder is known by: a hash of its config.json and of its weights' headers.
    `assumed` are the fields that its config.json leaves to Transformers' defaults, with their values.
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
    content: str = field(default="", compare=False)
    assumed: tuple[str, ...] = field(default=(), compare=False)

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
        """The matrices of one layer as name -> (n, k), in the order of use."""
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
        """Matrix parameters that a step streams (the embedding table is not one of them unless tied)."""
        layer = sum(n * k for n, k in self.layer_matrices.values())
        return self.layers * layer + self.vocab * self.hidden

    def with_layers(self, layers: int) -> Model:
        """The same model with fewer layers; 0 keeps all."""
        if not layers:
            return self
        return replace(self, layers=layers, window=self.window if layers > self.window_from else 0)
