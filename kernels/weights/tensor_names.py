"""What Hugging Face's checkpoints call a model's tensors, family by family.

>>> from membound.kernels.models import get_model
>>> names = TensorNames(get_model("/models/phi-4"))
>>> names.matrix(0, "k")
Place(tensor='model.layers.0.self_attn.qkv_proj.weight', first=5120, stored=7680)

Several matrices may be stored as one, row on row; norms of Gemma are stored less one. Sources: huggingface/transformers,
models/*/modeling_*.py, version 5.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from membound.kernels.model import Model

MATRICES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
VECTORS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
}
_QKV, _GATE_UP = ("self_attn.qkv_proj", ("q", "k", "v")), ("mlp.gate_up_proj", ("gate", "up"))


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a family differs: matrices that are one tensor, the names of norms, what is added to a stored norm."""

    fused: tuple[tuple[str, tuple[str, ...]], ...] = ()
    vectors: Mapping[str, str] = field(default_factory=dict)
    plus: float = 0.0


_GEMMA = Stored(
    vectors={
        "attention_out_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_out_norm": "post_feedforward_layernorm",
    },
    plus=1.0,
)
FAMILIES = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "glm": Stored(fused=(_GATE_UP,)),
    "glm4": Stored(
        fused=(_GATE_UP,),
        vectors={"attention_out_norm": "post_self_attn_layernorm", "mlp_out_norm": "post_mlp_layernorm"},
    ),
    "olmo2": Stored(
        vectors={
            "attention_out_norm": "post_attention_layernorm",
            "mlp_out_norm": "post_feedforward_layernorm",
        }
    ),
    "phi3": Stored(fused=(_QKV, _GATE_UP)),
}
"""By model_type; others store as Llama does."""


WITHIN = ("model.language_model.", "language_model.model.")
"""Where a model that sees or hears keeps what others keep in `model.`."""


@dataclass(frozen=True, slots=True)
class Place:
    """Rows of a tensor from `first` on; it holds `stored` rows in all."""

    tensor: str
    first: int
    stored: int


class TensorNames:
    """Where the numbers of a model's parts stand in its files."""

    def __init__(self, model: Model, there: Collection[str] = (), family: str = "") -> None:
        """Names of the model's own family, or of another, where `there` are those of a folder."""
        self._model = model
        self._stored = FAMILIES.get(family or model.decoder.family, Stored())
        within = WITHIN if model.decoder.left_out else ()
        self._inner = next((one for one in within if any(name.startswith(one) for name in there)), "model.")
        outer = "language_model." if self._inner == "language_model.model." else ""
        self.embedding = f"{self._inner}embed_tokens.weight"
        self.final_norm = f"{self._inner}norm.weight"
        self.final_bias = f"{self._inner}norm.bias"
        self.lm_head = f"{outer}lm_head.weight"

    def layer_of(self, tensor: str) -> int | None:
        """The layer that a tensor is of."""
        found = re.match(rf"{re.escape(self._inner)}layers\.(\d+)\.", tensor)
        return int(found[1]) if found else None

    def writes(self, tensor: str) -> bool:
        """Whether a tensor is of the part that writes text, in a folder of a model that does more."""
        return (tensor.startswith(self._inner) and ".visual." not in tensor) or tensor == self.lm_head

    def _tensor(self, index: int, part: str, kind: str = "weight") -> str:
        return f"{self._inner}layers.{index}.{part}.{kind}"

    @property
    def plus(self) -> float:
        """What is added to a stored norm's gain."""
        return self._stored.plus

    def matrix(self, index: int, name: str) -> Place:
        """A matrix of layer `index`."""
        shapes = self._model.layer_matrices
        for tensor, names in self._stored.fused:
            if name in names:
                rows = [shapes[one][0] for one in names]
                return Place(self._tensor(index, tensor), sum(rows[: names.index(name)]), sum(rows))
        return Place(self._tensor(index, MATRICES[name]), 0, shapes[name][0])

    def vector(self, index: int, name: str) -> str:
        """A norm's gain or bias, or the bias of a matrix, of layer `index`."""
        if name == "sinks":
            return f"{self._inner}layers.{index}.self_attn.sinks"
        of = name.removesuffix("_bias")
        kind = "bias" if of != name else "weight"
        return self._tensor(index, {**MATRICES, **VECTORS, **self._stored.vectors}[of], kind)

    def vectors(self, index: int) -> Iterator[tuple[str, str, int]]:
        """(name, tensor, width) of each vector of layer `index`."""
        decoder = self._model.decoder
        for name, width in decoder.vector_widths(decoder.layers[index]).items():
            yield name, self.vector(index, name), width
